"""Videos to augmented views: two views by the published rule, computed slowly; each step of the
augmentation against its definition, its draws against the published values."""
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import data
from datasets.pairs import VideoPairs, interleaved_views
from miniatures import numbers, write_video
from pictures.canvas import denormalise
from test_video import broken_files, video_file
from running.errors import UserError

FRAMES = (60, 9, 25, 1, 40)


# --------------------------------------------------------------------------------------------------
# Two views

def slow_view(rng, length, frames, block, reach=None, first=None):
    """One view by the published rule, step by step; first: that of the view before it, if any."""
    n = min(length, frames)
    ratio = rng.uniform(1, 1.5)
    size = math.ceil(ratio * length) if block == 'length' else math.ceil(ratio * n)
    if first is None:
        offset = int(rng.integers(0, max(length - size, 1)))
    else:
        lowest = max(0, min(length - size, first - reach))
        highest = max(1, min(length - size + 1, first + reach + 1))
        offset = int(rng.integers(lowest, highest))
    chosen = sorted(rng.choice(size, n, replace=False).tolist())
    return [offset + position for position in chosen] + [length] * (frames - n)


@pytest.mark.parametrize('block', ['length', 'clip'])
@pytest.mark.parametrize('shift', [0.8, 0])
def test_two_views(block, shift):
    sizes = itertools.product((1, 2, 3, 16, 17, 40, 300, 1000), (2, 8, 16, 80))
    for seed, (length, frames) in enumerate(sizes):
        for k in range(5):
            rng = np.random.default_rng([seed, k])
            views = data.two_views(rng, length, frames, block=block, shift=shift)
            rng = np.random.default_rng([seed, k])
            reach = int((1 - 0.2) * min(length, frames)) if shift else 0
            first = slow_view(rng, length, frames, block)
            expected = [first, slow_view(rng, length, frames, block, reach, first=first[0])]
            if max(view[0] for view in expected) < length:           # else one is but padding
                assert views.tolist() == expected
            else:
                assert frames <= 2 or length == 1
            for view in views:
                real = view[:min(length, frames)]
                assert (np.diff(real) > 0).all() and real[0] >= 0 and view[0] < length
                assert (view[len(real):] == length).all()
                if block == 'clip' and length > 1.5 * frames + 1:
                    assert real.max() < length


def test_time_contrastive_pairs():
    for k in range(50):
        for length in (5, 12, 40):
            views = interleaved_views(np.random.default_rng(k), length, 16)
            plain = data.two_views(np.random.default_rng(k), length, 8)
            assert views[:, 0::2].tolist() == plain.tolist()
            for anchor, positive in views.reshape(-1, 2).tolist():
                if anchor >= length:
                    assert positive == length                 # padding stays padding
                else:
                    assert max(0, anchor - 5) <= positive <= max(0, anchor - 1)


# --------------------------------------------------------------------------------------------------
# Clips

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    for i, frames in enumerate(FRAMES):
        write_video(folder / f'v{i}.mp4', frames)
    return folder


def videos_of(files):
    videos = []
    for i, file in enumerate(sorted(files.glob('v*.mp4'))):
        videos.append(video_file(file, action='ab'[i % 2]))
    return videos


@pytest.mark.parametrize('kind, options', [
    (data.Clips, {}), (data.Clips, {'block': 'clip'}), (VideoPairs, {'sample': interleaved_views})])
def test_items(kind, options, files):
    videos = videos_of(files)
    by_name = {video.name: video for video in videos}
    clips = kind(videos, frames=16, seed=3, **options)
    for index in range(len(clips)):
        item = clips[2, index]
        names = item['names']
        assert len(set(names)) == len(names) == (2 if kind is VideoPairs else 1)
        assert names[0] == videos[index].name and item['skipped'] == {}
        assert by_name[names[0]].action == by_name[names[-1]].action
        assert item['seeds'].shape == (2,) and item['seeds'][0] != item['seeds'][1]
        assert item['length'].dtype == item['time'].dtype == torch.int64
        assert item['time'].shape == item['valid'].shape == (2, 16)
        for v, name in enumerate([names[0], names[-1]]):
            length = by_name[name].frames
            time = item['time'][v]
            valid = item['valid'][v]
            assert item['length'][v] == length and valid.any()
            assert 0 <= time.min() and time.max() < length
            assert (time[~valid] == length - 1).all()
            assert numbers(item['clips'][v]) == time.tolist()
            if kind is data.Clips:
                assert valid.sum() <= min(length, 16) and (time.diff() >= 0).all()


def same(a, b):
    """Whether two items are alike in everything."""
    tensors = ['time', 'length', 'valid', 'labels', 'seeds']
    left, right = [[*item['clips'], *map(item.get, tensors)] for item in (a, b)]
    words = [a[key] == b[key] for key in ('names', 'skipped')]
    return all(words) and all(map(torch.equal, left, right))


