"""Two views of a video and the clips made of them: against the published rule, computed slowly."""
import itertools
import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import data
from miniatures import numbers, write_video
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


def slow_views(rng, length, frames, block, shift):
    """Both views, or None if one of them is nothing but padding."""
    reach = int((1 - 0.2) * min(length, frames)) if shift else 0
    a = slow_view(rng, length, frames, block)
    if min(a) >= length:
        return None
    b = slow_view(rng, length, frames, block, reach, first=a[0])
    if min(b) >= length:
        return None
    return [a, b]


@pytest.mark.parametrize('block', ['length', 'clip'])
@pytest.mark.parametrize('shift', [0.8, 0])
def test_two_views(block, shift):
    sizes = itertools.product((2, 3, 16, 17, 40, 300, 1000), (2, 8, 16, 80))
    for seed, (length, frames) in enumerate(sizes):
        for k in range(5):
            rng = np.random.default_rng([seed, k])
            expected = slow_views(rng, length, frames, block, shift)
            rng = np.random.default_rng([seed, k])
            views = data.two_views(rng, length, frames, block=block, shift=shift)
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
            views = data.two_views(np.random.default_rng(k), 1, 4, block=block)
            assert views.tolist() == [[0, 1, 1, 1]] * 2


def test_time_contrastive_pairs():
    for k in range(50):
        anchors = np.array([0, 2, 30, 40, 41])
        pairs = data.interleave(np.random.default_rng(k), anchors, 40).reshape(-1, 2)
        first, second, third, *late = pairs.tolist()
        assert first == [0, 0]
        assert second[0] == 2 and 0 <= second[1] <= 1
        assert third[0] == 30 and 25 <= third[1] <= 29
        assert late == [[40, 40], [41, 40]]    # padding stays padding


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


def note_what_is_decoded(videos):
    """-> a list to which every call of a video's decode adds its indices."""
    decoded = []
    for video in videos:
        def decode(indices, original=video.decode):
            decoded.append(indices.tolist())
            return original(indices)
        video.decode = decode
    return decoded


@pytest.mark.parametrize('options', [
    {}, {'block': 'clip'}, {'pairs': 'videos'}, {'interleaved': True},
    {'pairs': 'videos', 'interleaved': True, 'block': 'clip'}])
@pytest.mark.parametrize('T', [16, 7])
def test_items(options, T, files):
    videos = videos_of(files)
    by_name = {video.name: video for video in videos}
    decoded = note_what_is_decoded(videos)
    clips = data.Clips(videos, frames=T, seed=3, **options)
    for index in range(len(clips)):
        decoded.clear()
        item = clips[2, index]
        names = item['names']
        assert len(decoded) == len(item['frames']) == len(names) == (2 if 'pairs' in options else 1)
        assert all(len(set(indices)) == len(indices) for indices in decoded)
        assert names[0] == videos[index].name and item['skipped'] == {}
        if 'pairs' in options:
            assert names[0] != names[1]
            assert by_name[names[0]].action == by_name[names[1]].action
        check_view(item, 0, by_name[names[0]].frames, item['frames'][0], T, options)
        check_view(item, 1, by_name[names[-1]].frames, item['frames'][-1], T, options)


def check_view(item, v, length, frames, T, options):
    time = item['time'][v]
    valid = item['valid'][v]
    position = item['position'][v]
    assert time.shape == valid.shape == position.shape == (T,) and valid.any()
    assert item['length'][v] == length
    assert item['length'].dtype == time.dtype == torch.int64
    assert 0 <= time.min() and time.max() < length
    assert (time[~valid] == length - 1).all()
    assert numbers(frames[position]) == time.tolist()
    if not options:
        assert valid.sum() <= min(length, T) and (time.diff() >= 0).all()


