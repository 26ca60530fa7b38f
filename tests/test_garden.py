"""The garden: its frames to the last bit, and what its leaves do."""
import hashlib

import torch

from datasets import garden
from datasets.drawing import Figure


def videos(seed=7):
    return garden.ROW.read(seed, train=1, val=1)['train']


def test_a_seed_means_the_same_frames_to_the_last_bit():
    """Should a later Pillow draw a pixel otherwise: compare both sets, then change the checksum."""
    drawn = hashlib.sha256()
    for video in videos():
        drawn.update(video.read(range(video.frames)).numpy().tobytes())
        drawn.update(video.actor(range(video.frames)).numpy().tobytes())
    assert drawn.hexdigest()[:16] == '1575b917917f8715'


def test_the_actors_head_is_in_view_and_nothing_covers_the_actor(monkeypatch):
    """Without the leaves, and where the mask is: the same pixels."""
    with_leaves = videos()
    drawn = [video.read(range(0, video.frames, 5)) for video in with_leaves]
    monkeypatch.setattr(garden.Garden, 'paint_others', lambda *_: None)
    for video, again, leafy in zip(with_leaves, videos(), drawn):
        indices = range(0, video.frames, 5)
        masks = video.actor(indices)                                  # (n, 64, 64)
        assert .05 < masks.float().mean() < .3
        assert not masks[:, 0].any()                                  # no head is cut off
        same = (leafy == again.read(indices)).all(1)                  # (n, 64, 64)
        outside = torch.nn.functional.max_pool2d((~masks)[:, None].float(), 3, 1, 1)[:, 0] > 0
        assert same[~outside].all()
        assert .05 < 1 - same.float().mean() < .6                     # leaves there are


def test_leaves_are_drawn_anew_in_every_frame_and_the_same_whenever_it_is_read(monkeypatch):
    one, again = videos()[0], videos()[0]
    assert torch.equal(one.read([3]), again.read([9, 3])[1:])
    monkeypatch.setattr(Figure, 'paint', lambda *_: None)             # the leaves alone
    first, second = videos()[0].read([3, 4])
    assert (first != second).any(0).float().mean() > .05
