"""How the synthetic set is drawn: scenes, things that move about, and a jointed figure, by Pillow.

A picture is drawn FINE times larger than its frame and then averaged down. Points are complex
numbers, x + iy: in pictures y goes down, in bodies up. All chance is of the generator given.
"""
import cmath
import colorsys
import math

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64               # pixels of a frame
FINE = 4                # a drawing has so many pixels for each of them
WIDE = SIZE * FINE      # pixels of a drawing
HALF = 127 * .7         # of a white pixel's grey, be it of a far, darker limb


def colour(rng, saturation, value, hue=(0., 1.)):
    """A random colour, three integers from 0 to 255."""
    h = rng.uniform(*hue)
    s = rng.uniform(*saturation)
    v = rng.uniform(*value)
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(h, s, v))


def pairs(*points):
    """Points as Pillow takes them."""
    return [(point.real, point.imag) for point in points]


def oval(pen, centre, w, h, fill):
    x, y = centre.real, centre.imag
    pen.ellipse([x - w, y - h, x + w, y + h], fill=fill)


# --------------------------------------------------------------------------------------------------
# What lies behind the figure

def paint_scene(rng, horizon):
    """A wall or sky down to row `horizon`, the floor, up to three objects; paler than the actor."""
    colours = [colour(rng, (0, .2), (.78, 1.)) for _ in range(3)]
    top, bottom, ground = np.array(colours)                          # (3,) each
    down = np.linspace(0, 1, WIDE)[:, None, None]                    # (WIDE, 1, 1)
    above = np.arange(WIDE)[:, None, None] < horizon
    picture = np.where(above, top + (bottom - top) * down, ground * (.7 + .3 * down))
    picture = Image.fromarray(picture.astype(np.uint8).repeat(WIDE, 1))
    for kind in rng.integers(4, size=rng.integers(1, 4)):
        paint_object(rng, ImageDraw.Draw(picture), kind, horizon)
    return picture


def paint_object(rng, pen, kind, horizon):
    place = rng.uniform((0, 0, 20, 20), (WIDE, horizon - 40, 70, 120))
    x, y, w, h = place.astype(int).tolist()
    paint = colour(rng, (0, .25), (.65, .95))
    if kind == 0:                                                    # a tree
        green = 160, 140 + paint[1] // 4, 150
        pen.rectangle([x - 5, horizon - h, x + 5, horizon], fill=(176, 160, 144))
        pen.ellipse([x - w / 2, horizon - h - w, x + w / 2, horizon - h + w / 3], fill=green)
    elif kind == 1:                                                  # a house with a door
        door = colour(rng, (0, .3), (.6, .9))
        pen.rectangle([x - w / 2, horizon - h, x + w / 2, horizon], fill=paint)
        pen.rectangle([x - w / 5, horizon - h * .6, x + w / 5, horizon], fill=door)
    elif kind == 2:                                                  # a window or the sun
        shape = pen.rectangle if rng.random() < .5 else pen.ellipse
        shape([x - w / 2, y, x + w / 2, y + w], fill=paint)
    else:                                                            # lines on the floor
        for k in range(0, WIDE, w):
            pen.line([k, WIDE, WIDE / 2 + (k - WIDE / 2) / 3, horizon], fill=paint, width=3)


class Distractor:
    """A ball, a balloon, a bird, a cart or a dog, which goes a way of its own."""
    RISE = {'ball': -60, 'balloon': 30, 'bird': 20, 'cart': 0, 'dog': 0}     # pixels up and down

    def __init__(self, rng, floor):
        self.kind = [*self.RISE][rng.integers(5)]
        self.colour = colour(rng, (.2, .6), (.5, .85))
        self.r = rng.uniform(9, 18)
        self.x = rng.uniform(.1, .9) * WIDE
        self.y = floor - 8
        if self.kind in ('balloon', 'bird'):
            self.y = rng.uniform(.1, .5) * WIDE
        self.reach = rng.uniform(.2, .6) * WIDE
        self.speed = rng.uniform(.2, .5)
        self.begin = rng.uniform(0, 6.3, 2).tolist()

    def paint(self, pen, t):
        r, fill = self.r, self.colour
        wave = math.sin(1.7 * self.speed * t + self.begin[1])
        if self.kind == 'ball':
            wave = abs(wave)                                         # it bounces
        at = complex(self.x + self.reach * math.sin(self.speed * t + self.begin[0]),
                     self.y + self.RISE[self.kind] * wave)
        if self.kind == 'bird':
            wing = complex(r / 4, 1.5 * r * math.sin(1.1 * t))
            oval(pen, at, r, r / 3, fill)
            pen.polygon(pairs(at - r / 2, at + r / 2, at - wing), fill=fill)
        elif self.kind in ('cart', 'dog'):
            legs, head = fill, at + complex(1.5 * r, -.8 * r)
            if self.kind == 'cart':
                legs, head = (40, 40, 40), at                        # wheels; the load
            box = pairs(at - complex(1.4 * r, .7 * r), at + complex(1.4 * r, .3 * r))
            pen.rectangle(box, fill=fill)
            oval(pen, head, .6 * r, .6 * r, fill)
            for side in (-.9, .9):
                oval(pen, at + complex(side * r, .5 * r), .4 * r, .5 * r, legs)
        else:
            oval(pen, at, r, r if self.kind == 'ball' else 1.2 * r, fill)
            oval(pen, at - r / 3 * (1 + 1j), r / 3, r / 3, (240, 240, 240))


# --------------------------------------------------------------------------------------------------
# The figure

LIMBS = 'arm1', 'arm2', 'leg1', 'leg2'


