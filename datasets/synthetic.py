"""The synthetic set: a drawn figure acts out five actions of four phases, made in memory.

A stand-in for Penn Action that needs no download: every frame of 64 x 64 pixels has its phase label
and the mask of the actor. A video begins and ends in the same idle pose for a random time and its
phases have log-normal lengths, so that the time in the video says little; the way down looks like
the way up, so that one frame alone says little too. All else is drawn anew for every video.
"""
import numpy as np
import torch
from PIL import ImageDraw

from datasets.drawing import FINE, HALF, SIZE, WIDE, Distractor, Figure, oval, paint_scene, pairs
from datasets.layout import DataSet
from datasets.video import Video

# A pose is nine angles in degrees: the torso (from upright, + leans to the right), then upper and
# lower part of arm 1, arm 2, leg 1, leg 2 (from hanging down, + swings to the right). Limb 1 is the
# near one, or in a view from the front the one on the right.
STAND = (2, 10, 18, -6, 4, 4, -2, -4, -6)
SQUAT = (36, 78, 88, 72, 82, 92, -30, 84, -32)
FRONT = (0, 14, 8, -14, -8, 6, 4, -6, -4)
STAR = (0, 150, 168, -150, -168, 30, 26, -30, -26)
LIE = (-84, 60, 150, 50, 140, 124, 22, 118, 16)
SIT = (14, 70, 120, 60, 110, 126, 20, 120, 14)
WIND_UP = (-16, -110, -165, 62, 100, -2, -4, 86, -4)
THROW = (30, 84, 66, -40, -70, -28, -48, 40, 4)
ADDRESS = (0, -24, -14, 24, 14, 12, 10, -12, -10)
BACKSWING = (-8, -128, -140, -104, -140, 14, 0, -12, -14)
FOLLOW = (8, 108, 144, 128, 146, 12, 14, -22, -2)

# action: half the shoulders' width in body heights, the idle pose, and the phases 1, 2, 3, each by
# the pose at its end and its mean number of frames. Phase 0 is the idle time before the act; the
# idle time after it belongs to phase 3.
ACTIONS = {
    'squat': (.03, STAND, [(SQUAT, 16), (STAND, 14), (STAND, 0)]),
    'jumping_jacks': (.115, FRONT, [(STAR, 14), (FRONT, 13), (FRONT, 0)]),
    'situp': (.03, LIE, [(SIT, 16), (LIE, 14), (LIE, 0)]),
    'baseball_pitch': (.05, STAND, [(WIND_UP, 12), (THROW, 9), (STAND, 10)]),
    'golf_swing': (.10, ADDRESS, [(BACKSWING, 12), (FOLLOW, 9), (ADDRESS, 10)]),
}


def perform(action, rng):
    """An action once, between two idle stretches.

    -> poses (n, 9) in degrees, phase labels int64 (n,)
    """
    _, idle, phases = ACTIONS[action]
    idle = np.array(idle, float)
    effort = rng.uniform(.8, 1.1)          # how far this actor moves from the idle pose
    rest = rng.uniform(12, 38)             # idle frames in all
    early = rng.beta(.5, .5)               # the part of them before the act: mostly all or none
    before = max(2, round(rest * early))
    after = max(2, round(rest * (1 - early)))

    last = idle
    stretches = [np.tile(last, (before, 1))]
    for goal, mean in phases:
        noise = rng.normal(0, 5, 9)
        end = idle + effort * (goal - idle) + noise if np.any(goal != idle) else idle
        frames = max(3, round(mean * rng.lognormal(0, .8))) if mean else 0
        x = np.arange(1, frames + 1)[:, None] / max(frames, 1)
        eased = 3 * x ** 2 - 2 * x ** 3              # speeds up, slows down
        stretches.append(last + eased * (end - last))
        last = end
    stretches.append(np.tile(last, (after, 1)))
    labels = np.repeat([0, 1, 2, 3, 3], [len(poses) for poses in stretches])    # (n,)
    poses = np.concatenate(stretches)                                           # (n, 9)

    time = np.arange(len(poses))[:, None]
    sway = np.sin(time * rng.uniform(.1, .4, 9) + rng.uniform(0, 6.3, 9))
    return poses + rng.normal(0, 2, 9) + 1.5 * sway, labels


