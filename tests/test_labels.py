"""Labels: every form in which people write them, in every encoding and type of file."""

import codecs
import pickle
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

import data
import miniatures as mini
from datasets.labels import check_labels, read_labels
from datasets.packets import frame_times
from miniatures import numbers, picture, unchecked, write_images, write_video
from running.errors import UserError

LABELS = [0] * 3 + [1] * 4 + [2] * 2
NAMES = ['down', 'hold still', 'up']
FRAMES = len(LABELS)

ENCODINGS = {
    'utf-8': (b'', 'utf-8'),
    'utf-8 with mark': (codecs.BOM_UTF8, 'utf-8'),
    'utf-16 little': (codecs.BOM_UTF16_LE, 'utf-16-le'),
    'utf-16 big': (codecs.BOM_UTF16_BE, 'utf-16-be'),
}


def lines(template, first=0):
    return (
        '\n'.join(
            template.format(frame=i, label=label, name=NAMES[label])
            for i, label in enumerate(LABELS, first)
        )
        + '\n'
    )


FORMS = {
    'one a line': lines('{label}'),
    'no end of line': lines('{label}').strip(),
    'blank lines': lines('{label}\n'),
    'by blanks': ' '.join(map(str, LABELS)),
    'by tabs': '\t'.join(map(str, LABELS)),
    'by commas': ','.join(map(str, LABELS)),
    'by commas and blanks': ', '.join(map(str, LABELS)),
    'by semicolons': ';'.join(map(str, LABELS)),
    'in lines of three': '0 0 0\n1 1 1\n1 2 2\n',
    'as floats': lines('{label}.0'),
    'as NumPy saves floats': lines('{label}.000000000000000000e+00'),
    'a header': 'label\n' + lines('{label}'),
    "NumPy's header": '# phase\n' + lines('{label}'),
    'frame and label': 'frame,label\n' + lines('{frame},{label}'),
    'frame and label, no header': lines('{frame},{label}'),
    'frame and label, by blanks': lines('{frame} {label}'),
    'frames from one': 'Frame;Phase\n' + lines('{frame};{label}', first=1),
    'frames backwards': 'frame,label\n' + '\n'.join(lines('{frame},{label}').split()[::-1]),
    "pandas' index": ',label\n' + lines('{frame},{label}'),
    "pandas' index beside more": ',label,rater2\n' + lines('{frame},{label},9'),
    'more columns': 'frame,time,phase,probability\n' + lines('{frame},0.5,{label},0.25'),
    'names': lines('{name}'),
    'names with a header': 'phase\n' + lines('{name}'),
    'names in quotes': 'label\n' + lines('"{name}"'),
    'names by commas': ','.join(NAMES[label] for label in LABELS),
    'frame and name': 'frame,label\n' + lines('{frame},{name}'),
    'frame and name, by blanks': lines('{frame} {name}'),
    'segments in frames': 'start_frame,end_frame,label\n0,2,down\n3,6,hold still\n7,8,up\n',
    'segments in seconds': 'start (s),end (s),label\n'
    '0,0.12,down\n0.12,0.28,hold still\n0.28,0.36,up\n',
    'segments by blanks': 'start_seconds end_seconds name\n'
    '0 0.12 down\n0.12 0.28 hold still\n0.28 0.4 up\n',
    'segments that touch': 'Start Frame;End Frame;Phase\n0;3;0\n3;7;1\n7;9;2\n',
    'segments, decimal commas': 'start_sec;end_sec;label\n0,0;0,12;0\n0,12;0,28;1\n0,28;0,36;2\n',
    'segments out of order': 'start_frame\tend_frame\tlabel\n'
    '7\t8\tup\n0\t2\tdown\n3\t6\thold still\n',
    'segments by the clock': '0:00 0:00.12 down\n0:00.12 0:00.28 hold still\n0:00.28 0:00.36 up\n',
}


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp('clip') / 'a.mp4'
    write_video(path, FRAMES)
    return path


def folder_with(tmp_path, clip, **files):
    """A folder set of one video; a_txt=b'...' is its file of labels a.txt."""
    (tmp_path / 'a.mp4').write_bytes(clip.read_bytes())
    for name, content in files.items():
        (tmp_path / name.replace('_', '.')).write_bytes(content)
    return tmp_path


def every_25th(frames):
    return np.arange(frames) / 25