def skeleton(pose, half, body):
    """One pose (9,) in degrees -> joints {part: [points]} in body heights.

    The feet stand around x = 0, the lowest hand or foot at y = 0.
    half: half the shoulders' width; body: lengths of the torso, and of each half of an arm, a leg.
    """
    torso, *limbs = map(math.radians, pose)
    lean = cmath.rect(1, -torso)                  # turns what is said of an upright body
    neck = 1j * body[0]
    shoulder = neck - .05j
    roots = shoulder + half, shoulder - half, .6 * half, -.6 * half
    joints = {'torso': [0j, lean * neck, lean * (neck + .115j)]}
    for k, name in enumerate(LIMBS):
        length = body[1 + k // 2]
        root = lean * roots[k]
        bend = root - 1j * cmath.rect(length, limbs[2 * k])          # angle 0 hangs down
        joints[name] = [root, bend, bend - 1j * cmath.rect(length, limbs[2 * k + 1])]
    x = (joints['leg1'][2].real + joints['leg2'][2].real) / 2
    y = min(joints[name][2].imag for name in LIMBS)
    for name, points in joints.items():
        joints[name] = [point - complex(x, y) for point in points]
    return joints


CLOTHES = {    # saturation, value and, of the skin, hue
    'skin': ((.45, .7), (.35, .65), (.02, .1)),
    'shirt': ((.7, 1.), (.3, .6)),
    'trousers': ((.5, 1.), (.15, .45)),
    'shoes': ((0, .5), (.1, .3)),
    'hair': ((0, .6), (.1, .4)),
    'rings': ((.3, 1.), (.7, 1.)),             # of the shirt
    'trouser rings': ((.3, 1.), (.6, .9)),
}


class Figure:
    """A body in all its poses (n, 9), at a place, in clothes. half: half the shoulders' width."""

    def __init__(self, rng, half, poses):
        body = rng.uniform((.29, .165, .22), (.34, .185, .25)).tolist()    # torso, arm, leg
        self.half = half
        self.joints = [skeleton(pose, half, body) for pose in poses.tolist()]
        points = np.array([sum(joints.values(), []) for joints in self.joints])    # (n, points)
        self.left = points.real.min()                 # in body heights, of all poses
        self.right = points.real.max()
        self.top = points.imag.max()

    def place(self, rng, start, floor, height):
        self.height = float(height)                   # pixels of a body height
        self.origin = complex(start, floor)           # the pixel where x = y = 0
        self.thick = self.height * rng.uniform(1.1, 1.35)    # of a limb one body height wide
        self.clothes = {part: colour(rng, *ranges) for part, ranges in CLOTHES.items()}

    def at(self, point):
        return self.origin + self.height * point.conjugate()

    def limb(self, pen, p, q, width, paint, rings=None):
        """A line with round ends from p to q; rings show how it lies, all along it, as folds do."""
        p, q = self.at(p), self.at(q)
        r = width * self.thick / 2
        pen.line(pairs(p, q), fill=paint, width=int(2 * r))
        oval(pen, p, r, r, paint)
        oval(pen, q, r, r, paint)
        if rings is None:
            return
        length = abs(q - p)
        along = (q - p) / length
        across = r * 1j * along
        for s in np.arange(1.5 * FINE, length, 4.3 * FINE).tolist():
            middle = p + s * along
            pen.line(pairs(middle + across, middle - across), fill=rings, width=2 * FINE)

    def arm(self, pen, points, clothes):
        shoulder, elbow, hand = points
        self.limb(pen, elbow, hand, .075, clothes['skin'])
        self.limb(pen, shoulder, elbow, .095, clothes['shirt'], clothes['rings'])
        self.limb(pen, hand, hand, .09, clothes['skin'])

    def leg(self, pen, points, clothes):
        hip, knee, foot = points
        toe = foot + .06 if self.half < .1 else foot                 # seen from the side
        for p, q, width in [(knee, foot, .095), (hip, knee, .125)]:
            self.limb(pen, p, q, width, clothes['trousers'], clothes['trouser rings'])
        self.limb(pen, foot, toe, .09, clothes['shoes'])

    def torso(self, pen, points, clothes):
        pelvis, neck, head = points
        up = (neck - pelvis) / abs(neck - pelvis)
        across = -1j * up * self.half
        for side in (-.8 * across, 0, .8 * across):
            p, q = neck - .02 * up + side, pelvis + side
            self.limb(pen, p, q, .15, clothes['shirt'], clothes['rings'])
        self.limb(pen, pelvis - .5 * across, pelvis + .5 * across, .145, clothes['trousers'])
        self.limb(pen, neck, head, .07, clothes['skin'])
        self.limb(pen, head, head, .17, clothes['skin'])
        crown = head + .045 * up
        self.limb(pen, crown, crown, .14, clothes['hair'])

    def paint(self, pen, t, clothes):
        """At frame t, far limbs first, which are darker."""
        shaded = {}
        for part, paint in clothes.items():
            shaded[part] = tuple(int(.7 * light) for light in paint)
        joints = self.joints[t]
        self.arm(pen, joints['arm2'], shaded)
        self.leg(pen, joints['leg2'], shaded)
        self.leg(pen, joints['leg1'], clothes)
        self.torso(pen, joints['torso'], clothes)
        self.arm(pen, joints['arm1'], clothes)

    def silhouette(self, t):
        """White on black: where it is; > HALF after the averaging is its mask."""
        picture = Image.new('L', (WIDE, WIDE))
        self.paint(ImageDraw.Draw(picture), t, dict.fromkeys(CLOTHES, (255,)))
        return picture
