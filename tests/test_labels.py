"""Labels: every form in which people write them, in every encoding and type of file."""
import codecs
from fractions import Fraction

import av
import numpy as np
import pytest

from data import DATASETS
from datasets.doctor import read_dataset
from datasets.labels import drop_wrong_labels, read_labels
from datasets.packets import frame_times
from datasets.tables import rows_of_text
from miniatures import numbers, picture, unchecked, write_images, write_video
from running.errors import UserError

LABELS = [0] * 3 + [1] * 4 + [2] * 2
NAMES = ['down', 'hold still', 'up']
FRAMES = len(LABELS)


def lines(template, first=0):
    """A line a frame; template: of {frame}, {label} and {name}."""
    written = [template.format(frame=i, label=label, name=NAMES[label])
               for i, label in enumerate(LABELS, first)]
    return '\n'.join(written) + '\n'


FORMS = {
    'one a line': lines('{label}'),
    'blank lines': lines('{label}\n').strip(),
    'by blanks': ' '.join(map(str, LABELS)),
    'by commas and blanks': ', '.join(map(str, LABELS)),
    'as NumPy saves floats': lines('{label}.000000000000000000e+00'),
    'a header': 'label\n' + lines('{label}'),
    "NumPy's header": '# phase\n' + lines('{label}'),
    'frame and label, no header': lines('{frame},{label}'),
    'frames from one': 'Frame;Phase\n' + lines('{frame};{label}', first=1),
    'more columns': 'frame,time,phase,probability\n' + lines('{frame},0.5,{label},0.25'),
    'two empty columns': 'label,,\n' + lines('{label},,'),
    'names': lines('{name}'),
    'names in quotes': 'label\n' + lines('"{name}"'),
    'names by commas': ','.join(NAMES[label] for label in LABELS),
    'frame and name': 'frame,label\n' + lines('{frame},{name}'),
    'frame and name, by blanks': lines('{frame} {name}'),
    'segments in frames': 'start_frame,end_frame,label\n0,2,down\n3,6,hold still\n7,8,up\n',
    'in seconds': 'start (s),end (s),label\n0,0.12,down\n0.12,0.28,hold still\n0.28,0.36,up\n',
    'in seconds, by blanks':
        'start_seconds end_seconds name\n0 0.12 down\n0.12 0.28 hold still\n0.28 0.4 up\n',
    'segments that touch': 'Start Frame;End Frame;Phase\n0;3;0\n3;7;1\n7;9;2\n',
    'out of order': 'start_frame\tend_frame\tlabel\n7\t8\tup\n0\t2\tdown\n3\t6\thold still\n',
    'by the clock': '0:00 0:00.12 down\n0:00.12 0:00.28 hold still\n0:00.28 0:00.36 up\n',
}


def clip_of(frames, folder):
    write_video(folder / 'a.mp4', frames, size=(32, 32))
    return (folder / 'a.mp4').read_bytes()


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    return clip_of(FRAMES, tmp_path_factory.mktemp('clip'))


@pytest.fixture(scope='module')
def clip_of_100(tmp_path_factory):
    return clip_of(100, tmp_path_factory.mktemp('clip'))


def folder_with(folder, clip, **files):
    """A folder set of one video; a_txt='...' is its file of labels a.txt."""
    (folder / 'a.mp4').write_bytes(clip)
    for name, content in files.items():
        (folder / name.replace('_', '.')).write_text(content, encoding='utf-8', newline='')
    return folder


def only_video(folder, **options):
    video, = unchecked('folder', folder, **options)['train']
    return video


@pytest.mark.parametrize('form', FORMS)
def test_forms(form, clip, tmp_path, capsys):
    """As a user meets them: names are numbered, and it is said what was taken for what."""
    video = only_video(folder_with(tmp_path, clip, a_csv=FORMS[form]))
    assert video.labels.dtype == np.int64 and video.labels.tolist() == LABELS
    named = 'down' in FORMS[form]
    assert video.classes == (NAMES if named else None)
    said = capsys.readouterr().out
    numbering = 'classes, numbered by the alphabet: 0 down, 1 hold still, 2 up'
    assert 'labels, 1 files: ' in said and (numbering in said) == named


