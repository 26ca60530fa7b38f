"""The data sets as they lie on disk and the doctor: against what was written there."""
import math
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat

import data
import miniatures as mini
from datasets import carl, finegym
from miniatures import numbers, write_video
from running.errors import UserError

# --------------------------------------------------------------------------------------------------
# Every layout: names, labels, frames and the doctor's table are those of what was written

ACTION = {'penn': 'bowl', 'pouring': 'pouring', 'k400': 'abseiling', 'folder': 'jump high'}


@pytest.mark.parametrize('layout', mini.LAYOUTS)
def test_layout(layout, tmp_path, capsys, doctor):
    written = mini.write_layout(layout, tmp_path)
    dataset = layout.split(',')[0]
    videos = data.load(dataset, tmp_path, image_size=48)
    videos = pickle.loads(pickle.dumps(videos))  # as a spawned worker gets them
    assert capsys.readouterr().err == ''
    assert videos['train'][0].action == ACTION.get(dataset)
    shape = (3, 48, 48) if dataset in ('penn', 'pouring', 'folder') else (3, 96, 160)
    for split in videos:
        assert {video.name for video in videos[split]} == written[split].keys()
        for video in videos[split]:
            some = [3, 0, 7, 3, video.frames - 1]
            frames = video.read(some)
            assert numbers(frames) == some and frames.shape[1:] == shape
            assert np.array_equal(video.labels, written[split][video.name])
    train = written['train'].values()
    for decode in ([], ['--decode']):
        code, out, err = doctor(dataset, '--data', tmp_path, *decode)
        assert code == 0 and not err
        rows = [line.split() for line in out.splitlines()]
        counts = ['54' if decode else '-', '-']                      # of Kinetics, 12 to 15 each
        if dataset != 'k400':
            labels = np.concatenate([*train])
            counts = [str(len(labels)), str((labels >= 0).sum())]
        row, = [row for row in rows if row[:2] == ['train', 'all']]
        assert row[2] == str(len(train)) and row[4:] == counts
    if dataset == 'penn':
        assert ['val', 'bowl', '2', '85', '25', '25'] in rows
        assert 'lacking: 2098 videos fewer' in out.splitlines()[-1]


# --------------------------------------------------------------------------------------------------
# Penn Action

def test_penn_actor_is_its_box(tmp_path):
    mini.penn(tmp_path, actions=['bowl'], train=1, val=1)
    video = data.load('penn', tmp_path, image_size=64)['train'][0]
    masks = video.actor([0, 5])
    assert masks.shape == (2, 64, 64) and masks.dtype == torch.bool
    for mask, left in zip(masks, (40, 45)):     # 40 of 160 pixels wide, y from 24 to 72 of 96
        expected = torch.zeros(64, 64, dtype=torch.bool)
        expected[16:48, round(left * 64 / 160):round((left + 40) * 64 / 160)] = True
        assert torch.equal(mask, expected)


def test_penn_boxes_that_are_not_there(tmp_path, doctor):
    """Those frames have no known actor, that is all; the doctor names each file in a line."""
    mini.penn(tmp_path, actions=['bowl'], train=4, val=1)
    mats = [tmp_path / 'labels' / f'000{i}.mat' for i in range(1, 5)]
    content = loadmat(mats[0])
    savemat(mats[0], dict(bbox=content['bbox'][:9], dimensions=content['dimensions']))
    mats[1].write_bytes(b'MATLAB 7.3 MAT-file'.ljust(124) + b'\x00\x02IM' + b'\x89HDF\r\n\x1a\n')
    mats[2].write_bytes(b'nonsense')
    mats[3].unlink()
    fewer, *without = data.load('penn', tmp_path, image_size=64)['train']
    assert fewer.actor(range(12)).flatten(1).any(1).tolist() == [True] * 9 + [False] * 3
    for video in without:
        assert video.actor([0]) is None
        assert numbers(video.read([5])) == [5] and video.labels is not None
    code, out, _ = doctor('penn', '--data', tmp_path)
    said = [line for line in out.splitlines() if 'no known actor' in line]
    assert code == 0 and '0001.mat: 9 boxes for 12 frames' in said[0] and 'HDF' in said[1]
    for mat, line in zip(mats, said, strict=True):
        assert mat.name in line


