"""One's own videos: nothing is passed over in silence, whatever a folder holds."""

import io
import os
import re
import shutil
import sys

import pytest
from PIL import Image

import data
from datasets.layout import printable
from datasets.search import Search
from miniatures import numbers, picture, write_images, write_video
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


def test_folder_splits(tmp_path, capsys):
    for name in ('clip 10', 'clip 9', 'clip 2', 'été', 'z', 'za', 'zb', 'zc', 'zd', 'ze'):
        write_video(tmp_path / f'{name}.mp4', 3)
    (tmp_path / '.hidden.mp4').write_bytes(b'')
    (tmp_path / 'notes.md').write_text('')
    videos = data.load('folder', tmp_path)
    assert [video.name for video in videos['train']] == [
        'clip 2.mp4',
        'clip 9.mp4',
        'clip 10.mp4',
        'z.mp4',
        'zb.mp4',
        'zc.mp4',
        'zd.mp4',
        'ze.mp4',
    ]
    assert [video.name for video in videos['val']] == ['za.mp4', 'été.mp4']
    assert 'every fifth' in capsys.readouterr().err
    (tmp_path / 'z.mp4').unlink()
    videos = data.load('folder', tmp_path)
    assert len(videos['train']) == 9 and videos['train'] == videos['val']
    assert 'both' in capsys.readouterr().err


# ----------------------------------------------------------------------------------------
# One's own videos: nothing is passed over in silence


@pytest.mark.parametrize(
    'names, videos, notes',
    [
        # endings that are not read, and files of no use
        (
            ['a.mp4', 'b.xyz', 'c.xyz', 'notes.md'],
            ['a.mp4'],
            ['neither video, image nor labels: 1 .md, 2 .xyz (b.xyz, c.xyz, notes.md)'],
        ),
        (
            ['a.mp4', '.hidden.mp4', 'Makefile'],
            ['a.mp4'],
            [
                'hidden: 1 .mp4 (.hidden.mp4)',
                'neither video, image nor labels: 1 without ending (Makefile)',
            ],
        ),
        # labels of no video; a second file of labels
        (
            ['a.mp4', 'b.txt', 'a_labels.csv'],
            ['a.mp4'],
            ['no video or folder of images of this name beside it: 1 .csv, 1 .txt'],
        ),
        (
            ['a.mp4', 'a.npy', 'a.txt', 'a.CSV'],
            ['a.mp4'],
            ['a second file of labels for one video: 1 .csv, 1 .txt (a.CSV, a.txt)'],
        ),
        (
            ['a/1.jpg', 'a/2.jpg', 'a.txt', 'a/labels.txt'],
            ['a'],
            ['no video or folder of images of this name beside it: 1 .txt (a/labels.txt)'],
        ),
        # images and videos in one folder
        (['a.mp4', 'poster.jpg'], ['a.mp4'], ['images beside videos: 1 .jpg (poster.jpg)']),
        (['x/a.mp4', 'x/1.jpg', 'x/2.jpg'], ['x/a.mp4'], ['images beside videos: 2 .jpg']),
        (['1.jpg', '2.jpg', 'b/1.jpg'], ['b'], ['in no folder of their own: 2 .jpg']),
        (
            ['b/1.jpg', 'b/clip.MP4', 'b/c/1.jpg'],
            ['b/c', 'b/clip.MP4'],
            ['images beside videos: 1 .jpg (b/1.jpg)'],
        ),
        # a folder of frames that holds more than one series
        (
            ['a/a_001.jpg', 'a/a_002.jpg', 'a/b_001.jpg', 'a/b_002.jpg', 'b.mp4'],
            ['b.mp4'],
            ['several series in one folder; give each its own: 4 .jpg (a/a_001.jpg'],
        ),
        (
            ['a/cam1_01.jpg', 'a/cam1_02.jpg', 'a/cam2_01.jpg', 'a/cam2_02.jpg', 'b.mp4'],
            ['b.mp4'],
            ['several series'],
        ),
        (
            ['a/001_left.jpg', 'a/002_left.jpg', 'a/001_right.jpg', 'a/002_right.jpg', 'b.mp4'],
            ['b.mp4'],
            ['several series'],
        ),
        (['a/1.jpg', 'a/2.jpg', 'a/1.png', 'a/2.png', 'b.mp4'], ['b.mp4'], ['several series']),
        (
            ['a/f_1.jpg', 'a/f_2.jpg', 'a/f_3.jpg', 'a/cover.jpg', 'a/thumb_1.jpg'],
            ['a'],
            [
                'not of the numbered series in a folder of frames: 2 .jpg (a/cover.jpg, a/thumb_1.jpg)'
            ],
        ),
        (
            ['a/f_1.jpg', 'a/f_2.jpg', 'a/masks/f_1.png', 'a/masks/f_2.png'],
            ['a'],
            ['in a folder inside a folder of frames: 2 .png'],
        ),
        (['a/first.jpg', 'a/second.jpg'], ['a'], []),
        (['a/F_1.JPG', 'a/f_2.jpg', 'b/t0.04.jpg', 'b/t1.08.jpg'], ['a', 'b'], []),
        # a video and its frames
        (
            ['a.mp4', 'a/1.jpg', 'a/2.jpg', 'b/c.mkv', 'b/c.avi'],
            ['a', 'a.mp4', 'b/c.avi', 'b/c.mkv'],
            ['of one name, but each used: a, a.mp4, b/c.avi ...'],
        ),
        # train/ and val/, and something beside them
        (
            ['train/a.mp4', 'val/b.mkv', 'c.mp4', 'test/d.mp4'],
            ['a.mp4', 'b.mkv'],
            [
                'outside train/ and val/: 2 .mp4 (c.mp4, test/d.mp4)',
                'b.mkv of val is in train too, as a.mp4',
            ],
        ),
    ],
)
def test_what_is_not_used_is_named(names, videos, notes, clip, tmp_path, capsys, doctor):
    fill(tmp_path, clip, *names)
    loaded = data.load('folder', tmp_path)
    assert sorted({video.name for video in loaded['train'] + loaded['val']}) == videos
    said = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith('folder: note: ')
    ]
    assert len(said) == len(notes) and all(any(note in line for line in said) for note in notes)
    code, out, _ = doctor('folder', '--data', tmp_path)
    assert code == 0 and all(note in out for note in notes)
    if notes:
        assert f'note: {len(notes)}\n' in out and 'complete' not in out