@pytest.mark.parametrize('mark, codec', [
    (b'', 'utf-8'), (codecs.BOM_UTF8, 'utf-8'),
    (codecs.BOM_UTF16_LE, 'utf-16-le'), (codecs.BOM_UTF16_BE, 'utf-16-be')])
def test_encodings(mark, codec, tmp_path):
    by_frame = 'frame,label\n' + lines('{frame},{name}')
    for ending, text in (('.txt', lines('{label}')), ('.CSV', by_frame)):
        path = tmp_path / f'a{ending}'
        path.write_bytes(mark + text.replace('\n', '\r\n').encode(codec))
        assert read_labels(path, FRAMES, names=NAMES).tolist() == LABELS


@pytest.mark.parametrize('dtype', [int, np.uint8, float, str])
def test_arrays(dtype, tmp_path):
    np.save(tmp_path / 'a.npy', np.array(LABELS).astype(dtype))
    assert read_labels(tmp_path / 'a.npy', FRAMES).tolist() == LABELS


@pytest.mark.parametrize('name, content, reason', [
    ('a.txt', '0 0 1 1', '4 labels for 6 frames'),
    ('a.txt', '0 0 1 1 2 x', 'integer.*"x"'),
    ('a.txt', '', 'nothing in it'),
    ('a.txt', '0 0 -2 0 0 0', '-2'),
    ('a.txt', '0 0 1 1 1.5 2', 'integer label a frame'),
    ('a.txt', '0\n'.encode('utf-16-le') * 6, 'save it as UTF-8'),
    ('a.txt', 'ab\nH\u00e4nde\n'.encode('cp1252'), 'save it as UTF-8'),
    ('a.txt', '0 0 0\n1 1\n', 'row 2, "1 1", has 2 cells, row 1 3'),
    ('a.csv', 'x,y\n0,1\n1,1', 'no column named label, but x, y'),
    ('a.csv', 'frame,label\n0,1\n0,1\n1,1', 'frame is not every frame once'),
    ('a.csv', 'start_s,end_s,label\n0,0:00:01:12,up', '"0:00:01:12" is no number'),
    ('a.csv', 'start,end,label\n0,2,up\n3,5,down', 'start_seconds,end_seconds,label'),
    ('a.csv', 'start_ms,end_ms,label\n0,12000,up', 'from 0 to 12 seconds'),
    ('a.csv', 'start_frame,end_frame,label\n0,3,up\n2,5,down', 'from 2 to 6 frames overlaps'),
    ('a.csv', 'start_frame,end_frame,label\n4,2,up', 'ends before it begins'),
    ('a.csv', 'start_s,end_s,label\n0,,up', '"" is no number .* in "0,,up"'),
    ('a.npy', np.zeros(7, int), '7 labels for 6 frames'),
    ('a.npy', np.zeros((6, 2), int), r'integer.*\(6, 2\)'),
    ('a.npy', np.array([{}] * 6), 'allow_pickle'),
    ('a.npy', np.array([0, 0, 1, np.inf, 1, 1]), 'integer.*inf'),
    ('a.npy', np.zeros(6, bool), 'integer.*bool')])
def test_labels_that_do_not_fit(name, content, reason, tmp_path):
    """One line that names the file and what cannot be read; the frames are none the worse."""
    write_video(tmp_path / 'a.mp4', 6)
    if isinstance(content, np.ndarray):
        np.save(tmp_path / name, content, allow_pickle=True)
    else:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    video = only_video(tmp_path)
    assert numbers(video.read(range(6))) == list(range(6))
    with pytest.raises(UserError, match=reason) as error:
        video.labels
    assert 'a.' in str(error.value) and '\n' not in str(error.value)


