"""The experiment's shortcuts: cached features give what the whole model gives."""
import sys

import numpy as np
import pytest
import torch

import data
import train
from backbones.build import build_backbone
from datasets.synthetic import synthetic
from experiment import (ALL_LAYERS, METRICS, ROWS, Row, best, cache, cover, embed, main,
                        make_model, print_table, seen_by)
from lstp import POOLERS
from model import MVFormer


@pytest.fixture(scope='module')
def backbone():
    return build_backbone('tiny', layers=ALL_LAYERS)


def video(number):
    return synthetic(1, train=1, val=0)['train'][number]


@pytest.mark.parametrize('row', [ROWS['lstp-3'], ROWS['avg'], ROWS['cls'], Row('max', (2, 4))],
                         ids=str)
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
    """From the videos to the tables, as RESULTS has the command; once more, and no run is made."""
    flags = ('--scene present --backbone tiny --image-size 24 --rows last-3;cls --seeds 0-1 '
             '--train 1 --val 2 --versions 2 --epochs 1').split()
    out = tmp_path / 'a.jsonl'
    monkeypatch.setattr(sys, 'argv', ['experiment.py', *flags, '--out', str(out)])
    for _ in range(2):
        main()
        lines = capsys.readouterr().out.splitlines()
        assert any('LSTP + MTF over CLS' in line and '(2 seeds)' in line for line in lines)
        assert any('over best CLS head' in line and 'best_iou' in line for line in lines)
        assert len(out.read_text().splitlines()) == 2 * len(['last-3', 'cls', 'clock', 'head'])


def test_paired_differences_are_taken_seed_by_seed(capsys):
    values = {'actor': {0: .5, 1: .9, 2: .1}, 'avg': {1: .8, 0: .2}}
    runs = {}
    for row, by_seed in values.items():
        runs[row] = {seed: dict.fromkeys(METRICS, value) for seed, value in by_seed.items()}
    print_table(runs)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith('| avg | 2 | 0.500 ± 0.424 |') for line in lines)
    line, = [line for line in lines if 'perfect attention gains over AVG' in line]
    assert 'classification +0.200 +- 0.100' in line         # of +.3 and +.1
    assert '(2 seeds)' in line
