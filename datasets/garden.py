"""The garden: the synthetic set's acts among leaves that move, so that pooling everything hurts.

A smaller actor, wholly in view, and six bushes around it whose leaves are drawn anew in every
frame. What the leaves do says nothing of the phase, covers most of what moves, and never hides the
actor; so here it matters where a pooler looks, as in the paper's pictures.
"""
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from datasets.drawing import FINE, SIZE, WIDE
from datasets.drawing import Figure, colour, draw_body, dress, oval, paint_scene, skeleton
from datasets.layout import DataSet
from datasets.synthetic import ACTIONS, paint_held, synthetic

EDGE = 24               # pixels of the drawing that are cut off on each side
BUSHES = 6
LEAVES = 23             # of a bush


class Garden:
    """The drawing of one video: frame(t), uint8 (3, S, S), and mask(t), bool (S, S)."""

    def __init__(self, action, poses, labels, rng):
        self.action = action
        self.labels = labels
        half = ACTIONS[action][0]
        floor = rng.uniform(.6, .9) * WIDE
        body = draw_body(rng)
        self.joints = [skeleton(pose, half, body) for pose in poses.tolist()]
        points = [np.concatenate(list(joints.values())) for joints in self.joints]
        points = np.concatenate(points)                              # (n * 14, 2)
        top = points[:, 1].max() + .12
        left = points[:, 0].min() - .1
        right = points[:, 0].max() + .1
        height = min(FINE * rng.uniform(32, 40), (WIDE - 2 * EDGE - 16) / top)
        ends = 30 - height * left, WIDE - 30 - height * right
        start = rng.uniform(*sorted(ends))
        thick = height * rng.uniform(1.1, 1.35)
        stands = max(floor, EDGE + 8 + height * top)
        self.actor = Figure(half, float(start), float(stands), float(height), float(thick),
                            dress(rng))
        self.scene = paint_scene(rng, int(floor - rng.uniform(20, 60)))
        left, bottom = self.actor.at(points.min(0))
        right, top = self.actor.at(points.max(0))
        self.bushes = []
        while len(self.bushes) < BUSHES:
            bush = rng.uniform(0, WIDE, 2), rng.uniform(30, 80, 2), colour(rng, (.1, .8), (.3, .9))
            if beside((left, top, right, self.actor.floor), *bush[:2]):
                self.bushes.append(bush)
        self.mirrored = rng.random() < .5
        self.seed = int(rng.integers(2 ** 31))

    def frame(self, t):
        picture = self.scene.copy()
        pen = ImageDraw.Draw(picture)
        rng = np.random.default_rng([self.seed, int(t)])
        for centre, reach, paint in self.bushes:
            paint_leaves(pen, rng, centre, reach, paint)
        paint_held(pen, self.action, self.labels[t], self.joints[t], self.actor)
        self.actor.paint(pen, self.joints[t], self.actor.clothes)
        return self.finish(picture).transpose(2, 0, 1)

    def mask(self, t):
        """Where the actor is at frame t, without what it holds, bool (SIZE, SIZE)."""
        picture = Image.new('L', (WIDE, WIDE))
        white = [(255,)] * len(self.actor.clothes)
        self.actor.paint(ImageDraw.Draw(picture), self.joints[t], white)
        return self.finish(picture) > 127 * .7       # half of a pixel, be it of a far, darker limb

    def finish(self, picture):
        """Cut off the edges, average down to SIZE; half of the videos are mirrored."""
        inner = EDGE, EDGE, WIDE - EDGE, WIDE - EDGE
        picture = np.asarray(picture.resize((SIZE, SIZE), Image.BOX, box=inner))
        if self.mirrored:
            picture = picture[:, ::-1]
        return picture.copy()


def beside(box, centre, reach):
    """Does a bush lie beside a box (left, top, right, bottom)?"""
    left, top, right, bottom = box
    x = max(left - centre[0], centre[0] - right) / reach[0]
    y = max(top - centre[1], centre[1] - bottom) / reach[1]
    return max(x, y) > .8


def paint_leaves(pen, rng, centre, reach, paint):
    places = (centre + reach * rng.normal(0, .5, (LEAVES, 2))).tolist()
    sizes = rng.uniform(5, 13, (LEAVES, 2)).tolist()
    lights = rng.uniform(.6, 1.4, LEAVES).tolist()
    for place, size, light in zip(places, sizes, lights):
        fill = tuple(min(255, int(c * light)) for c in paint)
        oval(pen, *place, *size, fill)


ROW = DataSet(partial(synthetic, stage=Garden), 'made in memory', on_disk=False)