# --------------------------------------------------------------------------------------------------
# Tables as programs write them: 98 of 100 frames labelled, walk for two seconds, then rear

BORIS = ('Observation id,Time offset (s),Coding duration,Subject,Behavior,Behavior type,Start (s),'
         'Stop (s),Duration (s),Media file name,Image index start,Image index stop,Comment start\n'
         'o,0.0,4.0,m,walk,STATE,0.000,2.000,2.000,a.mp4,NA,NA,\n'
         'o,0.0,4.0,m,rear,STATE,2.000,3.900,1.900,a.mp4,NA,NA,\n')
PROGRAMS = {
    'BORIS, a point event': BORIS + 'o,0.0,4.0,m,call,POINT,3.95,3.95,NA,a.mp4,NA,NA,\n',
    'pandas, tabs': '\tstart_seconds\tend_seconds\tlabel\n0\t0.0\t2.0\twalk\n1\t2.0\t3.9\trear\n',
    'empty last cell': 'start_s\tend_s\tlabel\tnote\n0\t2\twalk\tslow\n2\t3.9\trear\t\n',
    'sep=;': 'sep=;\nstart_seconds;end_seconds;label\n0,0;2,0;walk\n2,0;3,9;rear\n',
    'empty rows': 'start_seconds,end_seconds,label\n0,2,walk\n2,3.9,rear\n,,\n,,\n',
    'comments': '# camera 2\n# times in seconds\nstart_seconds,end_seconds,label\n'
                '0,2,walk\n2,3.9,rear\n',
    'ELAN': 'tier\t\t00:00:00.000\t00:00:02.000\t00:00:02.000\twalk\n'
            'tier\t\t00:00:02.000\t00:00:03.900\t00:00:01.900\trear\n',
    'onset, duration': 'onset\tduration\ttrial_type\n0\t2\twalk\n2\t1.9\trear\n3\tn/a\tcall\n',
    'ELAN, ss.msec': 'Begin Time - ss.msec\tEnd Time - ss.msec\tphase\n'
                     '0.0\t2.0\twalk\n2.0\t3.9\trear\n',
    'minutes': f'start_min,end_min,label\n0,{2 / 60},walk\n{2 / 60},{3.9 / 60},rear\n',
    'milliseconds': 'start_ms,end_ms,label\n0,2000,walk\n2000,3900,rear\n',
    'Breakfast': '1-50 walk\n51-98 rear\n',
    'a cell over two lines': 'start_s,end_s,label,note\n0,2,walk,"slow\nand low"\n2,3.9,rear,\n',
    'NA cells': 'frame,label\n' + ''.join(
        f'{i},{"walk" if i < 50 else "rear" if i < 98 else "NA"}\n' for i in range(100)),
    'empty cells': 'label,rater2\n' + 'walk,walk\n' * 50 + 'rear,\n' * 48 + ',rear\n' * 2,
}


def test_a_single_segment_by_blanks_keeps_its_whole_name():
    assert rows_of_text(b'0:00 0:04 hold still\n') == [['0:00', '0:04', 'hold still']]


SAID = {    # the columns that are taken
    'BORIS, a point event':
        'segments in seconds, Start (s), Stop (s), Behavior, 1 point events left out (a.csv)',
    'ELAN': 'segments in seconds, start (column 3), end (column 4), label (column 6)',
    'Breakfast': 'segments in frames, first frame (from 1), last frame (from 1), label',
    'NA cells': 'one name a frame, label by frame'}


