"""How the synthetic set is drawn: scenes, things that move about, and a jointed figure, by Pillow.

A picture is drawn FINE times larger than its frame and then averaged down. Points are pairs of
plain floats, since NumPy on two numbers is slow. All chance comes from the caller's generator.
"""
import colorsys
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64               # pixels of a frame
FINE = 4                # a drawing has so many pixels for each of them
WIDE = SIZE * FINE      # pixels of a drawing
HALF = 127 * .7         # of a white pixel's grey, be it of a far, darker limb


def colour(rng, saturation=(.3, .9), value=(.3, 1.), hue=(0., 1.)):
    """A random colour, three integers from 0 to 255."""
    h = rng.uniform(*hue)
    s = rng.uniform(*saturation)
    v = rng.uniform(*value)
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(h, s, v))


def dress(rng):
    """Colours of skin, shirt, trousers, shoes, hair, and of the rings of shirt and trousers."""
    return [
        colour(rng, (.45, .7), (.35, .65), (.02, .1)),
        colour(rng, (.7, 1.), (.3, .6)),
        colour(rng, (.5, 1.), (.15, .45)),
        colour(rng, (0, .5), (.1, .3)),
        colour(rng, (0, .6), (.1, .4)),
        colour(rng, (.3, 1.), (.7, 1.)),
        colour(rng, (.3, 1.), (.6, .9)),
    ]


def oval(pen, x, y, w, h, fill):
    pen.ellipse([x - w, y - h, x + w, y + h], fill=fill)


def paint_scene(rng, horizon):
    """A wall or sky down to row `horizon`, the floor, up to three objects; paler than the actor."""
    top = np.array(colour(rng, (0, .2), (.78, 1.)))
    bottom = np.array(colour(rng, (0, .2), (.78, 1.)))
    ground = np.array(colour(rng, (0, .2), (.78, 1.)))
    down = np.linspace(0, 1, WIDE)[:, None, None]                    # (WIDE, 1, 1)
    above = np.arange(WIDE)[:, None, None] < horizon
    picture = np.where(above, top + (bottom - top) * down, ground * (.7 + .3 * down))
    picture = np.broadcast_to(picture, (WIDE, WIDE, 3))
    picture = Image.fromarray(picture.astype(np.uint8))
    for kind in rng.integers(4, size=rng.integers(1, 4)):
        place = rng.uniform((0, 0, 20, 20), (WIDE, horizon - 40, 70, 120))
        x, y, w, h = place.astype(int).tolist()
        paint = colour(rng, (0, .25), (.65, .95))
        paint_object(rng, ImageDraw.Draw(picture), kind, x, y, w, h, paint, horizon)
    return picture


def paint_object(rng, pen, kind, x, y, w, h, paint, horizon):
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
        self.on_floor = self.kind in ('ball', 'cart', 'dog')
        self.y = floor - 8
        if not self.on_floor:
            self.y = rng.uniform(.1, .5) * WIDE
        self.reach = rng.uniform(.2, .6) * WIDE
        self.speed = rng.uniform(.2, .5)
        self.begin = rng.uniform(0, 6.3, 2).tolist()

    def paint(self, pen, t):
        r, fill = self.r, self.colour
        x = self.x + self.reach * math.sin(self.speed * t + self.begin[0])
        wave = math.sin(1.7 * self.speed * t + self.begin[1])
        if self.on_floor:
            wave = abs(wave)                                         # a ball bounces
        y = self.y + self.RISE[self.kind] * wave
        if self.kind == 'bird':
            wing = 1.5 * r * math.sin(1.1 * t)
            oval(pen, x, y, r, r / 3, fill)
            pen.polygon([(x - r / 2, y), (x + r / 2, y), (x - r / 4, y - wing)], fill=fill)
        elif self.on_floor and self.kind != 'ball':
            legs, head = fill, (x + 1.5 * r, y - .8 * r)
            if self.kind == 'cart':
                legs, head = (40, 40, 40), (x, y)                    # wheels; the load
            pen.rectangle([x - 1.4 * r, y - .7 * r, x + 1.4 * r, y + .3 * r], fill=fill)
            oval(pen, *head, .6 * r, .6 * r, fill)
            oval(pen, x - .9 * r, y + .5 * r, .4 * r, .5 * r, legs)
            oval(pen, x + .9 * r, y + .5 * r, .4 * r, .5 * r, legs)
        else:
            tall = {'ball': r, 'balloon': 1.2 * r}[self.kind]
            oval(pen, x, y, r, tall, fill)
            oval(pen, x - r / 3, y - r / 3, r / 3, r / 3, (240, 240, 240))


def along(start, length, angle):
    """The point `length` from `start` in the direction `angle`, radians from hanging down."""
    return start[0] + length * math.sin(angle), start[1] - length * math.cos(angle)


