"""Data sets, decoding, sampling, augmentation, the doctor: against what was written, and slow computation."""
import itertools
import math
import os
import pickle
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader

import data
import evaluate
import miniatures as mini
from datasets import carl, finegym, pouring, synthetic
from datasets import images as image_files
from datasets import video as video_files
from miniatures import number, numbers, picture, write_images, write_video


def video_file(path, **known):
    return data.video_file(Path(path).name, path, **known)


# ------------------------------------------------------------------------------------------------------------
# Decoding

FORMATS = {'b-frames.mp4': {}, 'short.mp4': {'options': {'bf': '3', 'g': '3'}},
           'open.mp4': {'options': {'bf': '3', 'g': '12', 'x264-params': 'open-gop=1'}},
           'all-key.mov': {'codec': 'mjpeg', 'options': {}}, 'one.mkv': {}, 'old.avi': {'codec': 'mpeg4'},
           'some.gif': {'codec': 'gif', 'options': {}}}


@pytest.mark.parametrize('name', FORMATS)
def test_frame_i_is_frame_i(name, tmp_path):
    write_video(tmp_path / name, 130, **FORMATS[name])
    video = video_file(tmp_path / name)
    assert video.frames == 130
    assert numbers(itertools.chain.from_iterable(video.parts(50))) == list(range(130))
    assert [len(part) for part in video.parts(50)] == [50, 50, 30]
    for indices in ([129], [0], [64, 65, 66], [5, 100, 7, 5], [0, 60, 129]):
        assert numbers(video.read(indices)) == indices
    with pytest.raises(IndexError):
        video.read([130])


def test_seeking_decodes_little(tmp_path, monkeypatch):
    write_video(tmp_path / 'long.mp4', 400, options={'bf': '2', 'g': '20', 'sc_threshold': '0'})
    seen, original = [], video_files.frames_of
    monkeypatch.setattr(video_files, 'frames_of', lambda file: (seen.append(f) or f for f in original(file)))
    assert numbers(video_file(tmp_path / 'long.mp4').read([395, 17, 17])) == [395, 17, 17]
    assert len(seen) < 60
    seen.clear()
    assert numbers(video_file(tmp_path / 'long.mp4').read(range(400))) == list(range(400))
    assert len(seen) == 400


@pytest.mark.parametrize('keep', [0.5, 0.8])
def test_cut_off_mp4_ends_where_its_frames_end(keep, tmp_path):
    path = tmp_path / 'a.mp4'
    write_video(path, 100, form={'movflags': 'faststart'})
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * keep)])
    with av.open(str(path)) as file:
        assert file.streams.video[0].frames == 100  # what the header claims
    video = video_file(path)
    assert 20 < video.frames < 100
    assert numbers(video.read(range(video.frames)))[:20] == list(range(20))
    labelled = video_file(path, annotate=lambda n: np.zeros(100))
    with pytest.raises(data.DataError, match='a.mp4: 100 labels for'):
        labelled.labels


