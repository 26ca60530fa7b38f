"""The experiment's shortcuts: cached features give what the whole model gives, masks follow crops."""
import numpy as np
import pytest
import torch

import data
import experiment
import train
from clutter import SCENES
from datasets.synthetic import synthetic
from model import MVFormer, build_backbone


@pytest.fixture(scope='module')
def backbone():
    return build_backbone('tiny', layers=experiment.ALL_LAYERS)


@pytest.mark.parametrize('name', SCENES)
def test_a_scene_draws_frames_and_masks_of_the_same_acts(name):
    videos = synthetic(5, train=1, val=0, stage=SCENES[name])['train']
    again = synthetic(5, train=1, val=0, stage=SCENES[name])['train']
    usual = synthetic(5, train=1, val=0)['train']
    for video, same, other in zip(videos, again, usual):
        frames = video.read([0, 9])
        assert frames.shape == (2, 3, 64, 64) and frames.dtype == torch.uint8
        assert torch.equal(frames, same.read([0, 9]))
        masks = video.actor([0, 9])
        assert masks.dtype == torch.bool and masks.shape == (2, 64, 64)
        assert .02 < masks.float().mean() < .4
        assert np.array_equal(video.labels, other.labels)       # the clock's level stays


def test_cached_features_give_the_embeddings_of_the_whole_model(backbone):
    torch.manual_seed(0)
    settings = train.preset('synthetic')
    video = synthetic(1, train=1, val=0)['train'][2]
    cached, = experiment.cache(backbone, [video], 0, 0, keep={1, 2, 3, 4})
    row = experiment.Row('lstp', (1, 2, 3, 4), 3)
    model = experiment.Model(row, backbone.width, settings).eval()
    (found,), mass = experiment.embed(model, [cached])
    whole = MVFormer(backbone, model.pool, model.mtf).eval()
    images = data.center(video.read(range(video.frames)), backbone.image_size)
    with torch.no_grad():
        expected = whole(images[None])[0]
    assert np.abs(found - expected.numpy()).max() < 5e-3        # half precision
    assert len(mass) == 3 and 0 < min(mass) < max(mass) < 1


@pytest.mark.parametrize('pool, layers', [('avg', (4,)), ('cls', (4,)), ('max', (2, 4))])
def test_cached_tokens_are_those_of_the_poolers(backbone, pool, layers):
    video = synthetic(1, train=1, val=0)['train'][0]
    cached, = experiment.cache(backbone, [video], 0, 0, keep=())
    model = experiment.Model(experiment.Row(pool, layers), backbone.width, train.preset('synthetic'))
    found, _ = model.entities(cached.versions[0], np.array([3, 0]))
    images = data.center(video.read([3, 0]), backbone.image_size)
    part = build_backbone('tiny', layers=layers)
    pooler = experiment.POOLERS[pool](part.channels, part.width, entities=1, width=8)
    expected, _ = pooler(*part(images))
    assert torch.allclose(found, expected, atol=.02)


def test_masks_follow_the_crop_and_the_flip_of_the_frames(backbone):
    """The mask, drawn as a white picture and augmented as a picture, covers the same patches."""
    video = synthetic(1, train=1, val=0)['train'][1]
    masks = video.actor([0, 20])
    drawn = dict(crop=(5, 9, 50, 44), flip=True, colour=[], blur=None, grey=False)
    cover = experiment.cover(masks, drawn, backbone)
    white = masks[:, None].expand(-1, 3, -1, -1).to(torch.uint8) * 255
    mean, std = torch.tensor(data.MEAN), torch.tensor(data.STD)
    picture = data.augment(white, drawn, 72)[:, 0] * std[0] + mean[0]
    expected = picture.reshape(2, 12, 6, 12, 6).mean((2, 4)).flatten(1)
    assert torch.allclose(cover, expected, atol=1e-4)
    assert .05 < cover.mean() < .6


def test_paired_differences_are_taken_seed_by_seed(capsys):
    def result(row, seed, value):
        return dict(row=row, seed=seed, mass=[]) | dict.fromkeys(experiment.METRICS, value)

    results = [result('actor', 0, .5), result('actor', 1, .9), result('actor', 2, .1),
               result('avg', 1, .8), result('avg', 0, .2)]
    experiment.print_table(results, dict.fromkeys(experiment.METRICS, .4))
    line, = [line for line in capsys.readouterr().out.splitlines() if 'perfect attention' in line]
    assert 'classification +0.200 +- 0.100' in line and '(2 seeds)' in line      # +.3 and +.1
