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
import miniatures as mini
from datasets import carl, finegym, pouring
from datasets import video as video_files
from miniatures import number, numbers, picture, write_images, write_video


def video_file(path, **known):
    return data.video_file(Path(path).name, path, **known)


# ------------------------------------------------------------------------------------------------------------
# Every layout: names, labels and frames are those that were written

@pytest.mark.parametrize('layout', mini.LAYOUTS)
def test_layout(layout, tmp_path, capsys):
    written = mini.LAYOUTS[layout](tmp_path, **({'actions': ['bowl', 'pushup']} if 'penn' in layout else {}))
    dataset = layout.split(',')[0]
    videos = data.load(dataset, tmp_path, image_size=48)
    videos = pickle.loads(pickle.dumps(videos))  # as a spawned worker gets them
    assert capsys.readouterr().err == ''
    for split in videos:
        found = {video.name: video for video in videos[split]}
        assert found.keys() == written[split].keys()
        for name, labels in written[split].items():
            video = found[name]
            if labels is None:
                assert video.labels is None
            else:
                assert video.labels.dtype == np.int64 and np.array_equal(video.labels, labels)
                assert video.frames == len(labels)
            frames = video.read([3, 0, 7, 3, video.frames - 1])
            assert frames.dtype == torch.uint8 and numbers(frames) == [3, 0, 7, 3, video.frames - 1]
            squashed = dataset in ('penn', 'pouring', 'folder')
            assert frames.shape == (5, 3, 48, 48) if squashed else (5, 3, 96, 160)
    assert videos['train'][0].action == {
        'penn': 'bowl', 'pouring': 'pouring', 'k400': 'abseiling', 'folder': 'jump high'}.get(dataset)


def test_penn_actor_is_its_box(tmp_path):
    mini.penn(tmp_path, actions=['bowl'], train=1, val=1)
    video = data.load('penn', tmp_path, image_size=64)['train'][0]
    masks = video.actor([0, 5])
    assert masks.shape == (2, 64, 64) and masks.dtype == torch.bool
    for mask, left in zip(masks, (40, 45)):  # x from left to left + 40 of 160, y from 24 to 72 of 96
        rows, columns = torch.nonzero(mask, as_tuple=True)
        assert (rows.min(), rows.max()) == (16, 47)
        assert abs(columns.min() - left * 64 / 160) <= 1
        assert abs(columns.max() + 1 - (left + 40) * 64 / 160) <= 1
    (tmp_path / 'labels' / '0001.mat').write_bytes(b'nonsense')
    with pytest.raises(data.DataError, match='0001.mat'):
        video.actor([0])
    (tmp_path / 'labels' / '0001.mat').unlink()
    assert video.actor([0]) is None


@pytest.mark.parametrize('given', [8, 18])
def test_penn_samples_the_longer_one_down(given, tmp_path):
    mini.penn(tmp_path, actions=['squat'], train=1, val=1, frames=12)
    labels = np.random.default_rng(0).integers(0, 4, given)
    np.save(tmp_path / 'penn_action_labels/train/squat/0001_squat.npy', labels)
    video = data.load('penn', tmp_path)['train'][0]
    assert video.frames == min(given, 12)
    expected = [math.floor(j * max(given, 12) / min(given, 12)) for j in range(video.frames)]
    assert numbers(video.read(range(video.frames))) == (expected if given < 12 else list(range(12)))
    assert video.labels.tolist() == (labels.tolist() if given < 12 else labels[expected].tolist())


def test_penn_folders_with_endings(tmp_path):
    mini.penn(tmp_path, actions=['bowl', 'pushup'], train=1, val=1)
    for split in ('train', 'val'):
        folder = tmp_path / 'penn_action_labels' / split
        (folder / 'bowl').rename(folder / 'bowling')
        (folder / 'pushup').rename(folder / 'pushups')
        shutil.copytree(folder / 'bowling', folder / 'jump_rope')
    assert [video.action for video in data.load('penn', tmp_path)['val']] == ['bowl', 'pushup']