def skeleton(pose, half, body):
    """One pose (9,) in degrees -> joints {name: [points (x right, y up)]} in body heights.

    The feet stand around x = 0, the lowest hand or foot at y = 0.
    half: half the shoulders' width; body: lengths of the torso, and of each half of an arm, a leg.
    """
    torso, *limbs = [math.radians(angle) for angle in pose]
    up = math.sin(torso), math.cos(torso)
    neck = body['torso'] * up[0], body['torso'] * up[1]
    head = body['torso'] + .115
    joints = {'torso': [(0., 0.), neck], 'head': [neck, (head * up[0], head * up[1])]}
    shoulder = body['torso'] - .05
    roots = {                                     # (across, up) from the pelvis
        'arm1': (half, shoulder),
        'arm2': (-half, shoulder),
        'leg1': (.6 * half, 0),
        'leg2': (-.6 * half, 0),
    }
    for k, (name, (across, height)) in enumerate(roots.items()):
        length = body[name[:3]]
        root = across * up[1] + height * up[0], -across * up[0] + height * up[1]
        bend = along(root, length, limbs[2 * k])
        joints[name] = [root, bend, along(bend, length, limbs[2 * k + 1])]
    x = (joints['leg1'][2][0] + joints['leg2'][2][0]) / 2
    y = min(joints[name][2][1] for name in roots)
    placed = {}
    for name, points in joints.items():
        placed[name] = [(p[0] - x, p[1] - y) for p in points]
    return placed


@dataclass
class Figure:
    """A body at a place; each part is painted in the clothes given."""
    half: float      # half the shoulders' width, in body heights
    start: float     # pixels from the left to x = 0
    floor: float     # pixels from the top to y = 0
    height: float    # pixels of a body height
    thick: float     # pixels of a limb that is one body height wide
    clothes: list    # as `dress` draws them

    def at(self, point):
        return self.start + self.height * point[0], self.floor - self.height * point[1]

    def limb(self, pen, p, q, width, paint, rings=None):
        """A line with round ends from p to q; rings show how it lies, all along it, as folds do."""
        (px, py), (qx, qy) = self.at(p), self.at(q)
        r = width * self.thick / 2
        pen.line([px, py, qx, qy], fill=paint, width=int(2 * r))
        oval(pen, px, py, r, r, paint)
        oval(pen, qx, qy, r, r, paint)
        if rings is None:
            return
        length = math.hypot(qx - px, qy - py)
        dx, dy = (qx - px) / length, (qy - py) / length
        s = 1.5 * FINE
        while s < length:
            x, y = px + s * dx, py + s * dy
            pen.line([x - r * dy, y + r * dx, x + r * dy, y - r * dx], fill=rings, width=2 * FINE)
            s += 4.3 * FINE

    def arm(self, pen, points, clothes):
        skin, shirt, _, _, _, rings, _ = clothes
        shoulder, elbow, hand = points
        self.limb(pen, elbow, hand, .075, skin)
        self.limb(pen, shoulder, elbow, .095, shirt, rings)
        self.limb(pen, hand, hand, .09, skin)

    def leg(self, pen, points, clothes):
        _, _, trousers, shoes, _, _, rings = clothes
        hip, knee, foot = points
        toe = foot
        if self.half < .1:                                           # seen from the side
            toe = foot[0] + .06, foot[1]
        self.limb(pen, knee, foot, .095, trousers, rings)
        self.limb(pen, hip, knee, .125, trousers, rings)
        self.limb(pen, foot, toe, .09, shoes)

    def torso(self, pen, joints, clothes):
        skin, shirt, trousers, _, hair, rings, _ = clothes
        (px, py), (nx, ny) = joints['torso']
        length = math.hypot(nx - px, ny - py)
        ux, uy = (nx - px) / length, (ny - py) / length              # up
        ax, ay = self.half * uy, -self.half * ux                     # across
        for side in (-.8, 0, .8):
            neck = nx - .02 * ux + side * ax, ny - .02 * uy + side * ay
            self.limb(pen, neck, (px + side * ax, py + side * ay), .15, shirt, rings)
        self.limb(pen, (px - .5 * ax, py - .5 * ay), (px + .5 * ax, py + .5 * ay), .145, trousers)
        head = joints['head'][1]
        crown = head[0] + .045 * ux, head[1] + .045 * uy
        self.limb(pen, (nx, ny), head, .07, skin)
        self.limb(pen, head, head, .17, skin)
        self.limb(pen, crown, crown, .14, hair)

    def paint(self, pen, joints, clothes):
        """Far limbs first, which are darker."""
        shaded = [tuple((.7 * np.array(paint)).astype(int).tolist()) for paint in clothes]
        self.arm(pen, joints['arm2'], shaded)
        self.leg(pen, joints['leg2'], shaded)
        self.leg(pen, joints['leg1'], clothes)
        self.torso(pen, joints, clothes)
        self.arm(pen, joints['arm1'], clothes)

    def silhouette(self, joints):
        """White on black: where it is; > HALF after the averaging is its mask."""
        picture = Image.new('L', (WIDE, WIDE))
        self.paint(ImageDraw.Draw(picture), joints, [(255,)] * len(self.clothes))
        return picture