def test_only_frames_of_one_series_are_the_video(clip, tmp_path):
    fill(tmp_path, clip, *(f'a/f_{i}.jpg' for i in range(12)), 'a/cover.jpg', 'a/aaa_99.jpg')
    (video,) = data.load('folder', tmp_path)['train']
    assert numbers(video.read(range(video.frames))) == list(range(12))


def test_links(clip, tmp_path, capsys):
    """A folder met again is named, not used twice, nor for ever; links elsewhere are followed."""
    fill(tmp_path, clip, 'data/a/x.mp4', 'elsewhere/y.mp4', 'elsewhere/deep/z.mp4')
    root = tmp_path / 'data'
    for link, target in (
        ('again', 'a'),
        ('loop', '.'),
        ('a/up', '..'),
        ('b', '../elsewhere'),
        ('gone', 'nowhere'),
        ('gone.mp4', 'nowhere.mp4'),
    ):
        (root / link).symlink_to(target, target_is_directory=True)
    assert [video.name for video in data.load('folder', root)['train']] == [
        'a/x.mp4',
        'b/deep/z.mp4',
        'b/y.mp4',
    ]
    said = capsys.readouterr().out
    assert (
        'a link to a folder that is used already: 3 without ending (a/up, again, loop)' in said
    )
    assert 'leads nowhere: 1 .mp4, 1 without ending (gone, gone.mp4)' in said


