"""One's own videos by the command: aligned, and labelled by those of the training set."""
import shutil

import av
import numpy as np
import pytest
import torch

import data
import evaluate
import evaluation.command
from made import exit_code, table_of
from miniatures import folder, write_images, write_video
from noise import SETTINGS, write_checkpoint
from pictures import film
from pictures.align import match

torch.set_num_threads(1)                                  # the frames are tiny
SIZE = SETTINGS['image_size']


@pytest.fixture(scope='module')
def labelled_set(tmp_path_factory):
    """Two actions of three phases, 'wave' and 'jump high', in a folder."""
    root = tmp_path_factory.mktemp('labelled')
    folder(root)
    return root


@pytest.fixture
def checkpoint(network, labelled_set, tmp_path):
    return write_checkpoint(tmp_path / 'run' / 'checkpoint.pt', network, data=str(labelled_set))


@pytest.fixture
def command(checkpoint, capsys):
    """command(arguments) -> exit code, what is printed, the errors."""
    def run(*arguments):
        code = exit_code(evaluate.main, [str(checkpoint), *map(str, arguments)])
        return code, *capsys.readouterr()
    return run


def film_times(path):
    with av.open(str(path)) as file:
        return [frame.time for frame in file.decode(video=0)]


def one_line(code, error, *words):
    assert code == 2, error
    assert error.startswith('\nevaluate.py: error: '), error    # first out of a progress bar's line
    assert error.count('\n') == 2 and all(word in error for word in words), error


# --------------------------------------------------------------------------------------------------
# --align

def test_the_table_is_the_matched_frames_with_their_times(command, network, tmp_path):
    """Videos of other sizes and rates, one of them on end, and a folder of images."""
    wide, tall, images = tmp_path / 'wide.mp4', tmp_path / 'tall.mp4', tmp_path / 'images'
    write_video(wide, 9, rate=10)
    write_video(tall, 14, rate=50, size=(96, 400))
    write_images(images, 6)
    out = tmp_path / 'new' / 'film.mp4'
    code, printed, error = command('--align', wide, tall, images, '--out', out)
    assert code == 0, error
    first = network.embed(wide)
    others = {'tall.mp4': network.embed(tall), 'images': network.embed(images)}
    rates = {'tall.mp4': 50, 'images': 25}    # a folder has no times: as if 25 a second
    found = {name: match(first, z) for name, z in others.items()}
    rows = table_of(out.with_suffix('.csv'))
    assert len(rows) == 2 * 9
    for row in rows:
        name = row['video'].split('/')[-1]
        a, b = int(row['frame_a']), int(row['frame_b'])
        assert b == found[name][a]
        assert float(row['similarity']) == pytest.approx(first[a] @ others[name][b], abs=1e-4)
        assert float(row['seconds_a']) == pytest.approx(a / 10, abs=1e-3)
        assert float(row['seconds_b']) == pytest.approx(b / rates[name], abs=1e-3)
    assert film_times(out) == pytest.approx([i / 10 for i in range(9)], abs=1e-3)
    assert 'images: no times in it, taken as 25 frames a second' in printed
    assert printed.count('from pure time stretching') == 2


def test_a_video_above_the_limit_stays_one_sequence(command, checkpoint, network, tmp_path):
    """The same picture sequence at four times the rate lasts as long: each moment is found at its
    time, not in a part that has been taken for a video of its own."""
    write_checkpoint(checkpoint, network, limit=20)
    write_video(tmp_path / 'slow.mp4', 18, rate=10)
    write_video(tmp_path / 'fast.mp4', 18, rate=40, repeat=4)
    code, printed, error = command('--align', tmp_path / 'slow.mp4', tmp_path / 'fast.mp4',
                                   '--out', tmp_path / 'film.mp4')
    assert code == 0, error
    line, = [line for line in printed.splitlines() if 'note: more than 20 frames' in line]
    assert line.endswith('interpolated (1): ' + f'{tmp_path.name}/fast.mp4')
    rows = table_of(tmp_path / 'film.csv')
    seconds = [(float(row['seconds_a']), float(row['seconds_b'])) for row in rows]
    assert np.abs(np.diff(seconds)).max() < 0.15