@pytest.mark.parametrize('end', ['\n', '\r\n'], ids=['unix', 'windows'])
@pytest.mark.parametrize('encoding', ENCODINGS)
@pytest.mark.parametrize('form', FORMS)
def test_forms(form, encoding, end, tmp_path):
    mark, codec = ENCODINGS[encoding]
    content = mark + FORMS[form].replace('\n', end).encode(codec)
    for ending in ('.txt', '.csv', '.TXT'):
        path = tmp_path / f'a{ending}'
        path.write_bytes(content)
        labels = read_labels(path, FRAMES, names=NAMES, times=every_25th)
        assert labels.dtype == np.int64 and labels.tolist() == LABELS


@pytest.mark.parametrize('form', FORMS)
def test_forms_in_a_folder(form, clip, tmp_path, capsys):
    """As a user meets them, from the folder to a worker process; names are numbered, and printed."""
    (video,) = unchecked('folder', folder_with(tmp_path, clip, a_csv=FORMS[form].encode()))[
        'train'
    ]
    video = pickle.loads(pickle.dumps(video))
    assert video.labels.tolist() == LABELS
    named = 'down' in FORMS[form]
    assert video.classes == (NAMES if named else None)
    assert (
        'classes, numbered by the alphabet: 0 down, 1 hold still, 2 up'
        in capsys.readouterr().out
    ) == named


@pytest.mark.parametrize(
    'array',
    [
        np.array(LABELS),
        np.array(LABELS, np.uint8),
        np.array(LABELS, float),
        np.array([NAMES[i] for i in LABELS]),
        np.array(LABELS).astype(str),
    ],
)
def test_arrays(array, tmp_path):
    np.save(tmp_path / 'a.npy', array)
    assert read_labels(tmp_path / 'a.npy', FRAMES, names=NAMES).tolist() == LABELS


@pytest.mark.parametrize(
    'name, content, reason',
    [
        ('a.txt', b'0 0 1 1', '4 labels for 6 frames'),
        ('a.txt', b'0 0 1 1 2 x', 'integer.*"x"'),
        ('a.txt', b'', 'integer'),
        ('a.txt', b'\xff\xfe0', 'a.txt'),
        ('a.txt', b'0 0 -2 0 0 0', '-2'),
        ('a.txt', b'0 0 1 1 1.5 2', r'integer label a frame \(1.5\)'),
        ('a.txt', '0\n'.encode('utf-16-le') * 6, 'save it as UTF-8'),
        ('a.txt', '0\n'.encode('utf-32') * 6, 'save it as UTF-8'),
        ('a.txt', 'ab\nH\u00e4nde\n'.encode('cp1252'), 'byte 4 is not UTF-8; save it as UTF-8'),
        ('a.txt', b'0 0 0\n1 1\n', '5 labels for 6 frames'),
        (
            'a.csv',
            b'down,up\nup,up\nup,down\nup,up\nup,up\nup,up',
            'not every frame|number of its frame',
        ),
        ('a.csv', b'label,label\n0,1\n1', 'row 2 below the header, "1", has 1 cells'),
        ('a.csv', b'x,y\n0,1\n1,1', 'no column named label, but x, y'),
        ('a.csv', b'frame,label\n0,1\n0,1\n1,1', 'every frame once'),
        ('a.csv', b'frame,label\n5,1\n10,1\n15,1', 'every frame once'),
        ('a.csv', b'start_s,end_s,label\n0,0:00:01:12,up', '"0:00:01:12" is no number'),
        ('a.csv', b'0,2,up\n3,5,down', '--label-unit seconds or --label-unit frames'),
        ('a.csv', b'start,end,label\n0,2,up\n3,5,down', 'start_seconds,end_seconds,label'),
        ('a.csv', b'start_ms,end_ms,label\n0,12000,up', 'from 0 to 12 seconds'),
        ('a.csv', b'start_frame,end_frame,label\n0,3,up\n2,5,down', 'overlap at 2 frames'),
        (
            'a.csv',
            b'start_frame,end_frame,label\n0,6,up',
            'reaches from 0 to 7 frames.*from 0 to 5',
        ),
        ('a.csv', b'start_frame,end_frame,label\n4,2,up', 'ends before it begins'),
        ('a.csv', b'start_s,end_s,label\n0,2,up', 'from 0 to 2 seconds'),
        ('a.csv', b'start_s,end_s,label\n0,,up', 'without its start or its end'),
        ('a.csv', b'start_s,label\n0,up', 'label'),
        ('a.npy', np.zeros(7, int), '7 labels for 6 frames'),
        ('a.npy', np.zeros((6, 2), int), 'integer.*6 x 2'),
        ('a.npy', np.full(6, np.nan), 'integer'),
        ('a.npy', np.array([{}] * 6), 'a.npy'),
        ('a.npy', b'', 'a.npy'),
        ('a.npy', np.array(['0', 'x'] * 3), 'integer'),
        ('a.npy', np.array([0, 0, 1, np.inf, 1, 1]), 'integer'),
        ('a.npy', np.zeros(6, bool), 'integer.*bool'),
        ('a.npy', np.array([b'up'] * 6), 'integer'),
    ],
)
def test_labels_that_do_not_fit(name, content, reason, tmp_path):
    write_video(tmp_path / 'a.mp4', 6)
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content, allow_pickle=True)
    (video,) = unchecked('folder', tmp_path)['train']
    assert numbers(video.read(range(6))) == list(range(6))  # the frames are none the worse
    with pytest.raises(UserError, match=reason) as error:
        video.labels
    assert 'a.' in str(error.value) and '\n' not in str(error.value)


