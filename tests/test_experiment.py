"""The experiment's shortcuts: cached features give what the whole model gives."""
import json
import sys

import numpy as np
import pytest
import torch

import data
import train
from datasets.synthetic import synthetic
from experiment import (ALL_LAYERS, METRICS, SCENES, SEVERAL, Row, best, cache, cover, embed, main,
                        make_model, seen_by)
from backbones.build import build_backbone
from lstp import POOLERS
from model import MVFormer


@pytest.fixture(scope='module')
def backbone():
    return build_backbone('tiny', layers=ALL_LAYERS)


def video(number, stage=SCENES['present']):
    return synthetic(1, train=1, val=0, stage=stage)['train'][number]


@pytest.mark.parametrize('row', [Row('lstp', SEVERAL, 3), Row('avg'), Row('cls'),
                                 Row('max', (2, 4))], ids=str)
def test_cached_features_give_the_embeddings_of_the_whole_model(backbone, row):
    one = video(2)
    cached = {split: cache(backbone, [one], 0, 0) for split in ('train', 'val')}
    model = make_model(row, train.preset('synthetic'), backbone)
    embeddings, attention = embed(model, seen_by(row, cached))

    part = build_backbone('tiny', layers=row.layers)
    part.with_cls = True
    pool = model.pool
    if row.entities == 1:
        pool = POOLERS[row.pool](part.channels, part.width)
    whole = MVFormer(part, pool, model.mtf).eval()
    images = data.center(one.read(range(one.frames)), part.image_size)
    with torch.no_grad():
        expected = whole(images[None])[0].numpy()
    assert np.abs(embeddings['val'][0] - expected).max() < 5e-3            # half precision
    if row.entities == 3:
        mass = best(attention, cached)['mass']
        assert len(mass) == 3
        assert 0 < min(mass) < max(mass) < 1


def test_masks_follow_the_crop_and_the_flip_of_the_frames(backbone):
    """The mask as a white picture, its colours jittered too, is bright in the same patches."""
    masks = video(1).actor([0, 20])
    white = masks[:, None].expand(-1, 3, -1, -1).to(torch.uint8) * 255
    size, side = backbone.image_size, backbone.grid
    for seed in range(8):
        found = cover(masks, seed, backbone)
        picture = data.denormalise(data.augment(white, seed, size, jitter=.2, hue=0.))[:, 0]
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
