"""The synthetic set, made in memory."""
import colorsys
from functools import cached_property

import numpy as np
import torch
from PIL import Image, ImageDraw

from datasets.layout import DataSet
from datasets.video import Video


# ---------------------------------------------------------------------------------------------------------------------
# The synthetic set: an articulated figure acts out five actions of four phases, 64 x 64 pixels, made in memory.
#
# A stand-in for Penn Action that needs no download: every frame has its phase label and the mask of the actor. A video
# begins and ends in the same idle pose for a random time and its phases have log-normal lengths, so that the time in
# the video says little; the way down looks like the way up, so that one frame alone says little too. Body, clothes,
# size, place, scene and three moving distractors are drawn anew for every video; rings around the clothed limbs show how
# they lie, anywhere on them, as folds and muscles do.

SIZE, FINE = 64, 4                                  # pixels of a frame; drawn FINE times larger, then averaged down

# A pose is nine angles in degrees: torso (from upright, + leans to the right), then upper and lower part of arm 1,
# arm 2, leg 1, leg 2 (from hanging down, + swings to the right). Limb 1 is the near one, or in a view from the front
# the one on the right.
STAND = (2, 10, 18, -6, 4, 4, -2, -4, -6)
FRONT = (0, 14, 8, -14, -8, 6, 4, -6, -4)
GOLF = (0, -24, -14, 24, 14, 12, 10, -12, -10)
LIE = (-84, 60, 150, 50, 140, 124, 22, 118, 16)
# action: (half the shoulders' width, idle pose, [(phase, pose at its end, mean frames), ...]). Phase 0 is the idle
# pose before; the idle pose after belongs to the last phase.
ACTIONS = {
    'squat': (.03, STAND, [(1, (36, 78, 88, 72, 82, 92, -30, 84, -32), 16), (2, STAND, 14), (3, STAND, 0)]),
    'jumping_jacks': (.115, FRONT, [(1, (0, 150, 168, -150, -168, 30, 26, -30, -26), 14), (2, FRONT, 13),
                                    (3, FRONT, 0)]),
    'situp': (.03, LIE, [(1, (14, 70, 120, 60, 110, 126, 20, 120, 14), 16), (2, LIE, 14), (3, LIE, 0)]),
    'baseball_pitch': (.05, STAND, [(1, (-16, -110, -165, 62, 100, -2, -4, 86, -4), 12),
                                    (2, (30, 84, 66, -40, -70, -28, -48, 40, 4), 9), (3, STAND, 10)]),
    'golf_swing': (.10, GOLF, [(1, (-8, -128, -140, -104, -140, 14, 0, -12, -14), 12),
                               (2, (8, 108, 144, 128, 146, 12, 14, -22, -2), 9), (3, GOLF, 10)]),
}


class Act:
    """One act, the source of a Video: its course is fixed at once, its frames are drawn when first read and kept."""

    def __init__(self, action, seed):
        self.action, self.seed = action, seed
        self.poses, self.labels = perform(action, np.random.default_rng((*seed, 0)))

    @cached_property
    def drawn(self):
        return draw(self.action, self.poses, self.labels, np.random.default_rng((*self.seed, 1)))

    def count(self):
        return len(self.labels)

    def decode(self, indices):
        return self.drawn[0][torch.as_tensor(indices)]

    def mask(self, indices):
        return self.drawn[1][torch.as_tensor(indices)]

    def annotate(self, _):
        return self.labels


def synthetic(seed=0, train=24, val=12):
    """{'train': [Video], 'val': [Video]} with `train` and `val` videos of each action, the same for the same seed."""
    videos = {'train': [], 'val': []}
    for (split, listed), size in zip(videos.items(), (train, val)):
        for number, action in enumerate(ACTIONS):
            for k in range(size):
                act = Act(action, (seed, split == 'val', number, k))
                listed.append(Video(f'{action}/{split}_{k:02d}', act.count, act.decode, action, act.annotate, act.mask))
    return videos


