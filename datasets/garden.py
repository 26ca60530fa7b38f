"""The garden: the synthetic set's acts among leaves that move, so that pooling everything hurts.

A smaller actor, whose head no edge cuts off, and six bushes around it whose leaves are drawn anew
in every frame. The leaves say nothing of the phase, are most of what changes in the picture, and
never hide the actor; so here it matters where a pooler looks, as in the paper's pictures.
"""
from functools import partial

import numpy as np
from PIL import Image

from datasets.drawing import FINE, SIZE, WIDE, Figure, colour, oval, paint_scene, pairs
from datasets.layout import DataSet
from datasets.synthetic import Stage, synthetic

EDGE = 24               # pixels of the drawing cut off on each side: leaves go on beyond it
BUSHES = 6
LEAVES = 23             # of a bush


class Garden(Stage):

    def place(self, rng, half):
        floor = rng.uniform(.6, .9) * WIDE
        actor = self.actor = Figure(rng, half, self.poses)
        tall = actor.top + .12                                       # in body heights, with hair
        height = min(FINE * rng.uniform(32, 40), (WIDE - 2 * EDGE - 16) / tall)
        leftmost = 30 - height * (actor.left - .1)
        rightmost = WIDE - 30 - height * (actor.right + .1)
        start = rng.uniform(*sorted((leftmost, rightmost)))
        actor.place(rng, start, max(floor, EDGE + 8 + height * tall), height)
        self.scene = paint_scene(rng, int(floor - rng.uniform(20, 60)))
        low = actor.at(complex(actor.left, actor.top))               # the corners around it
        high = actor.at(complex(actor.right, 0))
        low, high = np.array(pairs(low, high))
        self.bushes = []
        while len(self.bushes) < BUSHES:
            centre = rng.uniform(0, WIDE, 2)
            reach = rng.uniform(30, 80, 2)
            paint = colour(rng, (.1, .8), (.3, .9))
            apart = np.maximum(low - centre, centre - high) / reach
            if apart.max() > .8:                                     # it lies beside the actor
                self.bushes.append((centre, reach, paint))
        self.mirrored = rng.random() < .5
        self.seed = int(rng.integers(2 ** 31))

    def paint_others(self, pen, t):
        rng = np.random.default_rng([self.seed, int(t)])
        for centre, reach, paint in self.bushes:
            places = (centre + reach * rng.normal(0, .5, (LEAVES, 2))).tolist()
            sizes = rng.uniform(5, 13, (LEAVES, 2)).tolist()
            lights = rng.uniform(.6, 1.4, LEAVES).tolist()
            for place, size, light in zip(places, sizes, lights):
                fill = tuple(min(255, int(c * light)) for c in paint)
                oval(pen, complex(*place), *size, fill)

    def smaller(self, picture):
        """The edges are cut off."""
        inner = EDGE, EDGE, WIDE - EDGE, WIDE - EDGE
        return picture.resize((SIZE, SIZE), Image.BOX, box=inner)


ROW = DataSet(partial(synthetic, stage=Garden), 'made in memory', on_disk=False)