def test_finegym_elements(tmp_path, capsys):
    mini.finegym(tmp_path)
    listed = finegym.elements(tmp_path / 'gym99_train_element_v1.0.txt', 99)
    assert listed == {'train-A_Eb0_E_000000_000002': {'A_0000_0001': 0, 'A_0000_0002': 98},
                      'train-A_Eb1_E_000100_000102': {'A_0000_0001': 1, 'A_0000_0002': 98}}
    (tmp_path / 'processed_videos/train-A_Eb1_E_000100_000102.mp4').unlink()
    with open(tmp_path / 'gym99_val_element.txt', 'a') as file:
        file.write('nobody_E_000001_000002_A_0000_0001 5\n')
    videos = data.load('finegym99', tmp_path)
    assert [video.name for video in videos['train']] == ['train-A_Eb0_E_000000_000002']
    assert len(videos['val']) == 2
    line, = capsys.readouterr().err.splitlines()
    assert 'train-A_Eb1_E_000100_000102.mp4' in line and 'nobody' in line


def test_finegym_rate_of_the_clip(tmp_path):
    write_video(tmp_path / 'a.mp4', 30, rate=10)
    labels = finegym.element_labels(str(tmp_path / 'a.mp4'), [(0.5, 1.0, 7), (2.95, 9.0, 8)], 30)
    assert labels.tolist() == [-1] * 5 + [7] * 6 + [-1] * 18 + [8]


def test_folder_splits(tmp_path, capsys):
    for name in ('clip 10', 'clip 9', 'clip 2', 'été', 'z', 'za', 'zb', 'zc', 'zd', 'ze'):
        write_video(tmp_path / f'{name}.mp4', 3)
    (tmp_path / '.hidden.mp4').write_bytes(b'')
    (tmp_path / 'notes.md').write_text('')
    videos = data.load('folder', tmp_path)
    assert [video.name for video in videos['train']] == [
        'clip 2.mp4', 'clip 9.mp4', 'clip 10.mp4', 'z.mp4', 'zb.mp4', 'zc.mp4', 'zd.mp4', 'ze.mp4']
    assert [video.name for video in videos['val']] == ['za.mp4', 'été.mp4']
    assert 'every fifth' in capsys.readouterr().err
    (tmp_path / 'z.mp4').unlink()
    videos = data.load('folder', tmp_path)
    assert len(videos['train']) == 9 and videos['train'] == videos['val']
    assert 'both' in capsys.readouterr().err


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
    assert numbers(video_files.read_folder(tmp_path / 'v', range(12))) == list(range(12))
    (tmp_path / 'v' / 'frame3.jpg').write_bytes((tmp_path / 'v' / 'frame3.jpg').read_bytes()[:700])
    assert numbers(video_files.read_folder(tmp_path / 'v', [0, 1, 3])) == [0, 1, 3]
    with pytest.raises(data.DataError, match='frame3.jpg'):
        list(video_files.read_folder(tmp_path / 'v', range(12)))
    Image.fromarray(picture(4, 80, 48)).save(tmp_path / 'v' / 'frame5.jpg')
    with pytest.raises(data.DataError, match='frame5.jpg.*80, 48.*160, 96'):
        list(video_files.read_folder(tmp_path / 'v', [3, 4], 32))
    (tmp_path / 'v' / 'frame7.jpg').write_bytes(b'')
    with pytest.raises(data.DataError, match='frame7.jpg'):
        list(video_files.read_folder(tmp_path / 'v', [6]))


# ------------------------------------------------------------------------------------------------------------
# Labels

@pytest.mark.parametrize('name, content, reason', [
    ('a.txt', b'0 0 1 1', '4 labels for 6 frames'), ('a.txt', b'0 0 1 1 2 x', 'integer'),
    ('a.txt', b'', 'integer'), ('a.txt', b'\xff\xfe0', 'a.txt'), ('a.txt', b'0 0 -2 0 0 0', '-2'),
    ('a.txt', b'0 0 1 1 1.5 2', 'integer'),
    ('a.npy', np.zeros(7, int), '7 labels for 6 frames'), ('a.npy', np.zeros((6, 2), int), 'integer'),
    ('a.npy', np.full(6, np.nan), 'integer'), ('a.npy', np.array([{}] * 6), 'a.npy'), ('a.npy', b'', 'a.npy'),
    ('a.npy', np.array(['0'] * 6), 'integer'), ('a.npy', np.array([0, 0, 1, np.inf, 1, 1]), 'integer')])