# ----------------------------------------------------------------------------------------
# Class names


@pytest.mark.parametrize('file', ['classes.txt', 'mapping.txt'])
@pytest.mark.parametrize(
    'content',
    [
        '0 up\n1 down\n2 hold still\n',
        'up 0\ndown 1\nhold still 2',
        'up\ndown\nhold still\n',
        '2,hold still\n0,up\n1,down\n',
        '\ufeff0 up\r\n1 down\r\n2 hold still\r\n',
    ],
)
def test_a_file_numbers_the_classes(file, content, clip, tmp_path, capsys):
    folder_with(tmp_path, clip, a_txt=FORMS['names'].encode())
    (tmp_path / file).write_text(content, encoding='utf-8', newline='')
    (video,) = unchecked('folder', tmp_path)['train']
    assert video.classes == ['up', 'down', 'hold still']
    assert video.labels.tolist() == [1] * 3 + [2] * 4 + [0] * 2
    said = capsys.readouterr().out
    assert (
        f'classes, numbered by {file}: 0 up, 1 down, 2 hold still' in said
        and 'not used' not in said
    )


@pytest.mark.parametrize(
    'content, reason',
    [
        ('0 up\n0 down\n', 'each class once'),
        ('', 'each class once'),
        ('0 up\n1 down\n', '"hold still" is none of the classes'),
        ('99999 up\n', '9999'),
        ('up\nup\n', 'each class once'),
    ],
)
def test_class_files_that_cannot_be_meant(content, reason, clip, tmp_path):
    folder_with(tmp_path, clip, a_txt=FORMS['names'].encode(), classes_txt=content.encode())
    with pytest.raises(UserError, match=reason):
        unchecked('folder', tmp_path)['train'][0].labels


def test_names_of_a_set_have_one_numbering(clip, tmp_path):
    """MS-TCN's groundTruth: a name a line, and a video need not have all of them. -1: no label."""
    for name, words in (('a', ['up', '-1'] * 3), ('b', ['pour_water'] * 6)):
        write_video(tmp_path / f'{name}.mp4', 6)
        (tmp_path / f'{name}.txt').write_text('\n'.join(words))
    a, b = unchecked('folder', tmp_path)['train']
    assert a.labels.tolist() == [1, -1] * 3 and b.labels.tolist() == [0] * 6
    assert a.classes == b.classes == ['pour_water', 'up']


def test_names_and_numbers_in_one_set_are_refused(clip, tmp_path):
    folder_with(
        tmp_path, clip, a_txt=FORMS['names'].encode(), b_txt=FORMS['one a line'].encode()
    )
    write_video(tmp_path / 'b.mp4', FRAMES)
    with pytest.raises(
        UserError,
        match='a.txt has class names, .*b.txt one integer label a frame.*classes.txt',
    ):
        unchecked('folder', tmp_path)
    (tmp_path / 'classes.txt').write_text('up\nhold still\ndown')
    a, b = unchecked('folder', tmp_path)['train']
    assert a.labels.tolist() == [2] * 3 + [1] * 4 + [0] * 2 and b.labels.tolist() == LABELS


# ----------------------------------------------------------------------------------------
# Segments


