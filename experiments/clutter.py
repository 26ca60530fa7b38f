"""Scenes in which pooling everything should hurt, for experiments/experiment.py.

A small actor among people who stand, leaves that flicker, a camera held by hand; and the garden,
which came of them. A scene has the methods of datasets.synthetic.Stage: frame(t), uint8 (3, S, S),
and mask(t), bool (S, S).
"""
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from datasets.drawing import FINE, HALF, SIZE, WIDE
from datasets.drawing import Distractor, Figure, colour, draw_body, dress, paint_scene
from datasets.drawing import skeleton
from datasets.garden import Garden, beside, paint_leaves
from datasets.synthetic import ACTIONS, FRONT, STAND, Stage, paint_held

MARGIN = 24             # pixels of the drawing on each side that the camera may lose


class Clutter:
    """tall: of the actor and the others, in pixels of a frame before the camera's crop; people who
    stand; leaves, drawn anew in every frame, anywhere or `apart` from the actor; movers:
    distractors; shake: the camera's standard deviation in pixels of the drawing."""

    def __init__(self, action, poses, labels, rng, *, tall=(26, 34), people=3, leaves=140,
                 movers=1, shake=10., apart=False):
        self.action = action
        self.labels = labels
        self.leaves = leaves
        half = ACTIONS[action][0]
        floor = rng.uniform(.6, .9) * WIDE
        self.joints, self.actor = place(rng, poses.tolist(), half, floor, tall)
        self.scene = paint_scene(rng, int(floor - rng.uniform(20, 60)))
        pen = ImageDraw.Draw(self.scene)
        for _ in range(people):
            idle, half = [(STAND, .03), (FRONT, .115)][rng.integers(2)]
            pose = (np.array(idle) + rng.normal(0, 6, 9)).tolist()
            (joints,), other = place(rng, [pose], half, floor - rng.uniform(-10, 30), tall)
            other.paint(pen, joints, other.clothes)
        self.bushes = []
        while len(self.bushes) < 6:
            centre = rng.uniform(0, WIDE, 2)
            reach = rng.uniform(30, 80, 2)
            paint = colour(rng, (.1, .8), (.3, .9))
            if not apart or self.beside_actor(centre, reach):
                self.bushes.append((centre, reach, paint))
        self.distractors = [Distractor(rng, floor) for _ in range(movers)]
        self.mirrored = rng.random() < .5
        self.seed = int(rng.integers(2 ** 31))
        steps = rng.normal(0, shake, (len(poses) + 2, 2))
        camera = (steps[2:] + steps[1:-1] + steps[:-2]) / 3 ** .5    # neighbouring frames are alike
        self.camera = np.clip(MARGIN + camera, 0, 2 * MARGIN)        # (n, 2)

    def beside_actor(self, centre, reach):
        """Does a bush lie outside of all that the actor will cover?"""
        points = [np.concatenate(list(joints.values())) for joints in self.joints]
        points = np.concatenate(points)
        left, top = self.actor.at((points[:, 0].min(), points[:, 1].max()))
        right, bottom = self.actor.at((points[:, 0].max(), 0))
        return beside((left, top, right, bottom), centre, reach)

    def frame(self, t):
        picture = self.scene.copy()
        pen = ImageDraw.Draw(picture)
        self.paint_leaves(pen, np.random.default_rng([self.seed, int(t)]))
        for distractor in self.distractors:
            distractor.paint(pen, t)
        paint_held(pen, self.action, self.labels[t], self.joints[t], self.actor)
        self.actor.paint(pen, self.joints[t], self.actor.clothes)
        return self.finish(picture, t).transpose(2, 0, 1)

    def mask(self, t):
        return self.finish(self.actor.silhouette(self.joints[t]), t) > HALF

    def paint_leaves(self, pen, rng):
        for centre, reach, paint in self.bushes:
            paint_leaves(pen, rng, centre, reach, paint, self.leaves // len(self.bushes))

    def finish(self, picture, t):
        x, y = self.camera[t].tolist()
        side = WIDE - 2 * MARGIN
        picture = picture.resize((SIZE, SIZE), Image.BOX, box=(x, y, x + side, y + side))
        picture = np.asarray(picture)
        if self.mirrored:
            picture = picture[:, ::-1]
        return picture.copy()


def place(rng, poses, half, floor, tall):
    """Someone who takes these poses, anywhere on the floor -> [joints], Figure."""
    body = draw_body(rng)
    joints = [skeleton(pose, half, body) for pose in poses]
    points = np.concatenate([np.concatenate(list(each.values())) for each in joints])
    left = points[:, 0].min() - .1
    right = points[:, 0].max() + .1
    height = FINE * rng.uniform(*tall)
    ends = 30 - height * left, WIDE - 30 - height * right
    start = rng.uniform(*sorted(ends))
    thick = height * rng.uniform(1.1, 1.35)
    figure = Figure(half, float(start), float(floor), float(height), float(thick), dress(rng))
    return joints, figure


class Grain:
    """The set's own scene through a noisy camera: what hardly shows in a token drowns."""

    def __init__(self, action, poses, labels, rng, *, deviation=12.):
        self.stage = Stage(action, poses, labels, rng)
        self.mirrored = self.stage.mirrored
        self.mask = self.stage.mask
        self.deviation = deviation                                   # of 255
        self.seed = int(rng.integers(2 ** 31))

    def frame(self, t):
        rng = np.random.default_rng([self.seed, int(t)])
        noise = rng.normal(0, self.deviation, (3, SIZE, SIZE))
        return np.clip(self.stage.frame(t) + noise, 0, 255).astype(np.uint8)


SCENES = {
    'present': Stage,
    'clutter': Clutter,
    'foliage': partial(Clutter, tall=(38, 46), movers=0, shake=0.),
    'yard': partial(Clutter, tall=(38, 46), apart=True, movers=0, shake=0.),
    'grain': Grain,
    'coarse grain': partial(Grain, deviation=30.),
    'bushes': partial(Clutter, tall=(38, 46), people=0, apart=True, movers=0, shake=0.),
    'garden': Garden,
    'people': partial(Clutter, tall=(38, 46), leaves=0, movers=0, shake=0.),
}
