"""A folder of videos as a coach has it: aligned, and phases carried over."""
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

import data
import model as models
from evaluation.own_videos import align_files, embed_whole, predict_folder
from made import table_of
from pictures.film import film_frames, write_film

SMALL = dict(backbone='tiny', layers=[1, 2, 4], entity_width=16, frames=8, fc_width=16,
             embedding=8)


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return models.build_model(SMALL)


@pytest.fixture
def settings():
    return dict(dataset='folder', workers=0)


def ball(n, size, rate, path):
    """A film of a square that moves from left to right."""
    height, width = size
    frames = []
    for i in range(n):
        frame = np.full((height, width, 3), 90, np.uint8)
        left = (width - 10) * i // max(1, n - 1)
        frame[height // 2:height // 2 + 10, left:left + 10] = 250
        frames.append(frame)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_film(path, frames, rate)


def test_files_of_different_size_and_rate_are_aligned(network, settings, tmp_path):
    ball(12, (60, 100), 10, tmp_path / 'a.mp4')
    ball(30, (120, 70), 25, tmp_path / 'b.mp4')
    paths = [tmp_path / 'a.mp4', tmp_path / 'b.mp4']
    notes = align_files(network, settings, paths, tmp_path / 'o.mp4')
    assert len(notes) == 1
    assert notes[0].startswith('b.mp4: on average the match is')
    rows = table_of(tmp_path / 'o.csv')
    last = rows[-1]
    assert float(last['seconds_a']) == pytest.approx(1.1, abs=1e-3)
    assert float(last['seconds_b']) == pytest.approx(int(last['frame_b']) / 25, abs=1e-3)
    assert len(list(film_frames(tmp_path / 'o.mp4'))) == 12


def test_a_folder_of_images_has_no_clock(network, settings, tmp_path):
    ball(5, (40, 40), 10, tmp_path / 'a.mp4')
    (tmp_path / 'b').mkdir()
    for i in range(4):
        Image.new('RGB', (30, 40), (60 * i, 0, 0)).save(tmp_path / 'b' / f'{i}.png')
    paths = [tmp_path / 'a.mp4', tmp_path / 'b']
    notes = align_files(network, settings, paths, tmp_path / 'o.mp4')
    assert 'b: no times in it, taken as 25 frames a second' in notes


@pytest.mark.parametrize('content', [b'no video', b''])
def test_what_is_no_video_is_one_line(network, settings, tmp_path, content):
    ball(3, (40, 40), 10, tmp_path / 'a.mp4')
    (tmp_path / 'b.mp4').write_bytes(content)
    paths = [tmp_path / 'a.mp4', tmp_path / 'b.mp4']
    with pytest.raises(data.DataError, match='b.mp4'):
        align_files(network, settings, paths, tmp_path / 'o.mp4')
    assert not (tmp_path / 'o.mp4').exists()


def labelled(network, settings, folder):
    """Two videos with phases 0 and 1, in the action's folder."""
    for name in 'ab':
        ball(20, (60, 100), 10, folder / 'roll' / f'{name}.mp4')
        (folder / 'roll' / f'{name}.txt').write_text('0\n' * 10 + '1\n' * 10)
    videos = data.load('folder', folder, image_size=network.backbone.image_size)['train']
    embedded, embeddings, _ = embed_whole(network, videos, settings)
    return embedded, embeddings


def fit(x, y):
    return LogisticRegression(C=1000, max_iter=1000).fit(x, y)


def test_phases_of_a_folder(network, settings, tmp_path):
    known = labelled(network, settings, tmp_path / 'known')
    fresh = tmp_path / 'fresh'
    ball(20, (60, 100), 10, fresh / 'roll' / 'c.mp4')
    ball(1, (60, 100), 10, fresh / 'one.mp4')
    (fresh / 'broken.mp4').write_bytes(b'no video')
    (fresh / 'roll' / 'c.txt').write_text('1\n' * 20)     # labels of its own are not looked at
    notes = predict_folder(network, settings, *known, fresh, tmp_path / 'out', fit)
    tables = sorted((tmp_path / 'out').rglob('*.csv'))
    assert len(tables) == len(list((tmp_path / 'out').rglob('*.png'))) == 2
    rows = table_of(next(path for path in tables if path.stem.endswith('c.mp4')))
    right = [int(row['phase']) == i // 10 for i, row in enumerate(rows)]
    assert len(rows) == 20
    assert np.mean(right) >= 0.9
    assert any('from 2 labelled videos' in note for note in notes)
    assert any('broken.mp4' in note for note in notes)


def test_an_empty_folder_is_one_line(network, settings, tmp_path):
    known = labelled(network, settings, tmp_path / 'known')
    (tmp_path / 'fresh').mkdir()
    with pytest.raises(data.DataError, match='no video in it'):
        predict_folder(network, settings, *known, tmp_path / 'fresh', tmp_path / 'out', fit)