def test_items_depend_on_seed_epoch_and_video_only(files):
    (files / 'broken.mp4').write_bytes(b'')

    def clips(seed):
        videos = [*videos_of(files), video_file(files / 'broken.mp4')]
        return data.Clips(videos, frames=8, seed=seed)

    keys = list(itertools.product((0, 1), (5, 0, 2, 4, 1, 3)))
    alone = clips(1)
    expected = {key: alone[key] for key in reversed(keys)}
    for workers in (0, 1, 2):
        loader = DataLoader(
            clips(1), sampler=keys, batch_size=2, collate_fn=list, num_workers=workers)
        for key, item in zip(keys, itertools.chain.from_iterable(loader)):
            assert same(item, expected[key])
    assert not same(expected[0, 0], expected[1, 0])
    assert not same(expected[0, 0], clips(2)[0, 0])


def test_broken_videos_are_replaced_and_named(tmp_path, files):
    names = broken_files(tmp_path)
    videos = videos_of(files) + [video_file(tmp_path / name) for name in names]
    clips = data.Clips(videos, frames=40)
    for index in range(5, len(videos)):
        item = clips[0, index]
        assert item['names'][0][0] == 'v' and videos[index].name in item['skipped']
        for name, reason in item['skipped'].items():
            assert name in reason and '\n' not in reason
    with pytest.raises(UserError, match='in a row'):
        data.Clips(videos[5:], frames=8)[0, 0]


@pytest.fixture
def labelled(files):
    """Three phases of action a, one of b, one video without labels -> videos, their classes."""
    videos = videos_of(files)
    phases = [
        np.arange(60) * 3 // 60,
        np.arange(9) % 2 - 1,      # unlabelled, 0, unlabelled, 0 ...
        np.arange(25) * 3 // 25,
        np.array([-1]),
    ]
    for video, labels in zip(videos, phases):
        video.annotate = lambda _, labels=labels: labels
    classes = [phases[0], np.where(phases[1] < 0, -1, 3), phases[2], phases[3], np.full(40, -1)]
    return videos, classes


@pytest.mark.parametrize('kind', [data.Clips, VideoPairs])
def test_labels_of_clips(kind, labelled):
    """Class = phase, counted on through the actions; each frame's is that of its time stamp."""
    videos, expected = labelled
    expected = dict(zip([video.name for video in videos], expected))
    clips = kind(videos, frames=24, with_labels=True)
    assert clips.classes == 4
    for epoch, index in itertools.product(range(3), range(5)):
        item = clips[epoch, index]
        assert item['labels'].shape == (2, 24) and item['labels'].dtype == torch.int64
        assert (item['labels'][~item['valid']] == -1).all()
        for v, name in enumerate([item['names'][0], item['names'][-1]]):
            valid = item['valid'][v]
            classes = expected[name][item['time'][v][valid].numpy()]
            assert item['labels'][v][valid].tolist() == classes.tolist()
    without = kind(videos, frames=24)[0, 0]
    assert (without['labels'] == -1).all() and torch.equal(without['time'], clips[0, 0]['time'])


def test_labels_that_do_not_fit_are_told_to_who_asks(labelled):
    videos, _ = labelled
    videos[0].annotate = lambda _: np.zeros(7)
    item = data.Clips(videos, frames=24, with_labels=True)[0, 0]
    assert '7 labels for 60 frames' in item['skipped'][videos[0].name]
    assert data.Clips(videos, frames=24)[0, 0]['skipped'] == {}


def test_a_batch_of_clips(files):
    clips = data.Clips(videos_of(files), frames=6)
    items = [clips[0, i] for i in range(3)]
    batch = data.collate(items)
    assert batch['time'].shape == batch['valid'].shape == batch['labels'].shape == (3, 2, 6)
    assert batch['length'].shape == (3, 2)
    out = data.views(batch, 32, jitter=0.3)
    assert out.shape == (3, 2, 6, 3, 32, 32) and out.dtype == torch.float32
    for item, views in zip(items, out):
        for v in range(2):
            alone = data.augment(item['clips'][v], item['seeds'][v], 32, jitter=0.3)
            assert torch.equal(views[v], alone)


# --------------------------------------------------------------------------------------------------
# Augmentation

def noise(*shape):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, shape, np.uint8))


def shades(height=96, width=96):
    """A picture whose red says how far down a pixel is, its green how far right."""
    down = torch.linspace(40, 215, height)[:, None].expand(height, width)
    right = torch.linspace(40, 215, width).expand(height, width)
    return torch.stack([down, right, torch.full((height, width), 128.)]).round().byte()[None]