def test_a_folder_linked_into_train_and_val(clip, tmp_path, capsys):
    fill(tmp_path, clip, 'train/a/x.mp4', 'val/b/y.mp4')
    (tmp_path / 'val/b/y.mp4').write_bytes(clip + b'other')
    (tmp_path / 'train/b').symlink_to('../val/b', target_is_directory=True)
    videos = data.load('folder', tmp_path)
    assert [[video.name for video in videos[split]] for split in videos] == [
        ['a/x.mp4'],
        ['b/y.mp4'],
    ]
    assert 'a folder that is used already' in capsys.readouterr().out


@pytest.mark.parametrize('how', ['copy', 'symbolic link', 'hard link', 'frames', 'every fifth'])
def test_a_video_in_train_and_val_is_named(how, clip, tmp_path, capsys):
    write_video(tmp_path / 'train/a.mp4', 7)
    write_video(tmp_path / 'val/b.mp4', 8)
    here, there = tmp_path / 'train/x.mp4', tmp_path / 'val/deep/y.mp4'
    fill(tmp_path, clip, 'train/x.mp4', 'val/deep/z.mp4')
    (tmp_path / 'val/deep/z.mp4').write_bytes(clip[::-1])  # as large, but another
    if how == 'copy':
        shutil.copy(here, there)
    elif how == 'symbolic link':
        there.symlink_to(here)
    elif how == 'hard link':
        os.link(here, there)
    elif how == 'frames':
        write_images(tmp_path / 'train/x', 3)
        shutil.copytree(tmp_path / 'train/x', tmp_path / 'val/deep/y')
        shutil.copytree(tmp_path / 'train/x', tmp_path / 'val/deep/other')
        (tmp_path / 'val/deep/other/000001.jpg').write_bytes(
            b'x' * (tmp_path / 'train/x/000001.jpg').stat().st_size
        )
    else:
        for number in range(12):
            write_video(tmp_path / f'flat/{number}.mp4', 5 + number)
        shutil.copy(tmp_path / 'flat/0.mp4', tmp_path / 'flat/4.mp4')
    data.load('folder', tmp_path / 'flat' if how == 'every fifth' else tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if 'in train too' in line]
    expected = (
        '4.mp4 of val is in train too, as 0.mp4'
        if how == 'every fifth'
        else 'of val is in train too, as x'
    )
    assert len(lines) == 1 and expected in lines[0]
    assert how == 'every fifth' or lines[0].startswith('folder: note: deep/y')


def test_nothing_but_unknown_endings(clip, tmp_path):
    fill(tmp_path, clip, 'a.xyz', 'b.xyz')
    with pytest.raises(
        UserError,
        match=r'no train video.*neither video, image nor labels: 2 .xyz \(a.xyz, b.xyz\)',
    ):
        data.load('folder', tmp_path)


def test_doctor_of_ones_own_actions(clip, tmp_path, doctor):
    """Named like Penn Action's, they are none of it; what is wrong with a video in both is said once."""
    fill(tmp_path, clip, 'pushup/a.mp4', 'squat/b.mp4', 'squat/c.mp4', 'squat/d.mp4')
    for name in 'ab':
        (tmp_path / ('pushup' if name == 'a' else 'squat') / f'{name}.txt').write_text('0 1')
    (tmp_path / 'squat/d.mp4').write_bytes(b'')
    code, out, _ = doctor('folder', '--data', tmp_path)
    rows = [line.split() for line in out.splitlines() if line.startswith(('train', 'val'))]
    assert [row[:4] for row in rows] == [
        [split, *rest]
        for split in ('train', 'val')
        for rest in (['pushup', '1', '-'], ['squat', '3', '-'], ['all', '4', '-'])
    ]
    assert code == 0 and 'labels do not fit: 2\n' in out and 'cannot be read: 1\n' in out
    assert out.count('2 labels for 6 frames') == 2


AWKWARD = [
    '深蹲.mp4',
    'été.mp4',
    b'\xd0\xd5\xc3\xfb.mp4',
    'two\nlines.mp4',
    'emoji \U0001f3cb.mp4',
]


