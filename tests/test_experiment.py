"""The experiment's shortcuts: cached features give what the whole model gives."""
import json
import sys

import numpy as np
import pytest
import torch

import data
import train
from datasets.synthetic import synthetic
from experiment import (ALL_LAYERS, METRICS, SCENES, SEVERAL, Model, Row, cache, cover, embed, main)
from lstp import POOLERS
from backbones.build import build_backbone
from model import MVFormer
from pictures.canvas import denormalise


@pytest.fixture(scope='module')
def backbone():
    return build_backbone('tiny', layers=ALL_LAYERS)


def video(number, stage=SCENES['present']):
    return synthetic(1, train=1, val=0, stage=stage)['train'][number]


def seen(backbone, one, indices):
    """Frames of a video as evaluation gives them to the backbone."""
    return data.center(one.read(indices), backbone.image_size)


def test_cached_features_give_the_embeddings_of_the_whole_model(backbone):
    torch.manual_seed(0)
    one = video(2)
    cached = cache(backbone, [one], 0, 0)
    row = Row('lstp', SEVERAL, 3)
    model = Model(row, backbone.width, train.preset('synthetic')).eval()
    (found,), (mass, iou) = embed(model, cached)

    part = build_backbone('tiny', layers=SEVERAL)
    whole = MVFormer(part, model.pool, model.mtf).eval()
    images = seen(part, one, range(one.frames))
    with torch.no_grad():
        expected = whole(images[None])[0].numpy()
    assert np.abs(found - expected).max() < 5e-3            # half precision
    assert len(mass) == len(iou) == 3
    assert 0 < min(mass) < max(mass) < 1


@pytest.mark.parametrize('pool, layers', [('avg', (4,)), ('cls', (4,)), ('max', (2, 4))])
def test_cached_tokens_are_those_of_the_poolers(backbone, pool, layers):
    cached, = cache(backbone, [video(0)], 0, 0)
    row = Row(pool, layers)
    model = Model(row, backbone.width, train.preset('synthetic'))
    found, _ = model.entities(cached.versions[0], np.array([3, 0]))

    part = build_backbone('tiny', layers=layers)
    pooler = POOLERS[pool](part.channels, part.width, entities=1, width=8)
    expected, _ = pooler(*part(seen(part, video(0), [3, 0])))
    assert torch.allclose(found, expected, atol=.02)


def test_masks_follow_the_crop_and_the_flip_of_the_frames(backbone):
    """The mask as a white picture, its colours jittered too, is bright in the same patches."""
    masks = video(1).actor([0, 20])
    white = masks[:, None].expand(-1, 3, -1, -1).to(torch.uint8) * 255
    size, side = backbone.image_size, backbone.grid
    for seed in range(8):
        found = cover(masks, seed, backbone)
        picture = denormalise(data.augment(white, seed, size, jitter=.2, hue=0.))[:, 0]
        bright = picture.reshape(2, side, 6, side, 6).mean((2, 4)).flatten(1)
        assert np.corrcoef(found.flatten(), bright.flatten())[0, 1] > .99
        assert .05 < found.mean() < .6


def test_rows_are_trained_and_told(tmp_path, monkeypatch, capsys):
    """From the videos to the table, as RESULTS has the command."""
    flags = ('--scene present --backbone tiny --image-size 24 --rows last-3;cls --seeds 0-1 '
             '--train 1 --val 2 --versions 2 --epochs 1').split()
    monkeypatch.setattr(sys, 'argv', ['experiment.py', *flags, '--out', str(tmp_path / 'a.jsonl')])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert any('LSTP + MTF over CLS' in line and '(2 seeds)' in line for line in lines)
    assert any('over best CLS head' in line and 'best_iou' in line for line in lines)


def test_paired_differences_are_taken_seed_by_seed(tmp_path, monkeypatch, capsys):
    """By --table, of runs that two processes have written."""
    head = dict(best_mass=.3, best_iou=.2)
    alike = dict(clock=dict.fromkeys(METRICS, .4), head=head)
    files = [tmp_path / 'a.jsonl', tmp_path / 'b.jsonl']
    for row, seed, value in [('actor', 0, .5), ('actor', 1, .9), ('actor', 2, .1),
                             ('avg', 1, .8), ('avg', 0, .2), ('last-3', 0, .5), ('last-3', 1, .7)]:
        line = alike | dict(row=row, seed=seed) | dict.fromkeys(METRICS, value)
        if row == 'last-3':
            line |= dict(mass=[.1, value], best_mass=value, best_iou=value)
        with open(files[seed % 2], 'a') as file:
            file.write(json.dumps(line) + '\n')
    monkeypatch.setattr(sys, 'argv', ['experiment.py', '--table', *map(str, files)])
    main()
    lines = capsys.readouterr().out.splitlines()
    line, = [line for line in lines if 'perfect attention gains over AVG' in line]
    assert 'classification +0.200 +- 0.100' in line         # of +.3 and +.1
    assert '(2 seeds)' in line
    line, = [line for line in lines if 'last-3 over best CLS head' in line]
    assert 'best_mass +0.300 +- 0.100' in line