def test_one_draw_serves_a_whole_clip_and_leaves_the_global_generators():
    frames = noise(1, 3, 50, 60).expand(4, -1, -1, -1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for seed in range(10):
        out = data.augment(frames, seed, 24)
        assert out.shape == (4, 3, 24, 24) and out.dtype == torch.float32
        assert torch.equal(out[0], out[3])
        assert torch.equal(out, data.augment(frames, seed, 24))
    assert torch.equal(torch.rand(3), expected)


def test_frames_that_are_no_bytes_are_refused_in_one_line():
    """Of a user's own reader: colours from 0 to 1 would all become black."""
    for frames in noise(2, 3, 40, 40) / 255, noise(2, 40, 40):
        video = data.Video('mine', lambda: 2, lambda indices: frames[indices])
        for read in (lambda: video.read([1, 0])), (lambda: list(video.parts())):
            with pytest.raises(UserError, match='uint8'):
                read()


def seen_share(shade):
    """Which share of the height of `shades` a picture (S, S) spans: by its slope in the middle,
    which no blur changes."""
    S = len(shade)
    return float(shade[S - 6].mean() - shade[5].mean()) / (S - 11) * S / (175 / 255)


def test_crops_and_flips_are_carls():
    """Read off a picture of shades, without jitter: area 0.8 to 1, aspect 3/4 to 4/3, flip 0.5."""
    areas, aspects, flips = [], [], []
    for seed in range(1200):
        red, green, _ = denormalise(data.augment(shades(), seed, 24, jitter=0, hue=0))[0]
        if (red - green).abs().max() < 1e-3:
            continue                                      # grey
        height, width = seen_share(red), seen_share(green.T)
        flips.append(width < 0)
        areas.append(height * abs(width))
        aspects.append(abs(width) / height)
    assert 0.77 < min(areas) < 0.83 and 0.97 < max(areas) < 1.05
    assert 0.72 < min(aspects) < 0.85 and 1.2 < max(aspects) < 1.4
    assert abs(np.mean(flips) - 0.5) < 0.05


def test_colours_are_jittered_and_lost_as_often_as_carls():
    """One red: by its colours alone, in 1200 draws, 0.8 are jittered, 0.2 are grey."""
    red = torch.tensor([200, 100, 50], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 8, 8)
    grey, jittered = [], []
    for seed in range(1200):
        still = denormalise(data.augment(red, seed, 8, crop=1, jitter=0, hue=0))[0, :, 4, 4]
        moved = denormalise(data.augment(red, seed, 8, crop=1, hue=0))[0, :, 4, 4]
        grey.append(bool(still.std() < 1e-3))
        jittered.append(bool((moved - still).abs().max() > 1e-3))
    assert abs(np.mean(grey) - 0.2) < 0.04
    assert abs(np.mean(jittered) - 0.8) < 0.04


def test_blur_is_5_wide_and_9_high():
    frames = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    frames[:, :, 16, 16] = 255
    widths = set()
    for seed in range(200):
        out = denormalise(data.augment(frames, seed, 32, crop=1, jitter=0, hue=0))[0, 0]
        rows, columns = torch.nonzero(out > 1e-5, as_tuple=True)
        widths.add((int(rows.max() - rows.min()), int(columns.max() - columns.min())))
    assert max(height for height, _ in widths) in (8, 9, 10)
    assert max(width for _, width in widths) in (4, 5, 6)


def test_a_frame_that_no_crop_fits_is_squashed_whole():
    """FineGym's 640 x 360: no crop of aspect 4/3 has 0.8 of it."""
    frame = shades(360, 640)
    for seed in range(20):
        red, green, _ = denormalise(data.augment(frame, seed, 32, jitter=0, hue=0))[0]
        if (red - green).abs().max() < 1e-3:
            continue                                      # grey
        assert seen_share(red) == pytest.approx(1, abs=0.05)
        assert abs(seen_share(green.T)) == pytest.approx(1, abs=0.05)


def test_center_and_normalisation():
    for height, width, top, left in [(360, 640, 68, 208), (225, 227, 1, 2), (224, 224, 0, 0)]:
        frames = noise(1, 3, height, width)
        expected = frames[:, :, top:top + 224, left:left + 224] / 255
        assert torch.allclose(denormalise(data.center(frames, 224)), expected, atol=1e-6)
    black = data.normalise(torch.zeros(3, 1, 1)).flatten()
    assert torch.allclose(black, torch.tensor([-2.1179, -2.0357, -1.8044]), atol=1e-4)
    frames = noise(2, 3, 100, 300)    # a smaller side whole
    expected = F.interpolate(frames[:, :, :, 38:262] / 255, (224, 224), mode='bilinear')
    assert torch.allclose(denormalise(data.center(frames, 224)), expected, atol=1e-6)