@pytest.mark.parametrize('n', [1, 7])
def test_one_frame_is_a_video(command, tmp_path, n):
    write_video(tmp_path / 'a.mp4', n)
    write_video(tmp_path / 'b.mp4', 8 - n)
    command('--align', tmp_path / 'a.mp4', tmp_path / 'b.mp4', '--out', tmp_path / 'film.mp4')
    assert len(table_of(tmp_path / 'film.csv')) == len(film_times(tmp_path / 'film.mp4')) == n


def test_a_broken_video_ends_it_before_anything_is_written(command, tmp_path):
    write_video(tmp_path / 'a.mp4', 4)
    (tmp_path / 'broken.mp4').write_bytes(b'no video')
    out = tmp_path / 'new' / 'film.mp4'
    code, _, error = command('--align', tmp_path / 'a.mp4', tmp_path / 'broken.mp4', '--out', out)
    one_line(code, error, 'broken.mp4', 'leave it out or mend it')
    assert not any(out.parent.iterdir())


def test_a_film_that_is_stopped_leaves_nothing_in_the_way(command, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    write_video(tmp_path / 'a.mp4', 3)
    pair = '--align', tmp_path / 'a.mp4', tmp_path / 'a.mp4', '--out', tmp_path / 'new' / 'a.mp4'
    with monkeypatch.context() as patch:
        patch.setattr(film, 'getrgb', interrupt)             # while it is written
        assert command(*pair)[0] == 130
    assert command(*pair)[0] == 0


@pytest.mark.parametrize('arguments, words', [
    ('--align {here}/a.mp4', 'takes two videos or more'),
    ('--align {here}/a.mp4 {here}/absent.mp4', 'absent.mp4: is not there'),
    ('--predict {here}/absent', 'absent: is not there'),
    ('--align {here}/a.mp4 {here}/a.mp4 --out {here}/a.mp4', 'a.mp4: is there already'),
    ('--align {here}/a.mp4 {here}/a.mp4 --out {here}/serve.mp4', 'serve.csv: is there already'),
    ('--align {here}/a.mp4 {here}/a.mp4 --out {here}/film.gif', 'let its name end in .mp4'),
    ('--align {here}/a.mp4 {here}/a.mp4 --out {here}/a.mp4/b.mp4', 'a.mp4'),
    ('--predict {here} --out {here}', 'is there already'),
    ('--predict {here} --json {here}/a.json', '--json goes with the table'),
    ('--out {here}/b.mp4', '--out goes with'),
    ('{here}/two.pt --predict {here}', 'take one checkpoint'),
    ('{here}/two.pt {here}/b/../two.pt', 'is given twice'),
])
def test_what_is_wrong_is_said_before_work_begins(command, tmp_path, monkeypatch, arguments, words):
    def begin(*_, **__):
        pytest.fail('work has begun')

    monkeypatch.setattr(evaluation.command, 'load_models', begin)
    write_video(tmp_path / 'a.mp4', 2)
    (tmp_path / 'serve.csv').write_text('0,1,up')         # the labels of serve.avi, say
    before = {path: path.read_bytes() for path in tmp_path.glob('*.*')}
    code, _, error = command(*arguments.format(here=tmp_path).split())
    one_line(code, error, words)
    assert {path: path.read_bytes() for path in tmp_path.glob('*.*')} == before


# --------------------------------------------------------------------------------------------------
# --predict

def teach(network, videos, action):
    """Embeddings and labels of the labelled frames of one action."""
    chosen = [video for video in videos if video.action == action]
    x = [network.embed(video)[video.labels >= 0] for video in chosen]
    y = [video.labels[video.labels >= 0] for video in chosen]
    return np.concatenate(x), np.concatenate(y)


def test_phases_are_those_of_the_softmax_regression(command, network, labelled_set, tmp_path):
    new = tmp_path / 'wave'    # the action of what lies directly in it
    write_video(new / 'direct.mp4', 11, rate=10)
    write_video(new / 'day 1' / 'jump high' / 'deep.mp4', 13)
    (new / 'broken.mp4').write_bytes(b'no video')
    (new / 'notes.pdf').write_bytes(b'?')
    np.save(new / 'direct.npy', np.zeros(11, int))
    out = tmp_path / 'phases'
    code, printed, error = command('--predict', new, '--out', out)
    assert code == 0, error
    train = data.load('folder', labelled_set, image_size=SIZE)['train']
    files = {'direct.mp4': 'wave', 'day 1/jump high/deep.mp4': 'jump high'}
    for name, action in files.items():
        x, y = teach(network, train, action)
        expected = evaluate.fit_classifier(x, y).predict_proba(network.embed(new / name))
        rows = table_of(f'{out / name}.csv')
        np.testing.assert_array_equal([int(row['phase']) for row in rows], expected.argmax(1))
        probability = [float(row['probability']) for row in rows]
        np.testing.assert_allclose(probability, expected.max(1), atol=2e-3)
        assert (out / f'{name}.png').stat().st_size > 1000
    assert table_of(f'{out}/direct.mp4.csv')[5]['seconds'] == '0.500'
    assert len(list(out.rglob('*.csv'))) == 2
    for part in ('broken.mp4', 'notes.pdf', 'wave: from 3 labelled videos: held out in turn',
                 'by the clock alone'):
        assert part in printed


@pytest.mark.parametrize('labelled', [1, 0])
def test_videos_without_labels_teach_nothing(command, tmp_path, labelled):
    root = tmp_path / 'few'
    folder(root, train=4)
    for path in root.rglob(f'clip [{labelled}-9].*'):
        if path.is_file() and path.suffix != '.mp4':
            path.unlink()
    write_video(tmp_path / 'new' / 'wave' / 'a.mp4', 8)
    code, printed, error = command('--predict', tmp_path / 'new', '--data', root,
                                   '--out', tmp_path / 'out')
    if labelled:
        assert code == 0 and 'wave: from 1 labelled video: too few to tell how sure' in printed
    else:
        one_line(code, error, 'no video of the training set has labels')


def test_an_action_that_is_not_asked_for_stops_nothing(command, tmp_path):
    """'jump high' has one phase alone; then one action alone, which is given to another."""
    root = tmp_path / 'set'
    folder(root, train=4)
    for path in root.rglob('jump high/*.txt'):
        path.write_text('0\n' * len(path.read_text().split()))
    for path in root.rglob('jump high/*.npy'):
        np.save(path, np.zeros_like(np.load(path)))
    write_video(tmp_path / 'new' / 'wave' / 'a.mp4', 8)
    flags = ['--predict', tmp_path / 'new', '--data', root]
    code, printed, error = command(*flags, '--out', tmp_path / 'one')
    assert code == 0 and 'wave: from 4 labelled videos' in printed, error
    for half in 'train', 'val':
        shutil.rmtree(root / half / 'jump high')
    write_video(tmp_path / 'new' / 'dance' / 'b.mp4', 8)
    code, printed, error = command(*flags, '--out', tmp_path / 'two')
    assert code == 0 and 'phases of wave given to videos of other folders (1): dance/b' in printed
    for half in 'train', 'val':    # no folder, no action
        (root / half / 'wave').rename(root / 'these')
        shutil.rmtree(root / half)
        (root / 'these').rename(root / half)
    code, printed, error = command(*flags, '--out', tmp_path / 'three')
    assert code == 0 and 'other folders' not in printed, error


@pytest.mark.parametrize('name, words', [
    (None, 'no video in it'),
    ('dance/a.mp4', 'of which action? put it into a folder of that name: jump high, wave'),
    ('wave/broken.mp4', 'no predict video can be read'),
])
def test_nothing_to_predict(command, tmp_path, name, words):
    new = tmp_path / 'new'
    new.mkdir()
    if name:
        write_video(new / name, 4)
    if name == 'wave/broken.mp4':
        (new / name).write_bytes(b'no video')
    code, _, error = command('--predict', new, '--out', tmp_path / 'out')
    one_line(code, error, words)