@pytest.mark.parametrize('program', PROGRAMS)
def test_tables_as_programs_write_them(program, clip_of_100, tmp_path, capsys):
    video = only_video(folder_with(tmp_path, clip_of_100, a_csv=PROGRAMS[program]))
    assert video.classes == ['rear', 'walk']
    assert f'labels, 1 files: {SAID.get(program, "")}' in capsys.readouterr().out
    expected = [1] * 50 + [0] * 48 + [-1] * 2
    wrong = [i for i in range(100) if video.labels[i] != expected[i]]
    assert wrong in ([], [97])                                    # an end rounded


@pytest.mark.parametrize('notes', [
    'Anna, with the phone\n\nsecond try\n', 'start: 2\nend: 9\n',
    'https://example.org/watch?v=1, 720p; by Anna\n#squat #gym\n'])
@pytest.mark.parametrize('words', [('0', '1'), ('down', 'up')], ids=['numbers', 'names'])
def test_a_text_that_is_no_label_file(words, notes, clip, tmp_path):
    """The other videos keep their labels and the numbers of their classes; it is named."""
    folder_with(tmp_path, clip, a_txt='\n'.join([words[0]] * 4 + [words[1]] * 5), b_txt=notes)
    (tmp_path / 'b.mp4').write_bytes(clip)
    videos = unchecked('folder', tmp_path)['train']
    problem, = drop_wrong_labels(videos)
    assert videos[0].labels.tolist() == [0] * 4 + [1] * 5 and 'b.txt: ' in problem
    assert videos[0].classes == (None if words[0] == '0' else ['down', 'up'])


# --------------------------------------------------------------------------------------------------
# Class names

@pytest.mark.parametrize('file, content', [
    ('mapping.txt', '2,hold still\n0,up\n1,down\n'), ('classes.txt', 'up\ndown\nhold still\n'),
    ('classes.txt', '0 up\n1 down\n2 hold, still\n'),
    ('classes.txt', '\ufeff0 up\r\n1 down\r\n2 hold still\r\n')])
def test_a_file_numbers_the_classes(file, content, clip, tmp_path, capsys):
    folder_with(tmp_path, clip, a_txt=FORMS['names'], **{file.replace('.', '_'): content})
    video = only_video(tmp_path)
    assert video.classes == ['up', 'down', 'hold still']
    assert video.labels.tolist() == [1] * 3 + [2] * 4 + [0] * 2
    said = capsys.readouterr().out
    assert f'classes, numbered by {file}: 0 up, 1 down, 2 hold still' in said


@pytest.mark.parametrize('content, reason', [
    ('0 up\n0 down\n', 'each class once'), ('', 'each class once'), ('up\nup\n', 'each class once'),
    ('0 up\n1 down\n', r'nor one class name of up, down \("hold still"\)')])
def test_class_files_that_cannot_be_meant(content, reason, clip, tmp_path):
    folder_with(tmp_path, clip, a_txt=FORMS['names'], classes_txt=content)
    with pytest.raises(UserError, match=reason):
        only_video(tmp_path).labels


def test_names_of_a_set_have_one_numbering(tmp_path):
    """MS-TCN's groundTruth: a name a line, and a video need not have all of them. -1: no label."""
    for name, words in (('a', ['up', '-1'] * 3), ('b', ['pour_water'] * 6)):
        write_video(tmp_path / f'{name}.mp4', 6)
        (tmp_path / f'{name}.txt').write_text('\n'.join(words))
    a, b = unchecked('folder', tmp_path)['train']
    assert a.labels.tolist() == [1, -1] * 3 and b.labels.tolist() == [0] * 6
    assert a.classes == b.classes == ['pour_water', 'up']


def test_names_and_numbers_in_one_set_are_refused(clip, tmp_path):
    folder_with(tmp_path, clip, a_txt=FORMS['names'], b_txt=FORMS['one a line'])
    (tmp_path / 'b.mp4').write_bytes(clip)
    reason = 'a.txt has class names, .*b.txt one integer label a frame.*classes.txt'
    with pytest.raises(UserError, match=reason):
        unchecked('folder', tmp_path)
    (tmp_path / 'classes.txt').write_text('up\nhold still\ndown')
    a, b = unchecked('folder', tmp_path)['train']
    assert a.labels.tolist() == [2] * 3 + [1] * 4 + [0] * 2 and b.labels.tolist() == LABELS