@pytest.mark.parametrize('given', [8, 18])
def test_penn_samples_the_longer_one_down(given, tmp_path):
    mini.penn(tmp_path, actions=['squat'], train=1, val=1, frames=12)
    labels = np.random.default_rng(0).integers(0, 4, given)
    np.save(tmp_path / 'penn_action_labels/train/squats/0001_squat.npy', labels)
    video = data.load('penn', tmp_path)['train'][0]
    n = min(given, 12)
    sampled = [math.floor(j * max(given, 12) / n) for j in range(n)]
    assert video.frames == n
    assert numbers(video.read(range(n))) == (sampled if given < 12 else [*range(12)])
    assert video.labels.tolist() == (labels if given < 12 else labels[sampled]).tolist()


# --------------------------------------------------------------------------------------------------
# FineGym

def test_finegym_elements(tmp_path, capsys):
    mini.finegym(tmp_path)
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
    spans = [(0.5, 1.0, 7), (2.95, 9.0, 8)]
    labels = finegym.element_labels(tmp_path / 'a.mp4', spans, 30)
    assert labels.tolist() == [-1] * 5 + [7] * 6 + [-1] * 18 + [8]


# --------------------------------------------------------------------------------------------------
# TFRecords

def test_tfrecords_that_are_damaged(tmp_path):
    mini.pouring(tmp_path, train=4, val=1, frames=3)
    path = tmp_path / 'pouring_train-0-of-2.tfrecord'
    whole = path.read_bytes()
    first = int.from_bytes(whole[:8], 'little') + 16
    broken_message = whole[:12] + b'\xff' * 20 + whole[32:]
    broken_length = whole[:3] + b'\x04' + whole[4:]
    for content in (
            broken_message, broken_length, whole[:first] + bytes(12) + whole[first + 12:],
            whole[:-10], whole[:first + 5], b'', whole + mini.framed(b''),
            whole + mini.framed(b'nonsense')):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f'{path.name}: damaged') as error:
            data.load('pouring', tmp_path)
        assert '\n' not in str(error.value)


def test_tfrecord_with_a_truncated_jpeg(tmp_path):
    mini.pouring(tmp_path, train=2, val=1)
    record = mini.sequence_example('broken', [mini.jpeg(0), mini.jpeg(1)[:900]], [0, 1])
    with open(tmp_path / 'pouring_val-0-of-1.tfrecord', 'ab') as file:
        file.write(mini.framed(record))
    good, bad = data.load('pouring', tmp_path)['val']
    assert bad.frames == 2 and numbers(bad.read([0])) == [0] and numbers(good.read([1])) == [1]
    with pytest.raises(UserError, match='pouring_val-0-of-1.tfrecord bytes'):
        bad.read([1])


# --------------------------------------------------------------------------------------------------
# Pickles

@pytest.mark.parametrize('protocol', range(2, 6))
def test_pickles_of_numbers(protocol, tmp_path):
    plain = {'name': 'x', 'id': 1, 'half': 0.5, 'no': None, 'yes': True, 'raw': b'\xff', 'é': (1,)}
    content = [
        plain, torch.tensor([3, -1, 4]), torch.tensor([0.5, 1]), torch.arange(6).reshape(2, 3).T,
        np.arange(5), np.array([[1.5], [2]], np.float32), np.int64(7), np.float32(0.25)], [[]]
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(content, protocol))
    read = carl.read_pickle(tmp_path / 'a.pkl')
    assert str(read) == str(content) and torch.equal(read[0][3], content[0][3])
    assert read[0][4].dtype == np.int64 and type(read[0][7]) is np.float32


class Call(tuple):
    def __reduce__(self):
        return self[0], self[1:]