@pytest.mark.parametrize(
    'unit, expected', [('frames', [0, 0, 1, 1, 1, 1, -1, -1, -1]), ('seconds', None)]
)
def test_label_unit(unit, expected, clip, tmp_path, monkeypatch, capsys):
    folder_with(tmp_path, clip, a_txt=b'0 1 down\n2 5 up\n')
    (video,) = unchecked('folder', tmp_path, label_unit=unit)['train']
    if expected:
        assert video.labels.tolist() == expected
    else:
        with pytest.raises(UserError, match='to 5 seconds, but the video from 0 to 0.32'):
            video.labels
    monkeypatch.setattr(
        sys, 'argv', ['data.py', 'folder', '--data', str(tmp_path), '--label-unit', unit]
    )
    data.main()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        'folder: complete' if expected else 'folder: usable, but lacking: 1 labels do not fit'
    )


def test_label_unit_is_for_segments_only(tmp_path):
    mini.k400(tmp_path, train=1)
    with pytest.raises(UserError, match='--label-unit'):
        unchecked('k400', tmp_path, label_unit='frames')


def test_seconds_need_a_clock(tmp_path):
    write_images(tmp_path / 'a', 6)
    (tmp_path / 'a.csv').write_text('start_seconds,end_seconds,label\n0,1,up\n')
    with pytest.raises(UserError, match='folder of images has no clock'):
        unchecked('folder', tmp_path)['train'][0].labels


@pytest.mark.parametrize('ending', ['.mp4', '.mkv', '.mov'])
def test_times_of_a_phone(ending, tmp_path):
    """Phones film at a varying rate: a frame belongs to the segment in which it is shown."""
    path, shown = tmp_path / f'a{ending}', [0, 100, 150, 400, 1000, 1033, 1500]  # milliseconds
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('libx264', rate=30, options={'bf': '2'})
        stream.width, stream.height, stream.pix_fmt = 160, 96, 'yuv420p'
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, when in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(picture(i), format='rgb24')
            frame.pts, frame.time_base = when, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert np.allclose(frame_times(path, 7), np.array(shown) / 1000, atol=1e-3)
    (tmp_path / 'a.csv').write_text(
        'start_seconds,end_seconds,label\n0.1,0.4,0\n0.4,1.033,1\n1.2,2,2\n'
    )
    (video,) = unchecked('folder', tmp_path)['train']
    assert video.labels.tolist() == [-1, 0, 0, 1, 1, -1, 2]


# ----------------------------------------------------------------------------------------
# Before anything is trained


def test_check_labels(tmp_path, clip):
    for split, name, labels in (
        ('train', 'good', '0 0 0 1 1 1 2 2 2'),
        ('train', 'long', '0 ' * 10),
        ('train', 'none', None),
        ('val', 'good', '0 0 0 1 1 1 1 1 7'),
        ('val', 'words', '0 0 0 1 x'),
        ('val', 'broken', '0 1 2'),
    ):
        folder = tmp_path / split
        folder.mkdir(exist_ok=True)
        (folder / f'{name}.mp4').write_bytes(b'' if name == 'broken' else clip.read_bytes())
        if labels:
            (folder / f'{name}.txt').write_text(labels)
    videos = unchecked('folder', tmp_path)
    given = videos
    videos, problems = check_labels(given)
    assert given['train'][1].annotate and len(problems) == 4    # what is checked is not changed
    for problem, words in zip(
        problems,
        (
            'long.mp4: 10 labels for 9 frames',
            'words.txt: not one integer',
            'note: 1 of 6 videos have no labels: none.mp4',
            'note: good.mp4: no train video has its label 7',
        ),
    ):
        assert words in problem and '\n' not in problem
    assert [video.labels is None for video in videos['train']] == [False, True, True]
    assert [video.labels is None for video in videos['val'] if video.name != 'broken.mp4'] == [
        False,
        True,
    ]
    for video in videos['train']:
        assert video.frames == FRAMES
    assert not [
        line for line in check_labels(videos)[1] if 'long' in line and 'no labels' not in line
    ]  # said once


@pytest.mark.parametrize('layout', mini.LAYOUTS)
def test_labels_of_every_layout_fit(layout, tmp_path):
    mini.LAYOUTS[layout](tmp_path, **({'actions': ['bowl']} if 'penn' in layout else {}))
    videos = unchecked(layout.split(',')[0], tmp_path)
    assert check_labels(videos) == (videos, [])