class Stage:
    """The source of one Video: an actor that performs, the scene, distractors, all fixed at once; a
    frame is drawn when it is first read. A scene of your own is a class like this."""

    def __init__(self, action, seed):
        self.action = action
        self.poses, self.labels = perform(action, np.random.default_rng((*seed, 0)))
        self.place(np.random.default_rng((*seed, 1)), ACTIONS[action][0])
        self.drawn = {}

    def __getstate__(self):
        return vars(self) | {'drawn': {}}    # a process that decodes draws them anew

    def place(self, rng, half):
        actor = self.actor = Figure(rng, half, self.poses)
        left = actor.left - .1
        top = actor.top + .12
        wide = actor.right + .12 - left
        height = FINE * min(rng.uniform(47, 56), (SIZE - 6) / top, (SIZE + 2) / wide)
        highest = min(WIDE - 8, max(height * top + 8, .72 * WIDE))
        floor = int(rng.uniform(highest, WIDE - 8))
        start = rng.uniform(*sorted((0, WIDE - height * wide))) - height * left
        actor.place(rng, start, floor, height)
        self.scene = paint_scene(rng, int(floor - rng.uniform(0, 24)))
        self.distractors = [Distractor(rng, floor) for _ in range(3)]
        self.mirrored = rng.random() < .5

    def count(self):
        return len(self.labels)

    def annotate(self, _):
        return self.labels

    def decode(self, indices):
        for t in indices:
            if t not in self.drawn:
                self.drawn[t] = self.frame(t)
            yield self.drawn[t]

    def mask(self, indices):
        """Where the actor is, without what it holds, bool (n, SIZE, SIZE)."""
        return torch.stack([self.finish(self.actor.silhouette(t)) > HALF for t in indices])

    def frame(self, t):
        """The picture at frame t, uint8 (3, SIZE, SIZE)."""
        picture = self.scene.copy()
        pen = ImageDraw.Draw(picture)
        self.paint_others(pen, t)
        self.paint_held(pen, t)
        self.actor.paint(pen, t, self.actor.clothes)
        return self.finish(picture).permute(2, 0, 1)

    def paint_others(self, pen, t):
        for distractor in self.distractors:
            distractor.paint(pen, t)

    def paint_held(self, pen, t):
        """The golf club; the ball until it is thrown."""
        actor = self.actor
        _, bend, hand = actor.joints[t]['arm1']
        if self.action == 'golf_swing':
            club = pairs(actor.at(hand), actor.at(hand + 1.7 * (hand - bend)))
            pen.line(club, fill=(30, 30, 30), width=6)
        if self.action == 'baseball_pitch' and self.labels[t] < 2:
            oval(pen, actor.at(hand + .4 * (hand - bend)), 11, 11, (250, 250, 250))

    def finish(self, picture):
        """Average down to SIZE; half of the videos are mirrored."""
        pixels = torch.from_numpy(np.array(self.smaller(picture)))
        return pixels.flip(1) if self.mirrored else pixels

    def smaller(self, picture):
        return picture.reduce(FINE)


def synthetic(seed=0, train=24, val=12, stage=Stage):
    """{'train': [Video], 'val': [Video]}, `train` and `val` of each action; the same for a seed."""
    videos = {'train': [], 'val': []}
    for half, (split, size) in enumerate(dict(train=train, val=val).items()):
        for number, action in enumerate(ACTIONS):
            for k in range(size):
                act = stage(action, (seed, half, number, k))
                name = f'{action}/{split}_{k:02d}'
                video = Video(name, act.count, act.decode, action, act.annotate, act.mask)
                videos[split].append(video)
    return videos


ROW = DataSet(synthetic, 'made in memory', on_disk=False)