def same(a, b):
    """Whether two items are alike in everything."""
    assert a.keys() == b.keys()
    for key in a:
        if key == 'frames':
            alike = all(map(torch.equal, a[key], b[key]))
        elif isinstance(a[key], torch.Tensor):
            alike = torch.equal(a[key], b[key])
        else:
            alike = a[key] == b[key]
        if not alike:
            return False
    return True


def test_items_depend_on_seed_epoch_and_video_only(files):
    (files / 'broken.mp4').write_bytes(b'')

    def clips(seed):
        videos = [*videos_of(files), video_file(files / 'broken.mp4')]
        return data.Clips(videos, frames=8, seed=seed, hue=0.1)

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


def test_broken_partners_are_named(tmp_path, files):
    (tmp_path / 'gone.mp4').write_bytes(b'')
    paths = [tmp_path / 'gone.mp4', files / 'v0.mp4', files / 'v4.mp4']
    videos = [video_file(path) for path in paths]
    for epoch in range(8):
        item = data.Clips(videos, frames=8, pairs='videos')[epoch, 1]
        assert sorted(item['names']) == ['v0.mp4', 'v4.mp4']
        assert [*item['skipped']] in ([], ['gone.mp4'])


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


def test_labels_of_clips(labelled):
    """Class = phase, counted on through the actions; each frame's is that of its time stamp."""
    videos, expected = labelled
    clips = data.Clips(videos, frames=24, with_labels=True)
    assert clips.classes == 4
    for epoch, index in itertools.product(range(3), range(5)):
        item = clips[epoch, index]
        labels = item['labels']
        assert labels.shape == (2, 24) and labels.dtype == torch.int64
        valid = item['valid']
        assert not valid.all() and (labels[~valid] == -1).all()
        time = item['time'][valid]
        assert labels[valid].tolist() == expected[index][time].tolist()
    batch = data.collate([clips[0, 0], clips[0, 1]])
    assert batch['labels'].shape == (2, 2, 24)
    without = data.Clips(videos, frames=24)[0, 0]
    assert (without['labels'] == -1).all() and torch.equal(without['time'], clips[0, 0]['time'])


def test_labels_of_two_videos(labelled):
    videos, expected = labelled
    names = [video.name for video in videos]
    item = data.Clips(videos, frames=24, with_labels=True, pairs='videos')[0, 0]
    for v in range(2):
        valid = item['valid'][v]
        time = item['time'][v][valid]
        classes = expected[names.index(item['names'][v])]
        assert item['labels'][v][valid].tolist() == classes[time].tolist()


def test_labels_that_do_not_fit_are_told_to_who_asks(labelled):
    videos, _ = labelled
    videos[0].annotate = lambda _: np.zeros(7)
    item = data.Clips(videos, frames=24, with_labels=True)[0, 0]
    assert '7 labels for 60 frames' in item['skipped'][videos[0].name]
    assert data.Clips(videos, frames=24)[0, 0]['skipped'] == {}


@pytest.mark.parametrize('pairs', ['views', 'videos'])
def test_a_batch_of_clips(pairs, files):
    clips = data.Clips(videos_of(files), frames=6, pairs=pairs)
    items = [clips[0, i] for i in range(3)]
    batch = data.collate(items)
    assert batch['time'].shape == batch['valid'].shape == (3, 2, 6)
    assert batch['length'].shape == (3, 2)
    out = data.views(batch, 32)
    assert out.shape == (3, 2, 6, 3, 32, 32) and out.dtype == torch.float32
    for item, views in zip(items, out):
        assert len(item['frames']) == (2 if pairs == 'videos' else 1)
        check_augmented(views[0], item['frames'][0], item['position'][0], item['augment'][0])
        check_augmented(views[1], item['frames'][-1], item['position'][1], item['augment'][1])


def check_augmented(view, frames, where, drawn):
    """Frame by frame, as if each were a clip."""
    for t, position in enumerate(where):
        alone = data.augment(frames[position][None], drawn, 32)[0]
        assert torch.allclose(view[t], alone, atol=1e-4)
