"""The objectives' experiment: its cached features are those of the images train.py would see."""
import argparse

import numpy as np
import pytest
import torch

import data
import evaluate
import model as models
import objectives_miniature as miniature
import train
from datasets.synthetic import synthetic
from loss import OBJECTIVES


@pytest.fixture(scope='module')
def settings():
    settings = train.preset('synthetic').resolve()
    settings.epochs = 1
    settings.frames = 8
    settings.data_seed = 2
    return settings


@pytest.fixture(scope='module')
def videos():
    return synthetic(2, train=1, val=1)


@pytest.fixture(scope='module')
def cached(settings, videos, tmp_path_factory):
    return miniature.cached_features(tmp_path_factory.mktemp('cache'), videos, settings)


@pytest.fixture(scope='module')
def backbone(settings):
    return models.build_backbone('tiny', layers=settings.layers)


def test_views_are_the_features_of_augmented_frames(settings, videos, cached, backbone):
    clips = miniature.CachedClips(videos['train'], frames=8)
    item = clips[0, 1]
    batch = data.collate([item])
    assert len(set(item['versions'])) == 2 and 0 not in item['versions']
    views = miniature.cached_views(cached)(batch, None, None)         # (1, 2, T, 1, P, L*C)
    frames = videos['train'][1].read(range(videos['train'][1].frames))
    for view, time, version in zip(views[0], batch['time'][0], item['versions']):
        rng = np.random.default_rng([2, 1, version - 1])
        drawn = data.draw_augmentation(rng, 64, 64, brightness=.4, contrast=.4, saturation=.4,
                                       hue=0.)
        images = data.augment(frames[time], drawn, settings.image_size)
        found, _ = miniature.CachedBackbone(backbone)(view)
        with torch.no_grad():
            expected, _ = backbone(images)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)   # half precision


def test_clean_versions_give_the_whole_models_embeddings(settings, videos, cached, backbone):
    torch.manual_seed(0)
    whole = models.build_model(vars(settings), backbone)
    small = models.build_model(vars(settings), miniature.CachedBackbone(backbone))
    small.pool.load_state_dict(whole.pool.state_dict())
    small.mtf.load_state_dict(whole.mtf.state_dict())
    video = videos['val'][0]
    images = data.center(video.read(range(video.frames)), settings.image_size)
    with torch.no_grad():
        expected = whole(images[None])[0]
        found = miniature.embed_video(small, video, cached[video.name])
    assert np.abs(found - expected.numpy()).max() < 5e-3


@pytest.mark.parametrize('loss', OBJECTIVES)
def test_every_objective_trains(settings, videos, cached, backbone, loss):
    settings.loss = loss
    settings.pairs = 'views'
    model, losses, entropies = miniature.train_model(
        settings, miniature.CachedBackbone(backbone), videos['train'], cached)
    assert len(losses) == 1 and np.isfinite(losses).all()
    for name, weight in model.mtf.named_parameters():
        assert weight.isfinite().all(), name
    assert len(entropies) == (loss == 'distill')
    for step, whole, single in entropies:
        assert 0 < single <= whole <= 1


def test_controls_are_scored_as_the_models_are(settings, videos, cached, backbone):
    rows = miniature.controls(settings, miniature.CachedBackbone(backbone), videos, cached)
    correct = []
    for train_video, val_video in zip(videos['train'], videos['val']):       # one of each action
        parts = []
        for video in (train_video, val_video):
            time = np.arange(video.frames) / video.frames
            parts += [[np.cos(np.pi * time[:, None] * [1, 2, 3, 4])], [video.labels]]
        correct.append(evaluate.classification(*parts))
    assert rows['clock']['classification'] == pytest.approx(np.mean(correct), abs=1e-3)
    assert rows['untrained']['progression'] != rows['clock']['progression']
    assert set(rows['untrained']) == set(miniature.METRICS)


def test_runs_that_are_there_are_not_planned_again():
    results = []
    for lr, ap5 in ((1e-4, .5), (1e-3, .7)):
        results.append(dict(row='gta videos', lr=lr, data_seed=3, seed=0, purpose='rate',
                            classification=.5, ap5=ap5))
    args = argparse.Namespace(losses='gta', pairs='videos', merge=1, lr='1e-3,3e-4', seeds='0',
                              data_seed=3, epochs=16)
    assert [settings.lr for settings in miniature.plan(args, results)] == [3e-4]
    args.lr = 'best'
    args.seeds = '0,4'
    args.data_seed = 6
    planned = miniature.plan(args, results)
    assert [(settings.lr, settings.seed) for settings in planned] == [(1e-3, 0), (1e-3, 4)]
    args.merge = 2
    assert {settings.lr for settings in miniature.plan(args, results)} == {1e-3}
    args.losses = 'tcc'
    with pytest.raises(SystemExit, match='tcc videos has not been tried'):
        miniature.plan(args, results)