def perform(action, rng):
    """The action once, between two idle stretches -> poses (n, 9) in degrees, phase labels (n,) int64."""
    _, idle, steps = ACTIONS[action]
    effort = rng.uniform(.8, 1.1)                                    # how far this actor moves from the idle pose
    rest, early = rng.uniform(12, 38), rng.beta(.5, .5)              # idle frames in all, the part of them before
    last = np.array(idle, float)
    poses, labels = [last] * max(2, round(rest * early)), [0] * max(2, round(rest * early))
    for phase, goal, mean in steps:
        goal = idle + effort * np.subtract(goal, idle) + rng.normal(0, 5, 9) * (goal != idle)
        n = max(3, round(mean * rng.lognormal(0, .8))) if mean else 0
        for x in np.arange(1, n + 1) / max(n, 1):
            poses.append(last + (3 * x ** 2 - 2 * x ** 3) * (goal - last))       # speeds up, slows down
            labels.append(phase)
        last = goal
    after = max(2, round(rest * (1 - early)))
    poses, labels = np.array(poses + [last] * after), np.array(labels + [phase] * after, np.int64)
    sway = np.sin(np.arange(len(poses))[:, None] * rng.uniform(.1, .4, 9) + rng.uniform(0, 6.3, 9))
    return poses + rng.normal(0, 2, 9) + 1.5 * sway, labels


def skeleton(pose, half, body):
    """One pose (9,) -> joints {name: [points (x right, y up)]} in body heights; the feet around x = 0, lowest y = 0."""
    torso, *limbs = np.radians(pose)
    towards = lambda angle: np.array([np.sin(angle), -np.cos(angle)])
    up = -towards(-torso)
    across = np.array([up[1], -up[0]])
    joints = {'torso': [np.zeros(2), body['torso'] * up], 'head': [body['torso'] * up, (body['torso'] + .115) * up]}
    for k, name in enumerate(('arm1', 'arm2', 'leg1', 'leg2')):
        length = body['arm'] if k < 2 else body['leg']
        root = half * (1, -1, .6, -.6)[k] * across + (body['torso'] - .05) * (k < 2) * up
        bend = root + length * towards(limbs[2 * k])
        joints[name] = [root, bend, bend + length * towards(limbs[2 * k + 1])]
    ends = np.array([joints[name][2] for name in ('arm1', 'arm2', 'leg1', 'leg2')])
    origin = np.array([ends[2:, 0].mean(), ends[:, 1].min()])
    return {name: [p - origin for p in points] for name, points in joints.items()}


def colour(rng, saturation=(.3, .9), value=(.3, 1.), hue=(0., 1.)):
    """A random colour, three integers from 0 to 255."""
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(*(rng.uniform(*span) for span in (hue, saturation, value))))


