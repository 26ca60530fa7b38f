"""The garden: the synthetic set's acts among leaves that move, so that pooling everything hurts.

A smaller actor, whose head no edge cuts off, and six bushes around it whose leaves are drawn anew
in every frame. The leaves say nothing of the phase, are most of what changes in the picture, and
never hide the actor; so here it matters where a pooler looks, as in the paper's pictures.
"""
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from datasets.drawing import FINE, HALF, SIZE, WIDE
from datasets.drawing import Figure, colour, draw_body, dress, oval, paint_scene, skeleton
from datasets.layout import DataSet
from datasets.synthetic import ACTIONS, paint_held, synthetic

EDGE = 24               # pixels of the drawing cut off on each side: leaves go on beyond it
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
        tall = points[:, 1].max() + .12                              # in body heights, with hair
        height = min(FINE * rng.uniform(32, 40), (WIDE - 2 * EDGE - 16) / tall)
        leftmost = 30 - height * (points[:, 0].min() - .1)
        rightmost = WIDE - 30 - height * (points[:, 0].max() + .1)
        start = rng.uniform(*sorted((leftmost, rightmost)))
        thick = height * rng.uniform(1.1, 1.35)
        stands = max(floor, EDGE + 8 + height * tall)
        self.actor = Figure(half, float(start), float(stands), float(height), float(thick),
                            dress(rng))
        self.scene = paint_scene(rng, int(floor - rng.uniform(20, 60)))
        left, _ = self.actor.at(points.min(0))
        right, top = self.actor.at(points.max(0))
        self.bushes = []
        while len(self.bushes) < BUSHES:
            centre = rng.uniform(0, WIDE, 2)
            reach = rng.uniform(30, 80, 2)
            paint = colour(rng, (.1, .8), (.3, .9))
            if beside((left, top, right, self.actor.floor), centre, reach):
                self.bushes.append((centre, reach, paint))
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
        return self.finish(self.actor.silhouette(self.joints[t])) > HALF

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


def paint_leaves(pen, rng, centre, reach, paint, count=LEAVES):
    places = (centre + reach * rng.normal(0, .5, (count, 2))).tolist()
    sizes = rng.uniform(5, 13, (count, 2)).tolist()
    lights = rng.uniform(.6, 1.4, count).tolist()
    for place, size, light in zip(places, sizes, lights):
        fill = tuple(min(255, int(c * light)) for c in paint)
        oval(pen, *place, *size, fill)


ROW = DataSet(partial(synthetic, stage=Garden), 'made in memory', on_disk=False)