# --------------------------------------------------------------------------------------------------
# Segments

def test_label_unit(clip, tmp_path, doctor):
    folder_with(tmp_path, clip, a_txt='0 1 down\n2 5 up\n')
    video = only_video(tmp_path, label_unit='frames')
    assert video.labels.tolist() == [0, 0, 1, 1, 1, 1, -1, -1, -1]
    with pytest.raises(UserError, match='to 5 seconds, but the video is from 0 to 0.32'):
        only_video(tmp_path, label_unit='seconds').labels
    for unit, verdict in (('frames', 'complete'), ('seconds', 'usable, but lacking: 1 labels')):
        _, out, _ = doctor('folder', '--data', tmp_path, '--label-unit', unit)
        assert out.splitlines()[-1].startswith(f'folder: {verdict}')
    code, _, err = doctor('k400', '--data', tmp_path, '--label-unit', unit)
    assert code == 2 and 'leave out --label-unit' in err[0]


def test_seconds_need_a_clock(tmp_path):
    write_images(tmp_path / 'a', 6)
    (tmp_path / 'a.csv').write_text('start_seconds,end_seconds,label\n0,1,up\n')
    with pytest.raises(UserError, match='folder of images has no clock'):
        only_video(tmp_path).labels


@pytest.mark.parametrize('ending', ['.mp4', '.mkv'])
def test_times_of_a_phone(ending, tmp_path):
    """Phones film at a varying rate: a frame belongs to the segment in which it is shown."""
    path = tmp_path / f'a{ending}'
    shown = [0, 100, 150, 400, 1000, 1033, 1500]  # milliseconds
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('libx264', rate=30, options={'bf': '2'})
        stream.width, stream.height, stream.pix_fmt = 160, 96, 'yuv420p'
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, when in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(picture(i), format='rgb24')
            frame.pts = when
            frame.time_base = Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert np.allclose(frame_times(path), np.array(shown) / 1000, atol=1e-3)
    table = 'start_seconds,end_seconds,label\n0.1,0.4,0\n0.4,1.033,1\n1.2,2,2\n'
    (tmp_path / 'a.csv').write_text(table)
    assert only_video(tmp_path).labels.tolist() == [-1, 0, 0, 1, 1, -1, 2]


# --------------------------------------------------------------------------------------------------
# Before anything is trained

def test_wrong_labels_are_dropped(tmp_path, clip):
    for split, name, labels in (
            ('train', 'good', '0 0 0 1 1 1 2 2 2'), ('train', 'long', '0 ' * 10),
            ('train', 'none', None), ('val', 'good', '0 0 0 1 1 1 1 1 7'),
            ('val', 'words', '0 0 0 1 x'), ('val', 'broken', '0 1 2')):
        folder = tmp_path / split
        folder.mkdir(exist_ok=True)
        (folder / f'{name}.mp4').write_bytes(b'' if name == 'broken' else clip)
        if labels:
            (folder / f'{name}.txt').write_text(labels)
    videos, notes, faults = read_dataset('folder', DATASETS['folder'], tmp_path, 224)
    assert notes == ['1 of 6 videos have no labels: none.mp4']
    expected = ['long.mp4: 10 labels for 9 frames', 'words.txt: not one integer']
    for problem, words in zip(faults['labels left out'], expected, strict=True):
        assert words in problem and '\n' not in problem
    labelled = {video.name: video.labels is not None
                for video in videos['train'] + videos['val'] if video.name != 'broken.mp4'}
    assert labelled == {'good.mp4': True, 'long.mp4': False, 'none.mp4': False, 'words.mp4': False}
    assert drop_wrong_labels(videos['train']) == []    # said once