def attacks(command):
    """Objects whose pickles try to run a shell command, or to reach what they should not."""
    call = Call((os.system, command))
    return {
        'os': call,
        'inside torch': Call((torch.storage._load_from_bytes, pickle.dumps(call, 2))),
        'inside numpy': np.array([call, None], object),
        'numpy': Call((np.fromfile, 'train.pkl')),
        'raw object': Call((np.ndarray, (1,), np.dtype('O'), b'12345678'))}


@pytest.mark.parametrize('attack', attacks(''))
def test_pickles_that_would_run_something(attack, tmp_path):
    canary = tmp_path / 'canary'
    content = attacks(f'touch {canary}')[attack]
    mini.pouring_carl(tmp_path, train=1, val=1)
    mini.dump([{'name': content}], tmp_path / 'train.pkl')
    with pytest.raises(UserError, match='train.pkl: refused') as error:
        data.load('pouring', tmp_path)
    assert '\n' not in str(error.value) and not canary.exists()


@pytest.mark.parametrize('content', [
    b'', b'\x80\x04', b'not a pickle', *map(pickle.dumps, (
        3, [3], [{}], [{'name': 'x', 'video_file': 5, 'frame_label': 1}], None))])
def test_pickles_of_something_else(content, tmp_path):
    mini.pouring_carl(tmp_path, train=1, val=1)
    (tmp_path / 'val.pkl').write_bytes(content)
    with pytest.raises(UserError, match='val.pkl'):
        data.load('pouring', tmp_path)


def test_pickles_from_a_gpu(tmp_path, monkeypatch):
    """Tensors that lay on a GPU when they were pickled are read where there is none."""
    written = mini.pouring_carl(tmp_path, train=1, val=1)
    file = tmp_path / 'train.pkl'
    content = pickle.loads(file.read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, 'location_tag', lambda _: 'cuda:3')
        mini.dump(content, file)
    assert b'cuda:3' in file.read_bytes()
    video, = data.load('pouring', tmp_path)['train']
    assert np.array_equal(video.labels, written['train'][video.name])


# --------------------------------------------------------------------------------------------------
# Data sets of which something is missing or cannot be read

@pytest.mark.parametrize('layout, gone, said', [
    ('penn', 'penn_action_labels', 'penn_action_labels/train.*TCC'),
    ('penn, CARL', 'videos', 'lacks videos.*CARL'),
    ('pouring', 'pouring_val-0-of-1.tfrecord', 'pouring_val.*TCC'),
    ('pouring, CARL', 'val.pkl', 'lacks val.pkl'),
    ('finegym99', 'finegym_annotation_info_v1.0.json', 'annotation.*FineGym'),
    ('finegym99, CARL', 'gym99_val.pkl', 'gym99_val'),
    ('k400', 'annotations', 'annotations/train.csv.*cvdfoundation'), ('k400', 'train', 'train'),
    ('folder', 'val', 'val/')])
def test_missing_parts_are_named(layout, gone, said, tmp_path):
    mini.write_layout(layout, tmp_path, train=1, val=1)
    gone = tmp_path / gone
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(UserError, match=said) as error:
        data.load(layout.split(',')[0], tmp_path)
    assert '\n' not in str(error.value) and len(str(error.value)) < 500


LIST = 'gym99_val_element.txt'
ANNOTATION = 'finegym_annotation_info_v1.0.json'
HEADER = 'label,youtube_id,time_start,time_end,split\n'


@pytest.mark.parametrize('dataset, name, content', [
    ('finegym99', LIST, 'val-A_Eb0_E_000000_000002_A_0000_0001 99'),
    ('finegym99', LIST, 'what'), ('finegym99', LIST, ''),
    *[('finegym99', ANNOTATION, text)
      for text in ('{', '[]', '{}', '{"train-A_Eb0": 3}', '[' * 10**5, '\xff')],
    *[('k400', 'annotations/train.csv', text)
      for text in ('label,youtube_id\nrun,abc\n', HEADER + 'run,abc,x,9,train\n',
                   HEADER + 'run,abc\n', '', '\0\n\0')]])