def test_labels_that_do_not_fit(name, content, reason, tmp_path):
    write_video(tmp_path / 'a.mp4', 6)
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content, allow_pickle=True)
    video, = data.load('folder', tmp_path)['train']
    assert numbers(video.read(range(6))) == list(range(6))  # the frames are none the worse
    with pytest.raises(data.DataError, match=reason) as error:
        video.labels
    assert 'a.' in str(error.value) and '\n' not in str(error.value)


def test_labels_of_penn_beyond_its_classes(tmp_path):
    mini.penn(tmp_path, actions=['pullup'], train=2, val=1)
    np.save(tmp_path / 'penn_action_labels/train/pullup/0001_pullup.npy', np.full(12, 2))
    first, second = data.load('penn', tmp_path)['train']
    with pytest.raises(data.DataError, match='0001_pullup.npy'):
        first.labels
    assert second.labels.max() == 1


# ------------------------------------------------------------------------------------------------------------
# TFRecords and pickles

def test_crc32c():
    assert pouring.crc32c(b'123456789') == 0xe3069283
    random = np.random.default_rng(0)
    for size in (0, 1, 2, 3, 4, 5, 63, 64, 255, 256, 257, 511, 4095, 4096, 5000):
        content = random.bytes(size)
        assert pouring.crc32c(content) == mini.crc32c(content)


def test_tfrecords_that_are_damaged(tmp_path, capsys):
    mini.pouring(tmp_path, train=4, val=1)
    path = tmp_path / 'pouring_train-0-of-2.tfrecord'
    whole = path.read_bytes()
    names = lambda: [video.name for video in data.load('pouring', tmp_path)['train']]
    assert names() == ['train_pour_0', 'train_pour_1', 'train_pour_2', 'train_pour_3']
    assert capsys.readouterr().err == ''
    for position, left in ((5000, [1, 2, 3]), (3, [2, 3]), (len(whole) - 2, [0, 2, 3])):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1:])
        assert names() == [f'train_pour_{i}' for i in left] and path.name in capsys.readouterr().err
    more = [whole + end for end in (b'more', *map(mini.framed, (b'', b'\x0a\xff', b'nonsense')))]
    for content, left in ((whole[:-10], [0, 2, 3]), (b'', [2, 3]), *((each, [0, 1, 2, 3]) for each in more)):
        path.write_bytes(content)
        assert names() == [f'train_pour_{i}' for i in left] and path.name in capsys.readouterr().err
    path.unlink()
    assert names() == ['train_pour_2', 'train_pour_3']
    assert '1 of the files pouring_train-*-of-2' in capsys.readouterr().err


def test_tfrecord_with_a_truncated_jpeg(tmp_path):
    mini.pouring(tmp_path, train=1, val=1)
    record = mini.sequence_example('broken', [mini.jpeg(0), mini.jpeg(1)[:900]], [0, 1])
    with open(tmp_path / 'pouring_val-0-of-1.tfrecord', 'ab') as file:
        file.write(mini.framed(record))
    good, bad = data.load('pouring', tmp_path)['val']
    assert bad.frames == 2 and numbers(bad.read([0])) == [0] and numbers(good.read([1])) == [1]
    with pytest.raises(data.DataError, match='pouring_val-0-of-1.tfrecord, bytes'):
        bad.read([1])


@pytest.mark.parametrize('protocol', range(2, 6))
def test_pickles_of_numbers(protocol, tmp_path):
    content = ([{'name': 'x', 'id': 1, 'half': 0.5, 'no': None, 'yes': True, 'raw': b'\xff', 'pair': (1, 2)},
                torch.tensor([3, -1, 4]), torch.tensor([0.5, 1]), torch.arange(6).reshape(2, 3).T,
                np.arange(5), np.array([[1.5], [2]], np.float32), np.int64(7), np.float32(.25), 'é'], [[]])
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(content, protocol))
    read = carl.read_pickle(tmp_path / 'a.pkl')
    assert str(read) == str(content) and torch.equal(read[0][3], content[0][3])
    assert read[0][4].dtype == np.int64 and type(read[0][7]) is np.float32


class Malicious:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