@pytest.mark.parametrize(
    'encoding, broken',
    [('utf-8', True), ('utf-8', False), ('cp1252', True), ('ascii', True), ('ascii', False)],
)
def test_names_that_the_screen_cannot_hold(encoding, broken, clip, tmp_path, monkeypatch):
    """As with PYTHONIOENCODING=...:strict, or where stdout is a pipe on Windows."""
    for name in AWKWARD:
        with open(os.path.join(os.fsencode(tmp_path), os.fsencode(name)), 'wb') as file:
            file.write(clip[:300] if broken else clip)
    (tmp_path / '标签.xyz').write_text('')
    (tmp_path / 'good.mp4').write_bytes(clip)
    screens = [io.TextIOWrapper(io.BytesIO(), encoding, errors='strict') for _ in range(2)]
    monkeypatch.setattr(sys, 'stdout', screens[0])
    monkeypatch.setattr(sys, 'stderr', screens[1])
    monkeypatch.setattr(sys, 'argv', ['data.py', 'folder', '--data', str(tmp_path)])
    data.main()
    screens[0].seek(0)
    said = screens[0].read()
    assert ('cannot be read: 5' in said) == broken and 'not used' in said
    assert ('two\\x0alines.mp4: cannot be read' in said) == broken and '\nlines' not in said
    assert ('深蹲' in said) == (broken and encoding == 'utf-8')
    with pytest.raises(SystemExit):
        monkeypatch.setattr(
            sys, 'argv', ['data.py', 'folder', '--data', str(tmp_path / '没有\udcd0')]
        )
        data.main()
    screens[1].seek(0)
    assert 'is no folder' in screens[1].read()


def test_names_of_videos_fit_into_any_file(clip, tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), b'\xd0\xd5.mp4'), 'wb') as file:
        file.write(clip)
    (video,) = data.load('folder', tmp_path)['train']
    assert video.name == '\\udcd0\\udcd5.mp4' and numbers(video.read([3])) == [3]
    assert printable('a\udcd0') == 'a\\udcd0'


@pytest.mark.parametrize('train, val', [
    ('Train', 'Val'), ('training', 'validation'), ('TRAIN', 'test'), ('train', 'Valid')])
def test_a_split_of_ones_own_in_any_capitals(train, val, clip, tmp_path):
    fill(tmp_path, clip, *(f'{train}/squat/{i}.mp4' for i in range(12)), f'{val}/squat/x.mp4')
    videos = data.load('folder', tmp_path)
    assert len(videos['train']) == 12 and [video.name for video in videos['val']] == ['squat/x.mp4']


@pytest.mark.parametrize('names, said', [
    (['Train/a.mp4', 'train/b.mp4', 'val/c.mp4'], 'which is it'),
    (['squat/train/a.mp4', 'squat/val/b.mp4'], 'not at the top'),
    (['train\\a.mp4', 'val\\b.mp4'], 'not at the top'),
    (['Validation/a.mp4', 'b.mp4'], 'not the other')])
def test_a_split_that_is_not_clear_is_asked_for(names, said, clip, tmp_path):
    fill(tmp_path, clip, *names)
    with pytest.raises(UserError, match=said) as error:
        data.load('folder', tmp_path)
    assert str(error.value).count('folder:') == 1


@pytest.mark.parametrize('names', [
    ['t0.5', 't0.25', 't1.0', 't10.75'],
    ['2024-05-02 10-00-59', '2024-05-02 10-01-00', '2024-05-02 10-00-01'],
    ['cam_00h00m02s', 'cam_00h01m00s', 'cam_00h00m30s']])
def test_frames_named_by_time(names, clip, tmp_path):
    fill(tmp_path, clip, *(f'a/{name}.jpg' for name in names))
    frames = Search(tmp_path).below(tmp_path)[0].frames
    key = (lambda name: float(name[1:])) if names[0][0] == 't' else str
    assert [frame.stem for frame in frames] == sorted(names, key=key)


@pytest.mark.parametrize('place', ['m.tif', 'mouse/m.tif'])
def test_a_stack_of_pictures_is_a_video(place, tmp_path):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    pages = [Image.fromarray(picture(i)) for i in range(5)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    (video,) = data.load('folder', tmp_path)['train']
    assert video.frames == 5 and numbers(video.read([3, 0])) == [3, 0]