def paint_scene(rng, horizon):
    """The background of a video: wall or sky over the row `horizon`, the floor, one to four objects."""
    size = SIZE * FINE
    top, bottom, ground = (np.array(colour(rng, (0, .2), (.78, 1.))) for _ in range(3))
    down = np.linspace(0, 1, size)[:, None, None]
    picture = np.where(np.arange(size)[:, None, None] < horizon, top + (bottom - top) * down, ground * (.7 + .3 * down))
    picture = Image.fromarray(np.broadcast_to(picture, (size, size, 3)).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for kind in rng.integers(4, size=rng.integers(1, 4)):
        x, y, w, h = (int(v) for v in rng.uniform((0, 0, 20, 20), (size, horizon - 40, 70, 120)))
        paint = colour(rng, (0, .25), (.65, .95))                        # the scene is paler than the actor
        if kind == 0:                                                # a tree
            pen.rectangle([x - 5, horizon - h, x + 5, horizon], fill=(176, 160, 144))
            pen.ellipse([x - w / 2, horizon - h - w, x + w / 2, horizon - h + w / 3],
                        fill=(160, 140 + paint[1] // 4, 150))
        elif kind == 1:                                              # a house with a door
            pen.rectangle([x - w / 2, horizon - h, x + w / 2, horizon], fill=paint)
            pen.rectangle([x - w / 5, horizon - h * .6, x + w / 5, horizon], fill=colour(rng, (0, .3), (.6, .9)))
        elif kind == 2:                                              # a window or the sun
            (pen.rectangle if rng.random() < .5 else pen.ellipse)([x - w / 2, y, x + w / 2, y + w], fill=paint)
        else:                                                        # lines on the floor
            for k in range(0, size, w):
                pen.line([k, size, size / 2 + (k - size / 2) / 3, horizon], fill=paint, width=3)
    return picture


def paint_distractor(rng, floor):
    """A ball, a balloon, a bird, a cart or a dog with a way of its own -> function of the frame number that paints it."""
    size, kind, paint, r = SIZE * FINE, rng.integers(5), colour(rng, (.2, .6), (.5, .85)), rng.uniform(9, 18)
    low = kind in (0, 3, 4)                                          # it moves on the floor
    cx, cy = rng.uniform(.1, .9) * size, floor - 8 if low else rng.uniform(.1, .5) * size
    wide, high = rng.uniform(.2, .6) * size, (-60, 30, 20, 0, 0)[kind]
    speed, (a, b) = rng.uniform(.2, .5), rng.uniform(0, 6.3, 2)

    def at(pen, t):
        x, y = cx + wide * np.sin(speed * t + a), np.sin(1.7 * speed * t + b)
        y = cy + high * (abs(y) if low else y)
        oval = lambda dx, dy, w, h, fill=paint: pen.ellipse([x + dx - w, y + dy - h, x + dx + w, y + dy + h], fill=fill)
        if kind <= 1:
            oval(0, 0, r, r * (1 + .2 * kind))
            oval(-r / 3, -r / 3, r / 3, r / 3, (240, 240, 240))
        elif kind == 2:
            oval(0, 0, r, r / 3)
            pen.polygon([(x - r / 2, y), (x + r / 2, y), (x - r / 4, y - 1.5 * r * np.sin(1.1 * t))], fill=paint)
        else:
            pen.rectangle([x - 1.4 * r, y - .7 * r, x + 1.4 * r, y + .3 * r], fill=paint)
            oval((kind == 4) * 1.5 * r, (kind == 4) * -.8 * r, .6 * r, .6 * r)
            for side in (-1, 1):
                oval(side * .9 * r, .5 * r, .4 * r, .5 * r, (40, 40, 40) if kind == 3 else paint)
    return at


def paint_figure(pen, joints, half, at, thick, clothes):
    """The actor, far limbs first. at: body heights -> pixels; thick: pixels of a limb one body height wide."""
    skin, shirt, trousers, shoes, hair, shirt_rings, trouser_rings = clothes
    shade = lambda paint: tuple(int(.7 * c) for c in paint)

    def limb(p, q, width, paint, rings=None):
        p, q, r = np.array(at(p)), np.array(at(q)), width * thick / 2
        pen.line([*p, *q], fill=paint, width=int(2 * r))
        for end in (p, q):
            pen.ellipse([*(end - r), *(end + r)], fill=paint)
        if rings:                                                    # they show how the limb lies, anywhere on it
            length = np.linalg.norm(q - p)
            along = (q - p) / length
            across = r * np.array([along[1], -along[0]])
            for s in np.arange(1.5 * FINE, length, 4.3 * FINE):
                pen.line([*(p + s * along - across), *(p + s * along + across)], fill=rings, width=2 * FINE)

    def arm(points, light):
        limb(points[1], points[2], .075, light(skin))
        limb(points[0], points[1], .095, light(shirt), light(shirt_rings))
        limb(points[2], points[2], .09, light(skin))

    def leg(points, light):
        limb(points[1], points[2], .095, light(trousers), light(trouser_rings))
        limb(points[0], points[1], .125, light(trousers), light(trouser_rings))
        limb(points[2], points[2] + np.array([.06 * (half < .1), 0]), .09, light(shoes))

    pelvis, neck = joints['torso']
    up = (neck - pelvis) / np.linalg.norm(neck - pelvis)
    across = half * np.array([up[1], -up[0]])
    arm(joints['arm2'], shade)
    leg(joints['leg2'], shade)
    leg(joints['leg1'], lambda paint: paint)
    for side in (-.8, 0, .8):
        limb(neck - .02 * up + side * across, pelvis + side * across, .15, shirt, shirt_rings)
    limb(pelvis - .5 * across, pelvis + .5 * across, .145, trousers)
    head = joints['head'][1]
    limb(neck, head, .07, skin)
    limb(head, head, .17, skin)
    limb(head + .045 * up, head + .045 * up, .14, hair)
    arm(joints['arm1'], lambda paint: paint)


def draw(action, poses, labels, rng):
    """-> frames uint8 (n, 3, SIZE, SIZE), masks of the actor (without what it holds) bool (n, SIZE, SIZE)."""
    size, half = SIZE * FINE, ACTIONS[action][0]
    body = {'torso': rng.uniform(.29, .34), 'arm': rng.uniform(.165, .185), 'leg': rng.uniform(.22, .25)}
    joints = [skeleton(pose, half, body) for pose in poses]
    points = np.array([p for j in joints for points in j.values() for p in points])
    (left, _), (right, top) = points.min(0) - .1, points.max(0) + .12
    height = FINE * min(rng.uniform(47, 56), (SIZE - 6) / top, (SIZE + 2) / (right - left))  # pixels of a body height
    floor = int(rng.uniform(min(size - 8, max(height * top + 8, .72 * size)), size - 8))
    start = rng.uniform(*sorted((0, size - height * (right - left)))) - height * left
    at = lambda p: (start + height * p[0], floor - height * p[1])
    thick = height * rng.uniform(1.1, 1.35)
    clothes = [colour(rng, (.45, .7), (.35, .65), (.02, .1)), colour(rng, (.7, 1.), (.3, .6)),     # skin, shirt,
               colour(rng, (.5, 1.), (.15, .45)), colour(rng, (0, .5), (.1, .3)), colour(rng, (0, .6), (.1, .4)),
               colour(rng, (.3, 1.), (.7, 1.)), colour(rng, (.3, 1.), (.6, .9))]                    # rings of both
    scene = paint_scene(rng, int(floor - rng.uniform(0, 24)))
    distractors = [paint_distractor(rng, floor) for _ in range(3)]
    frames, masks = [], []
    for t, j in enumerate(joints):
        picture, mask = scene.copy(), Image.new('L', (size, size))
        pen = ImageDraw.Draw(picture)
        for distractor in distractors:
            distractor(pen, t)
        bend, hand = (np.array(p) for p in j['arm1'][1:])
        if action == 'golf_swing':
            pen.line([*at(hand), *at(hand + 1.7 * (hand - bend))], fill=(30, 30, 30), width=6)
        if action == 'baseball_pitch' and labels[t] < 2:             # until it is thrown
            x, y = at(hand + .4 * (hand - bend))
            pen.ellipse([x - 11, y - 11, x + 11, y + 11], fill=(250, 250, 250))
        paint_figure(pen, j, half, at, thick, clothes)
        paint_figure(ImageDraw.Draw(mask), j, half, at, thick, [(255,)] * 7)
        frames.append(np.asarray(picture.reduce(FINE)))
        masks.append(np.asarray(mask.reduce(FINE)))
    frames, masks = np.stack(frames).transpose(0, 3, 1, 2), np.stack(masks) > 127 * .7
    if rng.random() < .5:
        frames, masks = frames[..., ::-1], masks[..., ::-1]
    return torch.from_numpy(frames.copy()), torch.from_numpy(masks.copy())


ROW = DataSet(synthetic, 'made in memory', on_disk=False)