ATTACKS = {
    'os': lambda call: call, 'getattr': lambda _: Malicious(getattr, 'x', 'upper'),
    'eval': lambda call: Malicious(eval, f'__import__("os").{call.call.__name__}({call.args[0]!r})'),
    'inside torch': lambda call: Malicious(torch.storage._load_from_bytes, pickle.dumps(call, 2)),
    'inside numpy': lambda call: np.array([call], object),
    'numpy': lambda _: Malicious(np.fromfile, 'train.pkl'),
    'raw object': lambda _: Malicious(np.ndarray, (1,), np.dtype('O'), b'12345678')}


@pytest.mark.parametrize('attack', ATTACKS)
def test_pickles_that_would_run_something(attack, tmp_path):
    canary = tmp_path / 'canary'
    content = ATTACKS[attack](Malicious(os.system, f'touch {canary}'))
    mini.pouring_carl(tmp_path, train=1, val=1)
    (tmp_path / 'train.pkl').write_bytes(pickle.dumps([{'name': content}]))
    with pytest.raises(data.DataError, match='train.pkl: refused') as error:
        data.load('pouring', tmp_path)
    assert '\n' not in str(error.value) and not canary.exists()


@pytest.mark.parametrize('content', [b'', b'\x80\x04', b'not a pickle', *map(pickle.dumps, (
    3, [3], [{}], [{'name': 'x', 'video_file': 5, 'frame_label': 1}], None))])
def test_pickles_of_something_else(content, tmp_path):
    mini.pouring_carl(tmp_path, train=1, val=1)
    (tmp_path / 'val.pkl').write_bytes(content)
    with pytest.raises(data.DataError, match='val.pkl'):
        data.load('pouring', tmp_path)


# ------------------------------------------------------------------------------------------------------------
# Data sets of which something is missing

@pytest.mark.parametrize('layout, gone, said', [
    ('penn', 'penn_action_labels', 'penn_action_labels/train.*TCC'), ('penn', 'frames', 'frames.*PennAction'),
    ('penn, CARL', 'videos', 'lacks videos.*CARL'),
    ('pouring', 'pouring_val-0-of-1.tfrecord', 'pouring_val.*TCC'),
    ('pouring, CARL', 'val.pkl', 'lacks val.pkl'),
    ('finegym99', 'gym99_val_element.txt', 'gym99_val_element.*FineGym'),
    ('finegym99', 'finegym_annotation_info_v1.0.json', 'annotation.*FineGym'),
    ('finegym99', 'processed_videos', 'processed_videos'), ('finegym99, CARL', 'gym99_val.pkl', 'gym99_val'),
    ('k400', 'annotations', 'annotations/train.csv.*cvdfoundation'), ('k400', 'train', 'train'),
    ('folder', 'val', 'val/')])
def test_missing_parts_are_named(layout, gone, said, tmp_path):
    mini.LAYOUTS[layout](tmp_path, train=1, val=1, **({'actions': ['bowl']} if 'penn' in layout else {}))
    gone = tmp_path / gone
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(data.DataError, match=said) as error:
        data.load(layout.split(',')[0], tmp_path)
    assert '\n' not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize('dataset, given', [
    ('penn', None), ('penn', 'nowhere'), ('folder', ''), ('imagenet', '.'), ('k400', 'a.txt')])
def test_no_folder(dataset, given, tmp_path):
    (tmp_path / 'a.txt').write_text('')
    with pytest.raises(data.DataError, match=dataset):
        data.load(dataset, given and tmp_path / given)


@pytest.mark.parametrize('name, content', [
    *(('gym99_val_element.txt', text) for text in ('val-A_Eb0_E_000000_000002_A_0000_0001 99', 'what', '')),
    *(('finegym_annotation_info_v1.0.json', text)
      for text in ('{', '[]', '{}', '{"train-A_Eb0": 3}', '[' * 10 ** 5, '\xff'))])
def test_finegym_that_cannot_be_read(name, content, tmp_path):
    mini.finegym(tmp_path, train=1, val=1)
    (tmp_path / name).write_text(content, encoding='latin1')
    with pytest.raises(data.DataError):
        data.load('finegym99', tmp_path)


@pytest.mark.parametrize('content', [
    'label,youtube_id\nrun,abc\n', 'label,youtube_id,time_start,time_end,split\nrun,abc,x,9,train\n',
    'label,youtube_id,time_start,time_end,split\nrun,abc\n', '', '\0\n\0'])