def broken_files(folder):
    write_video(folder / 'whole.mp4', 30)
    whole = (folder / 'whole.mp4').read_bytes()
    (folder / 'no index.mp4').write_bytes(whole[:len(whole) // 2])
    (folder / 'empty.mp4').write_bytes(b'')
    (folder / 'text.mp4').write_text('Sign in to confirm your age\n')
    (folder / 'noise.avi').write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / 'empty.gif').write_bytes(b'')
    damaged = bytearray(whole)
    damaged[len(whole) // 4:len(whole) // 2] = bytes(len(whole) // 2 - len(whole) // 4)
    (folder / 'damaged.mp4').write_bytes(damaged)
    (folder / 'folder.mp4').mkdir()
    return ['no index.mp4', 'empty.mp4', 'text.mp4', 'noise.avi', 'empty.gif', 'damaged.mp4', 'folder.mp4',
            'gone.mp4']


def test_broken_videos_are_errors_of_one_line(tmp_path):
    for name in broken_files(tmp_path):
        with pytest.raises(data.DataError) as error:
            video = video_file(tmp_path / name)
            video.read(range(video.frames))
        assert name in str(error.value) and '\n' not in str(error.value)


def test_images(tmp_path):
    write_images(tmp_path / 'v', 12)
    for i in range(1, 13):
        (tmp_path / 'v' / f'{i:06d}.jpg').rename(tmp_path / 'v' / f'frame{i}.jpg')  # frame10 after frame9
    assert numbers(image_files.read_folder(tmp_path / 'v', range(12))) == list(range(12))
    (tmp_path / 'v' / 'frame3.jpg').write_bytes((tmp_path / 'v' / 'frame3.jpg').read_bytes()[:700])
    assert numbers(image_files.read_folder(tmp_path / 'v', [0, 1, 3])) == [0, 1, 3]
    with pytest.raises(data.DataError, match='frame3.jpg'):
        list(image_files.read_folder(tmp_path / 'v', range(12)))
    (tmp_path / 'v' / 'frame7.jpg').write_bytes(b'')
    with pytest.raises(data.DataError, match='frame7.jpg'):
        list(image_files.read_folder(tmp_path / 'v', [6]))


# ------------------------------------------------------------------------------------------------------------
# Two views

def slow_views(rng, length, frames, block, shift):
    """The published rule, step by step."""
    views, n, offset = [], min(length, frames), None
    for v in 'ab':
        r = rng.uniform(1, 1.5)
        size = math.ceil(r * length) if block == 'length' else math.ceil(r * n)
        if v == 'a':
            offset = int(rng.integers(0, max(length - size, 1)))
        else:
            reach = int((1 - 0.2) * n) if shift else 0
            lowest = max(0, min(length - size, views[0][0] - reach))
            offset = int(rng.integers(lowest, max(1, min(length - size + 1, views[0][0] + reach + 1))))
        chosen = sorted(rng.choice(size, n, replace=False).tolist())
        views.append([offset + c for c in chosen] + [length] * (frames - n))
        if min(views[-1]) >= length:  # nothing but padding
            return None
    return views


@pytest.mark.parametrize('block', ['length', 'clip'])
@pytest.mark.parametrize('shift', [0.8, 0])
def test_two_views(block, shift):
    for seed, (length, frames) in enumerate(itertools.product((2, 3, 16, 17, 40, 300, 1000), (2, 8, 16, 80))):
        for k in range(5):
            expected = slow_views(np.random.default_rng([seed, k]), length, frames, block, shift)
            views = data.two_views(np.random.default_rng([seed, k]), length, frames, block=block, shift=shift)
            assert expected is None or views.tolist() == expected
            assert expected or frames <= 2
            for view in views:
                real = view[:min(length, frames)]
                assert (np.diff(real) > 0).all() and real[0] >= 0 and (view < length).any()
                assert (view[len(real):] == length).all()
                if block == 'clip' and length > 1.5 * frames + 1:
                    assert real.max() < length


def test_a_view_of_one_frame_is_that_frame():
    for k in range(20):
        for block in ('length', 'clip'):
            assert data.two_views(np.random.default_rng(k), 1, 4, block=block).tolist() == [[0, 1, 1, 1]] * 2


def test_time_contrastive_pairs():
    for k in range(50):
        pairs = data.interleave(np.random.default_rng(k), np.array([0, 2, 30, 40, 41]), 40).reshape(-1, 2)
        (a, p), (b, q), (c, r), *late = pairs.tolist()
        assert (a, p) == (0, 0) and b == 2 and 0 <= q <= 1 and c == 30 and 25 <= r <= 29
        assert late == [[40, 40], [41, 40]]  # padding stays padding


# ------------------------------------------------------------------------------------------------------------
# Clips

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    for i, n in enumerate((60, 9, 25, 1, 40)):
        write_video(folder / f'v{i}.mp4', n)
    return folder


def videos_of(files):
    return [video_file(file, action='ab'[i % 2]) for i, file in enumerate(sorted(files.glob('v*.mp4')))]


@pytest.mark.parametrize('options', [{}, {'block': 'clip'}, {'pairs': 'videos'}, {'interleaved': True},
                                     {'pairs': 'videos', 'interleaved': True, 'block': 'clip'}])
@pytest.mark.parametrize('T', [16, 7])
def test_items(options, T, files):
    videos, decoded = videos_of(files), []
    for video in videos:
        def decode(indices, original=video.decode):
            decoded.append(indices.tolist())
            return original(indices)
        video.decode = decode
    clips = data.Clips(videos, frames=T, seed=3, **options)
    by_name = {video.name: video for video in videos}
    for index in range(len(clips)):
        decoded.clear()
        item = clips[2, index]
        two = len(item['names']) == 2
        assert len(decoded) == len(item['frames']) == len(item['names']) == 1 + two
        assert all(len(set(indices)) == len(indices) for indices in decoded)
        assert item['names'][0] == videos[index].name and item['skipped'] == {}
        if 'pairs' in options:
            assert two and item['names'][0] != item['names'][1]
            assert by_name[item['names'][0]].action == by_name[item['names'][1]].action
        for v in (0, 1):
            length = by_name[item['names'][v % len(item['names'])]].frames
            time, valid, where = (item[key][v] for key in ('time', 'valid', 'where'))
            assert time.shape == valid.shape == where.shape == (T,) and valid.any()
            assert item['length'][v] == length and item['length'].dtype == time.dtype == torch.int64
            assert 0 <= time.min() and time.max() < length and (time[~valid] == length - 1).all()
            assert numbers(item['frames'][v % len(item['frames'])][where]) == time.tolist()
            if not options:
                assert valid.sum() <= min(length, T) and (time.diff() >= 0).all()


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else
        all(map(torch.equal, a[key], b[key])) if key == 'frames' else a[key] == b[key] for key in a)


def test_items_depend_on_seed_epoch_and_video_only(files):
    (files / 'broken.mp4').write_bytes(b'')
    videos = lambda: [*videos_of(files), video_file(files / 'broken.mp4')]
    keys = [(epoch, index) for epoch in (0, 1) for index in (5, 0, 2, 4, 1, 3)]
    runs = []
    for workers in (0, 1, 2):
        clips = data.Clips(videos(), frames=8, seed=1, hue=0.1)
        loader = DataLoader(clips, sampler=keys, batch_size=2, collate_fn=list, num_workers=workers)
        runs.append(dict(zip(keys, itertools.chain.from_iterable(loader))))
    alone = data.Clips(videos(), frames=8, seed=1, hue=0.1)
    for key in reversed(keys):
        assert all(same(run[key], alone[key]) for run in runs)
    assert not same(alone[0, 0], alone[1, 0])
    assert not same(alone[0, 0], data.Clips(videos(), frames=8, seed=2)[0, 0])


def test_broken_videos_are_replaced_and_named(tmp_path, files):
    names = broken_files(tmp_path)
    videos = videos_of(files) + [video_file(tmp_path / name) for name in names]
    clips = data.Clips(videos, frames=40)
    for index in range(5, len(videos)):
        item = clips[0, index]
        assert item['names'][0][0] == 'v' and videos[index].name in item['skipped']
        assert all(name in reason and '\n' not in reason for name, reason in item['skipped'].items())
    with pytest.raises(data.DataError, match='in a row'):
        data.Clips(videos[5:], frames=8)[0, 0]


def test_labels_of_clips(files):
    """Class = phase, counted on through the actions; each frame's is that of its time stamp."""
    frames = (60, 9, 25, 1, 40)
    phases = [np.arange(n) * 3 // n if i % 2 == 0 else np.arange(n) % 2 - 1 for i, n in enumerate(frames)]
    videos = videos_of(files)
    for video, labels in zip(videos[:4], phases):
        video.annotate = lambda _, labels=labels: labels
    clips = data.Clips(videos, frames=24, labels=True)
    assert clips.classes == 4                              # a: phases 0, 1, 2; b: phase 0, else unlabelled
    expected = [phases[0], np.where(phases[1] < 0, -1, 3), phases[2], np.array([-1]), np.full(40, -1)]
    for epoch, index in itertools.product(range(3), range(5)):
        item = clips[epoch, index]
        labels = item['labels']
        assert labels.shape == (2, 24) and labels.dtype == torch.int64
        assert (labels[~item['valid']] == -1).all() and not item['valid'].all()
        time = item['time'][item['valid']]
        assert labels[item['valid']].tolist() == expected[index][time].tolist()
    batch = data.collate([clips[0, 0], clips[0, 1]])
    assert batch['labels'].shape == (2, 2, 24)
    pairs = data.Clips(videos, frames=24, labels=True, pairs='videos')[0, 0]
    other = [video.name for video in videos].index(pairs['names'][1])
    assert other in (2, 4)
    time = pairs['time'][1][pairs['valid'][1]]
    assert pairs['labels'][1][pairs['valid'][1]].tolist() == expected[other][time].tolist()
    without = data.Clips(videos, frames=24)[0, 0]
    assert (without['labels'] == -1).all() and torch.equal(without['time'], clips[0, 0]['time'])
    videos[0].annotate = lambda _: np.zeros(7)             # does not fit: only who asks for labels is told
    del videos[0].labels
    item = data.Clips(videos, frames=24, labels=True)[0, 0]
    assert '7 labels for 60 frames' in item['skipped'][videos[0].name]
    assert data.Clips(videos, frames=24)[0, 0]['skipped'] == {}


@pytest.mark.parametrize('pairs', ['views', 'videos'])
def test_a_batch_of_clips(pairs, files):
    clips = data.Clips(videos_of(files), frames=6, pairs=pairs)
    items = [clips[0, i] for i in range(3)]
    batch = data.collate(items)
    assert batch['time'].shape == batch['valid'].shape == (3, 2, 6) and batch['length'].shape == (3, 2)
    out = data.views(batch, 32)
    assert out.shape == (3, 2, 6, 3, 32, 32) and out.dtype == torch.float32
    for item, views in zip(items, out):
        for v, view in enumerate(views):
            for t, where in enumerate(item['where'][v]):  # frame by frame, as if each were a clip
                frame = item['frames'][v if pairs == 'videos' else 0][where][None]
                assert torch.allclose(view[t], data.augment(frame, item['augment'][v], 32)[0], atol=1e-4)


# ------------------------------------------------------------------------------------------------------------
# Augmentation

NOTHING = {'flip': False, 'colour': [], 'blur': None, 'grey': False}


def raw(x):
    """Undo the normalisation."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return x * std[:, None, None] + mean[:, None, None]


def noise(*shape):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def test_denormalise():
    frames = noise(2, 3, 4, 5) / 255
    assert torch.allclose(data.denormalise(data.normalise(frames)), frames, atol=1e-6)
    assert torch.allclose(data.denormalise(data.normalise(frames)), raw(data.normalise(frames)), atol=1e-7)


def test_augment_crop_resize_flip():
    frames = noise(3, 3, 40, 60)
    out = raw(data.augment(frames, {**NOTHING, 'crop': (0, 0, 40, 60)}, 32))
    assert torch.allclose(out, F.interpolate(frames / 255, (32, 32), mode='bilinear'), atol=1e-6)
    out = raw(data.augment(frames, {**NOTHING, 'crop': (3, 7, 32, 32)}, 32))
    assert torch.allclose(out, frames[:, :, 3:35, 7:39] / 255, atol=1e-6)
    # Pillow agrees where it does not average, on the way up: to the rounding of its 8 bits
    pillow = Image.fromarray(frames[0].permute(1, 2, 0).numpy()).crop((7, 3, 31, 21))
    out = raw(data.augment(frames[:1], {**NOTHING, 'crop': (3, 7, 18, 24)}, 48))[0].permute(1, 2, 0)
    assert np.abs(out.numpy() * 255 - np.array(pillow.resize((48, 48), Image.BILINEAR))).max() < 1.01
    flipped = raw(data.augment(frames, {**NOTHING, 'crop': (3, 7, 32, 32), 'flip': True}, 32))
    assert torch.allclose(flipped, frames[:, :, 3:35, 7:39].flip(-1) / 255, atol=1e-6)


def test_augment_colour():
    frames, whole = noise(2, 3, 16, 16), {**NOTHING, 'crop': (0, 0, 16, 16)}
    x = frames / 255
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    grey = (x * weights).sum(1, keepdim=True)
    average = grey.mean((1, 2, 3), keepdim=True)  # of each frame
    blend = lambda f, other: (f * x + (1 - f) * other).clamp(0, 1)
    for name, factor, expected in (
            ('brightness', 1.5, (1.5 * x).clamp(0, 1)), ('contrast', 0.4, blend(0.4, average)),
            ('saturation', 1.7, blend(1.7, grey)), ('hue', 1 / 3, x[:, [2, 0, 1]]), ('hue', 0.0, x)):
        out = raw(data.augment(frames, {**whole, 'colour': [(name, factor)]}, 16))
        assert torch.allclose(out, expected, atol=2e-3 if name != 'hue' else 1e-5), name
    out = raw(data.augment(frames, {**whole, 'grey': True}, 16))
    assert torch.allclose(out, grey.expand(-1, 3, -1, -1), atol=2e-4)
    order = [('brightness', 1.8), ('contrast', 0.3)]
    one, other = (data.augment(frames, {**whole, 'colour': colour}, 16) for colour in (order, order[::-1]))
    assert not torch.allclose(one, other, atol=0.05)


def test_augment_blur_is_5_wide_and_9_high():
    frames = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    frames[:, :, 16, 16] = 255
    out = raw(data.augment(frames, {**NOTHING, 'crop': (0, 0, 32, 32), 'blur': 2.0}, 32))[0, 0]
    rows, columns = torch.nonzero(out > 1e-5, as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 20, 14, 18)
    x = torch.arange(-4, 5.) ** 2
    column, row = torch.exp(-x / 8), torch.exp(-x[2:7] / 8)
    assert torch.allclose(out[12:21, 14:19], (column / column.sum())[:, None] * row / row.sum(), atol=1e-5)


def test_one_draw_serves_a_whole_clip():
    frames = noise(1, 3, 50, 60).expand(4, -1, -1, -1)
    for k in range(10):
        out = data.augment(frames, data.draw_augmentation(np.random.default_rng(k), 50, 60), 24)
        assert out.shape == (4, 3, 24, 24) and torch.equal(out[0], out[3]) and out.dtype == torch.float32


def test_draws():
    draws = [data.draw_augmentation(np.random.default_rng(k), 224, 224) for k in range(3000)]
    tops, lefts, heights, widths = np.array([draw['crop'] for draw in draws]).T
    area, ratio = heights * widths / 224 ** 2, widths / heights
    assert 0.79 < area.min() < 0.81 and area.max() <= 1
    assert 0.74 < ratio.min() < 0.85 and 1.2 < ratio.max() < 1.35
    assert tops.min() == lefts.min() == 0 and (tops + heights).max() == (lefts + widths).max() == 224
    part = {'flip': .5, 'colour': .8, 'blur': .4, 'grey': .2}
    for key, expected in part.items():
        assert abs(np.mean([bool(draw[key]) for draw in draws]) - expected) < 0.03
    orders = [tuple(name for name, _ in draw['colour']) for draw in draws if draw['colour']]
    assert len(set(orders)) == 24
    for name in orders[0]:
        low, high = (-.2, .2) if name == 'hue' else (.2, 1.8)
        factors = [dict(draw['colour'])[name] for draw in draws if draw['colour']]
        assert low <= min(factors) < low + .05 and high - .05 < max(factors) <= high
    sigmas = [draw['blur'] for draw in draws if draw['blur']]
    assert 0.1 <= min(sigmas) < 0.2 and 1.9 < max(sigmas) <= 2
    for k in range(50):  # no crop of these ratios and 0.8 of the area fits into 640x360: all of it, squashed
        assert data.draw_augmentation(np.random.default_rng(k), 360, 640)['crop'] == (0, 0, 360, 640)
    still = data.draw_augmentation(np.random.default_rng(0), 64, 64, scale=(1, 1), ratio=(1, 1), flip=0,
                                   jitter=0, blur=0, grey=0)
    assert still == {**NOTHING, 'crop': (0, 0, 64, 64)}


def test_center():
    for height, width, rows, columns in ((360, 640, (68, 292), (208, 432)), (225, 227, (1, 225), (2, 226)),
                                         (224, 224, (0, 224), (0, 224))):
        frames = noise(1, 3, height, width)
        expected = frames[:, :, slice(*rows), slice(*columns)] / 255
        assert torch.allclose(raw(data.center(frames, 224)), expected, atol=1e-6)
    frames = noise(2, 3, 100, 300)  # a smaller side whole
    expected = F.interpolate(frames[:, :, :, 38:262] / 255, (224, 224), mode='bilinear')
    assert torch.allclose(raw(data.center(frames, 224)), expected, atol=1e-6)
    black = data.center(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 8)[0, :, 0, 0]
    assert torch.allclose(black, torch.tensor([-2.1179, -2.0357, -1.8044]), atol=1e-4)


# ------------------------------------------------------------------------------------------------------------
# The synthetic set

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