def test_lists_that_cannot_be_read(dataset, name, content, tmp_path):
    mini.write_layout(dataset, tmp_path, train=1)
    (tmp_path / name).write_text(content, encoding='latin1')
    with pytest.raises(UserError):
        data.load(dataset, tmp_path)


def test_doctor_names_what_is_wrong(tmp_path, doctor):
    mini.penn(tmp_path, actions=['bowl'], train=4, val=2)
    labels = tmp_path / 'penn_action_labels/train/bowls'
    np.save(labels / '0002_bowl.npy', np.full(13, 7))
    shutil.rmtree(tmp_path / 'frames/0003')
    jpeg = tmp_path / 'frames/0004/000002.jpg'
    jpeg.write_bytes(jpeg.read_bytes()[:500])
    code, out, _ = doctor('penn', '--data', tmp_path)
    assert code == 0 and '000002.jpg' not in out
    assert 'missing: 1\n    frames/0003 (train, bowl)' in out
    assert '0002_bowl.npy: labels from 7 to 7' in out
    code, out, _ = doctor('penn', '--data', tmp_path, '--decode')
    assert code == 0 and 'cannot be read: 1\n' in out and '0004/000002.jpg' in out
    last = out.splitlines()[-1]
    assert 'usable, but lacking: 1 missing, 1 labels left out, 1 cannot be read' in last
    assert 'TCC' in last


# --------------------------------------------------------------------------------------------------
# Kinetics as mirrors have it

@pytest.mark.parametrize('folder, ending, table', [
    ('train/{label}', '.mp4', None),
    ('train_256', '.mp4.webm', 'annotations/train.csv'),
    ('k400/train/{label}', '.webm', 'k400/train.csv'),
    ('videos_train/{label}', '.mkv', 'annotations/kinetics_train.csv')])
def test_kinetics_of_a_mirror(folder, ending, table, tmp_path):
    """The miniature, moved to where a mirror has it; {label}: in class folders."""
    mini.k400(tmp_path / 'made', train=4)
    for i, path in enumerate(sorted((tmp_path / 'made/train').iterdir())):
        label = ('abseiling', 'air_drumming')[i % 2]
        new = tmp_path / 'data' / folder.format(label=label) / f'{path.stem}{ending}'
        new.parent.mkdir(parents=True, exist_ok=True)
        path.rename(new)
    if table:
        (tmp_path / 'data' / table).parent.mkdir(exist_ok=True)
        (tmp_path / 'made/annotations/train.csv').rename(tmp_path / 'data' / table)
    videos = sorted(data.load('k400', tmp_path / 'data')['train'], key=lambda video: video.name)
    assert [video.action for video in videos] == ['abseiling', 'air drumming'] * 2
    assert all(numbers(video.read([2, 5])) == [2, 5] for video in videos)


def test_kinetics_replacements_strangers_and_absent_ones(tmp_path, capsys, doctor):
    mini.k400(tmp_path, train=4)
    first, second, third, gone = sorted((tmp_path / 'train').iterdir())
    gone.unlink()
    (tmp_path / 'replacement').mkdir()
    first.rename(tmp_path / 'replacement' / first.name)
    first.write_bytes(b'broken')
    second.rename(tmp_path / 'replacement' / second.name)  # only there
    for name in ('abc_000001_000011.mp4', 'strange.mp4'):  # in no table
        (tmp_path / 'train' / name).write_bytes(b'')
    twin = third.with_suffix('.webm')                      # the second of its name
    twin.write_bytes(b'')
    videos = data.load('k400', tmp_path)['train']
    assert len(videos) == 3 and all(numbers(video.read([4])) == [4] for video in videos)
    said, warned = capsys.readouterr()
    assert gone.name in warned
    strangers = sorted(['train/abc_000001_000011.mp4', f'train/{twin.name}', 'train/strange.mp4'])
    assert f'no train/<class>/: 3 ({", ".join(strangers)})' in said
    code, out, _ = doctor('k400', '--data', tmp_path)
    assert code == 0 and f'missing: 1\n    train/{gone.name}' in out
    assert 'cvdfoundation' in out.splitlines()[-1]
