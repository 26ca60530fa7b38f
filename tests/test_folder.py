"""One's own videos: nothing is passed over in silence, whatever a folder holds."""
import io
import os
import re
import sys

import pytest
from PIL import Image

import data
from datasets.folder import Search
from miniatures import numbers, picture, write_video
from running.errors import UserError


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp('clip') / 'a.mp4'
    write_video(path, 6)
    return path.read_bytes()


def fill(root, clip, *names):
    """Files by name: a video, an image, or something else by its ending."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in ('.mp4', '.mkv', '.avi', '.webm'):
            path.write_bytes(clip)
        elif path.suffix.lower() in ('.jpg', '.png'):
            Image.fromarray(picture(int(re.findall(r'\d+', '0' + path.stem)[-1]))).save(path)
        else:
            path.write_bytes(b'x')


def names_of(videos):
    return [video.name for video in videos]


# --------------------------------------------------------------------------------------------------
# train and val

def test_every_fifth_video_is_val(clip, tmp_path, capsys):
    names = ['clip 10', 'clip 9', 'clip 2', 'été', 'z', 'za', 'zb', 'zc', 'zd', 'ze']
    fill(tmp_path, clip, *(f'{name}.mp4' for name in names), '.hidden.mp4', 'notes.md')
    videos = data.load('folder', tmp_path)
    train = ['clip 2', 'clip 9', 'clip 10', 'z', 'zb', 'zc', 'zd', 'ze']
    assert names_of(videos['train']) == [f'{name}.mp4' for name in train]
    assert names_of(videos['val']) == ['za.mp4', 'été.mp4']
    assert 'every fifth' in capsys.readouterr().err
    (tmp_path / 'z.mp4').unlink()
    videos = data.load('folder', tmp_path)
    assert len(videos['train']) == 9 and videos['train'] == videos['val']
    assert 'both' in capsys.readouterr().err


@pytest.mark.parametrize('names', ['Train/a.mp4 Val/b.mp4', 'train/a.mp4 test_set/b.mp4',
                                   'squat/train/a.mp4 squat/val/b.mp4', r'train\a.mp4 val\b.mp4',
                                   'train-videos/a.mp4 eval-videos/b.mp4', 'train1/a.mp4 c/b.mp4'])
def test_a_split_under_other_names_is_refused(names, clip, tmp_path):
    fill(tmp_path, clip, *names.split())
    with pytest.raises(UserError, match='in a folder .*/train/ and .*/val/'):
        data.load('folder', tmp_path)


def test_a_folder_without_videos_says_what_is_in_it(clip, tmp_path):
    fill(tmp_path, clip, 'a.xyz', 'b.xyz')
    with pytest.raises(UserError, match='no train video.*nowhere: 2 .xyz .a.xyz, b.xyz'):
        data.load('folder', tmp_path)


# --------------------------------------------------------------------------------------------------
# Nothing is passed over in silence

LABELS = 'labels without a video or folder of images of this name, or a second file of them'


@pytest.mark.parametrize('names, videos, notes', [
    # endings that are not read, and files of no use
    (['a.mp4', 'b.xyz', 'c.xyz', 'notes.md', 'Makefile', '.DS_Store'], ['a.mp4'],
     ['that leads nowhere: 1 .md, 2 .xyz, 1 without ending (Makefile, b.xyz, c.xyz']),
    # labels of no video; a second file of labels
    (['a.mp4', 'b.txt', 'a_labels.csv'], ['a.mp4'], [f'{LABELS}: 1 .csv, 1 .txt']),
    (['a.mp4', 'a.npy', 'a.txt', 'a.CSV'], ['a.mp4'], [f'{LABELS}: 1 .npy, 1 .txt (a.npy, a.txt']),
    (['a/1.jpg', 'a/2.jpg', 'a.txt', 'a/labels.txt'], ['a'], [f'{LABELS}: 1 .txt (a/labels.txt)']),
    # images and videos in one folder
    (['1.jpg', '2.jpg', 'b/1.jpg'], ['b'], ['in no folder of their own: 2 .jpg']),
    (['b/1.jpg', 'b/clip.MP4', 'b/c/1.jpg'], ['b/c', 'b/clip.MP4'],
     ['in no folder of their own: 1 .jpg (b/1.jpg)']),
    # a folder of frames that holds more than one series
    (['a/cam1_01.jpg', 'a/cam1_02.jpg', 'a/cam2_01.jpg', 'a/cam2_02.jpg', 'b.mp4'], ['b.mp4'],
     ['several series in one folder; give each its own: 4 .jpg (a/cam1_01.jpg']),
    (['a/cam12_0001.jpg', 'a/cam12_0002.jpg', 'a/cam13_0001.jpg', 'a/cam13_0002.jpg', 'b.mp4'],
     ['b.mp4'], ['several series']),      # no time, twelve o'clock and a second
    (['a/001_left.jpg', 'a/002_left.jpg', 'a/001_right.jpg', 'a/002_right.jpg', 'b.mp4'],
     ['b.mp4'], ['several series']),
    (['a/1.jpg', 'a/2.jpg', 'a/1.png', 'a/2.png', 'b.mp4'], ['b.mp4'], ['several series']),
    (['a/f_1.jpg', 'a/f_2.jpg', 'a/f_3.jpg', 'a/cover.jpg', 'a/thumb_1.jpg'], ['a'],
     ['not of the numbered series in a folder of frames: 2 .jpg (a/cover.jpg, a/thumb_1.jpg)']),
    (['a/f_1.jpg', 'a/f_2.jpg', 'a/masks/f_1.png', 'a/masks/f_2.png'], ['a'],
     ['in a folder of frames: 1 without ending (a/masks)']),
    (['a/first.jpg', 'a/second.jpg'], ['a'], []),
    (['a/F_1.JPG', 'a/f_2.jpg', 'b/t0.04.jpg', 'b/t1.08.jpg'], ['a', 'b'], []),
    # a video and its frames
    (['a.mp4', 'a/1.jpg', 'a/2.jpg', 'b/c.mkv', 'b/c.avi'], ['a', 'a.mp4', 'b/c.avi', 'b/c.mkv'],
     ['of one name, but each used: 1 .avi, 1 .mkv, 1 .mp4, 1 without ending (a, a.mp4']),
    # train/ and val/, and something beside them
    (['train/a.mp4', 'val/b.mkv', 'c.mp4', 'test/d.mp4'], ['a.mp4', 'b.mkv'],
     ['outside train/ and val/: 1 .mp4, 1 without ending (c.mp4, test)'])])
def test_what_is_not_used_is_named(names, videos, notes, clip, tmp_path, capsys, doctor):
    fill(tmp_path, clip, *names)
    loaded = data.load('folder', tmp_path)
    assert sorted(set(names_of(loaded['train'] + loaded['val']))) == videos
    lines = capsys.readouterr().out.splitlines()
    said = [line for line in lines if line.startswith('folder: note: ')]
    assert len(said) == len(notes) and all(any(note in line for line in said) for note in notes)
    code, out, _ = doctor('folder', '--data', tmp_path)
    assert code == 0 and all(note in out for note in notes)
    if notes:
        assert f'note: {len(notes)}\n' in out and 'complete' not in out


def test_links(clip, tmp_path, capsys):
    """A folder met again, also in val/, is named, not used twice, nor for ever; links elsewhere are
    followed."""
    fill(tmp_path, clip, 'data/train/a/x.mp4', 'data/val/v/y.mp4', 'elsewhere/deep/z.mp4')
    root = tmp_path / 'data/train'
    for link, target in (('again', 'a'), ('loop', '.'), ('a/up', '..'), ('b', '../../elsewhere'),
                         ('v', '../val/v'), ('gone', 'nowhere'), ('gone.mp4', 'nowhere.mp4')):
        (root / link).symlink_to(target, target_is_directory=True)
    videos = data.load('folder', tmp_path / 'data')
    assert names_of(videos['train']) == ['a/x.mp4', 'b/deep/z.mp4']
    assert names_of(videos['val']) == ['v/y.mp4']
    said = capsys.readouterr().out
    assert 'a folder that is used already: 4 without ending (train/a/up, train/again, ' in said
    assert 'leads nowhere: 1 .mp4, 1 without ending (train/gone, train/gone.mp4)' in said


# --------------------------------------------------------------------------------------------------
# Frames

@pytest.mark.parametrize('names', [
    ['f_2', 'f_9', 'f_10'], ['t0.5', 't1.0', 't10.75'],
    ['2024-05-02 10-00-01', '2024-05-02 10-00-59', '2024-05-02 10-01-00'],
    ['cam_00h00m02s', 'cam_00h00m30s', 'cam_00h01m00s'],
    ['1403636579763555584', '1403636579813555456']])                  # EuRoC, nanoseconds
def test_frames_in_the_order_of_their_series(names, tmp_path):
    (tmp_path / 'a').mkdir()
    for name in [*reversed(names), 'cover']:
        (tmp_path / f'a/{name}.jpg').write_bytes(b'')
    found, = Search(tmp_path).below(tmp_path)
    assert [frame.stem for frame in found.count.args[0]] == names


def test_a_stack_of_pictures_is_a_video(tmp_path):
    pages = [Image.fromarray(picture(i)) for i in range(5)]
    known = Image.registered_extensions()
    kinds = [kind for kind in ('tif', 'webp', 'avif') if f'.{kind}' in known]
    for name in ['m.tif', *(f'mouse/{kind}/m.{kind}' for kind in kinds)]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pages[0].save(path, save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / 'mouse/tif/background.tif')     # a picture beside it
    videos = data.load('folder', tmp_path)['train']
    assert len(videos) == 1 + len(kinds)
    for video in videos:
        assert video.frames == 5 and numbers(video.read([3, 0])) == [3, 0]


def test_a_broken_picture_first_of_its_kind_ends_no_set(clip, tmp_path, doctor):
    fill(tmp_path, clip, 'a.mp4', 'b/1.tif')
    code, out, _ = doctor('folder', '--data', tmp_path, '--decode')
    assert code == 0 and 'cannot be read: 1\n' in out and '1.tif' in out


# --------------------------------------------------------------------------------------------------
# The doctor and names

def test_doctor_of_ones_own_actions(clip, tmp_path, doctor):
    """Named like Penn Action's, they are none of it; what is wrong with a video in both is said
    once."""
    fill(tmp_path, clip, 'pushup/a.mp4', 'squat/b.mp4', 'squat/c.mp4', 'squat/d.mp4')
    for name in ('pushup/a', 'squat/b'):
        (tmp_path / f'{name}.txt').write_text('0 1')
    (tmp_path / 'squat/d.mp4').write_bytes(b'')
    code, out, _ = doctor('folder', '--data', tmp_path)
    rows = [line.split()[:4] for line in out.splitlines() if line.startswith(('train ', 'val '))]
    assert rows == [[split, *row] for split in ('train', 'val')
                    for row in (['pushup', '1', '-'], ['squat', '3', '-'], ['all', '4', '-'])]
    assert code == 0 and 'labels left out: 2\n' in out and 'cannot be read: 1\n' in out
    assert out.count('2 labels for 6 frames') == 2


AWKWARD = [
    '深蹲.mp4', 'été.mp4', b'\xd0\xd5\xc3\xfb.mp4', 'two\nlines.mp4', 'emoji \U0001f3cb.mp4']


@pytest.mark.parametrize('encoding, broken', [
    ('utf-8', True), ('cp1252', True), ('ascii', False)])
def test_names_that_the_screen_cannot_hold(encoding, broken, clip, tmp_path, monkeypatch):
    """As with PYTHONIOENCODING=...:strict, or where stdout is a pipe on Windows."""
    for name in AWKWARD:
        with open(os.path.join(os.fsencode(tmp_path), os.fsencode(name)), 'wb') as file:
            file.write(clip[:300] if broken else clip)
    fill(tmp_path, clip, '标签.xyz', 'good.mp4')

    def said(stream, folder):
        screen = io.TextIOWrapper(io.BytesIO(), encoding, errors='strict')
        monkeypatch.setattr(sys, stream, screen)
        monkeypatch.setattr(sys, 'argv', ['data.py', 'folder', '--data', str(folder)])
        try:
            data.main()
        except SystemExit as stop:
            assert stop.code == 2
        screen.seek(0)
        return screen.read()

    names = names_of(data.load('folder', tmp_path)['train'])
    assert r'\udcd0\udcd5\udcc3\udcfb.mp4' in names                   # as any file can hold it
    out = said('stdout', tmp_path)
    assert ('cannot be read: 5' in out) == broken and 'not used' in out
    assert ('two\\x0alines.mp4: cannot be read' in out) == broken and '\nlines' not in out
    assert ('深蹲' in out) == (broken and encoding == 'utf-8')
    assert 'is no folder' in said('stderr', tmp_path / '没有\udcd0')


def test_the_doctor_says_what_training_makes_of_long_videos(clip, tmp_path, doctor):
    write_video(tmp_path / 'long.mp4', 1001, size=(32, 32))
    _, out, _ = doctor('folder', '--data', tmp_path)
    assert 'longest video: 1,001 frames' in out and '--longest' in out
    fill(tmp_path, clip, 'long.mp4')
    _, out, _ = doctor('folder', '--data', tmp_path)
    assert 'longest video' not in out and 'no labels' in out
