"""The synthetic set: from its seed alone, with phases in order, and not solved by the clock."""
import numpy as np
import torch
import torch.nn.functional as F

import evaluate
from datasets import synthetic


def test_synthetic_set_comes_from_its_seed():
    videos, again, other = (synthetic.synthetic(seed, train=2, val=1) for seed in (3, 3, 4))
    assert [len(videos[split]) for split in ('train', 'val')] == [2 * len(synthetic.ACTIONS), len(synthetic.ACTIONS)]
    names, drawn = set(), set()
    for split in videos:
        for one, same, different in zip(videos[split], again[split], other[split]):
            assert one.name == same.name and np.array_equal(one.labels, same.labels)
            assert torch.equal(one.read([0, 5]), same.read([0, 5])) and torch.equal(one.actor([5]), same.actor([5]))
            assert not torch.equal(one.read([5]), different.read([5]))
            names.add(one.name), drawn.add(one.read([5]).numpy().tobytes())
    assert len(names) == len(drawn) == 3 * len(synthetic.ACTIONS)


def test_synthetic_videos_have_phases_in_order_and_an_actor_that_moves():
    for video in synthetic.synthetic(3, train=2, val=1)['train']:
        frames, labels = video.read(range(video.frames)).float(), video.labels
        actor = video.actor(range(video.frames))
        assert frames.shape == (video.frames, 3, 64, 64) and actor.shape == (video.frames, 64, 64)
        assert set(labels) == {0, 1, 2, 3} and set(np.diff(labels)) == {0, 1}
        assert .08 < actor.float().mean() < .35
        scene = frames.median(0).values                                     # all but what moves, roughly
        moving = (frames - scene).abs().amax(1) > 40
        # what differs from the scene is the actor's, or was just left by it; the rest: what it holds, a distractor
        near = F.max_pool2d(actor.any(0)[None, None].float(), 5, stride=1, padding=2)[0, 0].bool()
        assert moving.any() and (moving & near).sum() > .6 * moving.sum()


def test_synthetic_set_is_not_solved_by_the_clock():
    right = []
    videos = synthetic.synthetic(0)
    for action in synthetic.ACTIONS:
        halves = [[video for video in videos[split] if video.action == action] for split in ('train', 'val')]
        x, val_x = ([evaluate.clock(video.frames) for video in half] for half in halves)
        y, val_y = ([video.labels for video in half] for half in halves)
        right.append(evaluate.classification(x, y, val_x, val_y))
    assert .4 < np.mean(right) <= .6