def test_kinetics_table_that_cannot_be_read(content, tmp_path):
    mini.k400(tmp_path, train=1)
    (tmp_path / 'annotations/train.csv').write_text(content)
    with pytest.raises(data.DataError):
        data.load('k400', tmp_path)


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
# The doctor

def examine(monkeypatch, capsys, *arguments):
    monkeypatch.setattr('sys.argv', ['data.py', *map(str, arguments)])
    code = 0
    try:
        data.main()
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, [line for line in err.replace('\r', '\n').splitlines() if line.startswith('data.py')]


@pytest.mark.parametrize('layout', mini.LAYOUTS)
@pytest.mark.parametrize('decode', [False, True])
def test_doctor(layout, decode, tmp_path, monkeypatch, capsys):
    written = mini.LAYOUTS[layout](tmp_path, **({'actions': ['bowl', 'situp']} if 'penn' in layout else {}))
    dataset = layout.split(',')[0]
    code, out, err = examine(monkeypatch, capsys, dataset, '--data', tmp_path, *['--decode'] * decode)
    assert code == 0 and not err
    train = next(line.split() for line in out.splitlines() if line.startswith('train  all'))
    assert train[2] == str(len(written['train']))
    if dataset == 'penn':
        assert any(line.split() == ['val', 'bowl', '2', '85', '25', '25'] for line in out.splitlines())
        assert 'lacking: 2098 videos fewer' in out.splitlines()[-1]
    elif dataset == 'k400':
        assert train[4:] == ([str(12 + 13 + 14 + 15), '0'] if decode else ['?', '?'])
        assert out.splitlines()[-1] == 'k400: complete'
    else:
        labels = written['train'].values()
        assert train[4:] == [str(sum(map(len, labels))), str(sum((label >= 0).sum() for label in labels))]


def test_doctor_names_what_is_wrong(tmp_path, monkeypatch, capsys):
    mini.penn(tmp_path, actions=['bowl'], train=4, val=2)
    labels = tmp_path / 'penn_action_labels/train/bowl'
    np.save(labels / '0001_bowl.npy', np.zeros(9, int))
    np.save(labels / '0002_bowl.npy', np.full(13, 7))
    shutil.rmtree(tmp_path / 'frames/0003')
    jpeg = tmp_path / 'frames/0004/000002.jpg'
    jpeg.write_bytes(jpeg.read_bytes()[:500])
    code, out, err = examine(monkeypatch, capsys, 'penn', '--data', tmp_path)
    assert code == 0 and 'sampled down: 1\n    0001: 12 frames, 9 labels' in out and '000002.jpg' not in out
    assert 'missing: 1\n    frames/0003 (train, bowl)' in out and '0002_bowl.npy: labels from 7 to 7' in out
    code, out, err = examine(monkeypatch, capsys, 'penn', '--data', tmp_path, '--decode')
    assert code == 0 and 'cannot be read: 1\n' in out and '0004/000002.jpg' in out
    last = out.splitlines()[-1]
    assert 'usable, but lacking: 1 missing, 1 cannot be read, 1 labels do not fit' in last and 'TCC' in last


def test_doctor_has_nothing_to_use(tmp_path, monkeypatch, capsys):
    for name in ('a.mp4', 'b.mp4'):
        (tmp_path / name).write_bytes(b'')
    code, out, err = examine(monkeypatch, capsys, 'folder', '--data', tmp_path)
    assert code == 2 and len(err) == 1 and 'none of the' in err[0]
    code, out, err = examine(monkeypatch, capsys, 'penn', '--data', tmp_path)
    assert code == 2 and len(err) == 1 and 'penn_action_labels' in err[0]


def test_doctor_scans_kinetics(tmp_path, monkeypatch, capsys):
    mini.k400(tmp_path, train=3)
    gone = sorted((tmp_path / 'train').iterdir())[1]
    gone.unlink()
    code, out, err = examine(monkeypatch, capsys, 'k400', '--data', tmp_path)
    assert code == 0 and f'missing: 1\n    train/{gone.name}' in out
    assert 'cvdfoundation' in out.splitlines()[-1]
    clips = data.Clips(data.load('k400', tmp_path)['train'], frames=4)
    assert [*clips[0, 1]['skipped']] == [gone.stem]