def test_labels_of_penn_beyond_its_classes(tmp_path):
    mini.penn(tmp_path, actions=['pullup'], train=2, val=1)
    np.save(tmp_path / 'penn_action_labels/train/pullup/0001_pullup.npy', np.full(12, 2))
    videos = unchecked('penn', tmp_path)
    first, second = videos['train']
    with pytest.raises(UserError, match='0001_pullup.npy'):
        first.labels
    assert second.labels.max() == 1
    videos, problems = check_labels(videos)
    first = videos['train'][0]
    assert '0001_pullup.npy' in problems[0] and first.labels is None and first.frames == 12


# ----------------------------------------------------------------------------------------
# Tables as programs write them: 98 of 100 frames labelled, walk for two seconds, then rear

BORIS = ('Observation id,Time offset (s),Coding duration,Subject,Behavior,Behavior type,Start (s),'
         'Stop (s),Duration (s),Media file name,Image index start,Image index stop,Comment start\n'
         'o,0.0,4.0,m,walk,STATE,0.000,2.000,2.000,a.mp4,NA,NA,\n'
         'o,0.0,4.0,m,rear,STATE,2.000,3.900,1.900,a.mp4,NA,NA,\n')
PROGRAMS = {
    'BORIS': BORIS,
    'BORIS, a point event': BORIS + 'o,0.0,4.0,m,call,POINT,3.95,3.95,NA,a.mp4,NA,NA,\n',
    'pandas, tabs': '\tstart_seconds\tend_seconds\tlabel\n0\t0.0\t2.0\twalk\n1\t2.0\t3.9\trear\n',
    'empty last cell': 'start_s\tend_s\tlabel\tnote\n0\t2\twalk\tslow\n2\t3.9\trear\t\n',
    'sep=;': 'sep=;\nstart_seconds;end_seconds;label\n0,0;2,0;walk\n2,0;3,9;rear\n',
    'empty rows': 'start_seconds,end_seconds,label\n0,2,walk\n2,3.9,rear\n,,\n,,\n',
    'comments': '# camera 2\n# times in seconds\nstart_seconds,end_seconds,label\n'
                '0,2,walk\n2,3.9,rear\n',
    'ELAN': 'tier\t\t00:00:00.000\t00:00:02.000\t00:00:02.000\twalk\n'
            'tier\t\t00:00:02.000\t00:00:03.900\t00:00:01.900\trear\n',
    'onset, duration': 'onset (s),duration (s),trial_type\n0,2,walk\n2,1.9,rear\n3,n/a,call\n',
    'milliseconds': 'start_ms,end_ms,label\n0,2000,walk\n2000,3900,rear\n',
    'Breakfast': '1-50 walk\n51-98 rear\n',
    'NA cells': 'frame,label\n' + ''.join(
        f'{i},{"walk" if i < 50 else "rear" if i < 98 else "NA"}\n' for i in range(100)),
}


@pytest.mark.parametrize('program', PROGRAMS)
def test_tables_as_programs_write_them(program, tmp_path, capsys):
    write_video(tmp_path / 'a.mp4', 100)
    (tmp_path / 'a.csv').write_text(PROGRAMS[program])
    (video,) = unchecked('folder', tmp_path)['train']
    assert video.classes == ['rear', 'walk']
    expected = [1] * 50 + [0] * 48 + [-1] * 2
    assert [i for i in range(100) if video.labels[i] != expected[i]] in ([], [97])  # an end rounded
    assert 'labels, 1 files: ' in capsys.readouterr().out


@pytest.mark.parametrize('words', [('0', '1'), ('down', 'up')])
def test_a_text_that_is_no_label_file(words, tmp_path):
    """The other videos keep their labels and the numbers of their classes; it is named."""
    for name in 'ab':
        write_video(tmp_path / f'{name}.mp4', 24)
    (tmp_path / 'a.txt').write_text('\n'.join([words[0]] * 12 + [words[1]] * 12))
    (tmp_path / 'b.txt').write_text('Filmed on Tuesday by Anna\n')
    videos, problems = check_labels(unchecked('folder', tmp_path))
    assert videos['train'][0].labels.tolist() == [0] * 12 + [1] * 12
    assert videos['train'][0].classes == (None if words[0] == '0' else ['down', 'up'])
    assert len(problems) == 1 and 'b.txt' in problems[0] and 'Filmed' in problems[0]
