"""Bad input: exit code 2, one line on stderr that names the thing and its remedy, no file touched.

The scripts run in this process, by their own main(), but for one that shows the same from a shell.
Small things that only look bad, and must work, come last. What is wrong with a data set or with
labels has its tests in test_datasets.py, test_folder.py and test_labels.py.
"""
import contextlib
import hashlib
import io
import json
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

import data
import evaluate
from pictures import figures
import loss
import model
import train
from miniatures import phases, write_images, write_video

ROOT = Path(train.__file__).parent
SCRIPTS = {'train.py': train, 'evaluate.py': evaluate, 'data.py': data, 'model.py': model}


# --------------------------------------------------------------------------------------------------
# Running a script

@pytest.fixture(autouse=True)
def as_before(monkeypatch, tmp_path):
    """Restores what main() changes: what signals do, the random numbers. No network and no cached weights."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch home'))
    for name, row in model.backbones().items():
        if str(row.weights).startswith('https:'):         # a port where nobody listens
            monkeypatch.setitem(model.backbones(), name, row._replace(weights=f'https://127.0.0.1:9/{name}.pth'))
    with torch.random.fork_rng(devices=[]):
        yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def run(monkeypatch, capfd):
    """run('train.py', arguments) -> exit code, stdout, stderr; as from a shell, but in this process."""
    def run(script, arguments):
        monkeypatch.setattr(sys, 'argv', [script, *map(str, arguments)])
        capfd.readouterr()
        code = 0
        with warnings.catch_warnings(record=True) as warned:    # from a shell they are lines of stderr
            for category in (UserWarning, RuntimeWarning):
                warnings.simplefilter('default', category)
            try:
                SCRIPTS[script].main()
            except SystemExit as stop:
                code = stop.code or 0
        screen, errors = capfd.readouterr()
        return code, screen, '\n'.join([errors, *(f'warning: {each.message}' for each in warned)])
    return run


def the_line(errors):
    """The one line of an error; argparse may say the usage before it, and torch.hub what it fetches."""
    lines = [line for line in errors.splitlines() if line.strip() and not line.startswith('Downloading: ')]
    if lines and lines[0].startswith('usage: '):
        lines = [line for line in lines[1:] if not line.startswith(' ')]
    assert len(lines) == 1 and 'Traceback' not in errors, errors
    return lines[0]


def contents(folder):
    """Every path below a folder, with a checksum of what is in it."""
    return {path: path.is_file() and hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob('*')}


def untouched(before, folder):
    """Is all that there was in a folder still there, as it was? New files may be."""
    after = contents(folder)
    return all(after.get(path) == content for path, content in before.items())


# --------------------------------------------------------------------------------------------------
# Small data sets

def images(folder, count=4):
    """A video as a folder of images, and its labels beside it."""
    write_images(folder, count, '.png', size=(32, 32))
    folder.with_name(folder.name + '.txt').write_text(' '.join(map(str, phases(count, 2))))


@pytest.fixture(scope='module')
def stage(tmp_path_factory):
    """What many cases read: a good folder of videos, a finished run on it, weights of the tiny backbone."""
    stage = tmp_path_factory.mktemp('stage')
    for number in range(5):
        images(stage / 'videos' / ('train' if number < 3 else 'val') / str(number), count=4 + number % 2)
    settings = train.parse(shlex.split(fill(TRAIN + ' --out {stage}/run', stage=stage)))[1].resolve()
    whole = model.build_model(vars(settings))
    whole.head = loss.projection_head(settings.embedding)
    (stage / 'run').mkdir()
    torch.save(dict(settings=vars(settings), model=whole.trained_state(), optimizer={}, step=1, epoch=0,
                    backbone=model.fingerprint(whole.backbone)), stage / 'run' / 'checkpoint.pt')
    (stage / 'run' / 'log.jsonl').write_text('{"step": 1, "epoch": 0, "loss": 1.0, "lr": 0.0005}\n')
    torch.save(whole.backbone.state_dict(), stage / 'weights.pt')
    before = contents(stage)
    yield stage
    assert untouched(before, stage)                       # by all cases together


def fill(text, **where):
    """Put the folders' names in the place of {here} and {stage}; they may hold spaces."""
    return text.format(**{name: shlex.quote(str(path)) for name, path in where.items()})


GOOD = '--dataset folder --backbone tiny --data {stage}/videos --batch 3 --workers 0 '
TRAIN = GOOD + ('--weights random --epochs 1 --frames 2 --layers 1 --entities 1 --entity-width 8 '
                '--fc-width 8 --embedding 8')
VAL, TRAINING = 'videos/val', 'videos/train'


# what is wrong, in a folder of the case's own: functions of (here, stage)

def both(*makers):
    return lambda here, stage: [make(here, stage) for make in makers]


def file(name, content=b''):
    def make(here, stage):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content)
    return make


def folder(name):
    return lambda here, stage: (here / name).mkdir(parents=True)


def videos(here, stage):
    shutil.copytree(stage / 'videos', here / 'videos')


def each(where, damage):
    """The good videos, with `damage` done to each folder of images in `where`."""
    def make(here, stage):
        videos(here, stage)
        for path in sorted((here / where).iterdir()):
            if path.is_dir():
                damage(path)
    return make


def label(content):
    return each(VAL, lambda video: video.with_name(video.name + '.txt').write_bytes(content))


def as_film(video, content):
    """A video file of these bytes instead of a folder of images."""
    shutil.rmtree(video)
    video.with_suffix('.mp4').write_bytes(content)


def no_frame(path):
    """A video file whose header promises frames of 32 x 32 pixels; none follows."""
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('mpeg4', rate=25)
        stream.width = stream.height = 32
        file.start_encoding()


def film_of_no_frame(video):
    as_film(video, b'')
    no_frame(video.with_suffix('.mp4'))


def halve(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


class Code:
    """Unpickled by a careless reader, it makes the file `harm`."""
    def __init__(self, here):
        self.harm = str(here / 'harm')

    def __reduce__(self):
        return open, (self.harm, 'w')


def saved(name, content):
    """torch.save of content(here, stage)."""
    def make(here, stage):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content(here, stage), here / name)
    return make


def pickled(name, content):
    def make(here, stage):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(pickle.dumps(content(here)))
    return make


def old_format(content):
    """The bytes that torch.save wrote before version 1.6."""
    torch.save(content, written := io.BytesIO(), _use_new_zipfile_serialization=False)
    return written.getvalue()


def weights(**changes):
    """The tiny backbone's weights; None takes one away."""
    def content(here, stage):
        state = torch.load(stage / 'weights.pt')
        state |= {key.replace('__', '.'): value for key, value in changes.items()}
        return {key: value for key, value in state.items() if value is not None}
    return saved('weights.pt', content)


def other_weights(here, stage):
    state = torch.load(stage / 'weights.pt')
    torch.save({key: value + 1 for key, value in state.items()}, here / 'weights.pt')


def checkpoint(change=lambda checkpoint: None, name='run/checkpoint.pt'):
    """The finished run's checkpoint, changed."""
    def content(here, stage):
        checkpoint = torch.load(stage / 'run' / 'checkpoint.pt')
        change(checkpoint)
        return checkpoint
    return saved(name, content)


def cut_short(name, make=checkpoint()):
    return both(make, lambda here, stage: halve(here / name))


def carl(name, content):
    """A data set as CARL lays it out, but for the lists of its videos."""
    return both(file(f'videos/{name}'), pickled('train.pkl', content), pickled('val.pkl', content))


# --------------------------------------------------------------------------------------------------
# The table

CASES = []
RUN = '{stage}/run/checkpoint.pt'
VIDEOS, WEIGHTS = ' --data {here}/videos', ' --weights {here}/weights.pt'


def case(name, script, arguments, thing, remedy, make=lambda here, stage: None, **environment):
    """One bad input: what to run, patterns of the thing that the line must name and of the remedy."""
    CASES.append(pytest.param(script, arguments, thing, remedy, make, environment, id=name.replace(' ', '-')))


def training(name, arguments, *rest, **more):
    case(f'train: {name}', 'train.py', TRAIN + ' --out {here}/run ' + arguments, *rest, **more)


def evaluating(name, arguments, *rest, **more):
    case(f'evaluate: {name}', 'evaluate.py', arguments, *rest, **more)


def doctor(name, arguments, *rest, **more):
    case(f'data: {name}', 'data.py', arguments, *rest, **more)


# flags
training('a flag that is not', '--epoch 3', '--epoch 3', 'unrecognized')
training('no such data set', '--dataset pen', 'pen', "choose from.*penn")
training('a word for a number', '--epochs many', '--epochs.*many', 'int')
training('a flag without value', '--epochs', '--epochs', 'expected one argument')
training('one frame a clip', '--frames 1', '--frames 1', 'at least 2')
training('no batch', '--batch 0', '--batch 0', 'at least 1')
training('a negative learning rate', '--lr -1', '--lr -1', 'at least 0')
training('everything dropped', '--dropout 1.5', '--dropout 1.5', 'at most')
training('a crop larger than the frame', '--crop 2', '--crop 2', 'at most 1')
training('a negative seed', '--seed -1', '--seed -1', 'at least 0')
training('a layer too many', '--layers 1,7', r'layers.*7', '1 to 4')
training('a layer that is a word', '--layers two', 'layers.*two', 'number')
training('a shift that is no number', '--shift nan', '--shift nan', 'at least 0')
training('an odd number of frames in pairs', '--loss tcn --frames 5', '--frames 5.*tcn', 'even')
training('two frames to put three in order', '--loss sal --frames 2', '--frames 2.*sal', 'at least 3')
training('no layer', '--layers ,', '--layers', 'number')
training('an image smaller than a patch', '--image-size 4', '--image-size 4', 'at least 6')
training('no such backbone', '--backbone dino', "'dino'", 'choose from.*dino_vits8')
training('CLS of a ResNet', '--backbone resnet50 --pool cls --layers 1', 'pool cls.*resnet50', 'lstp|avg|max')
training('no such part of the backbone', '--train-backbone layer4', 'layer4', 'blocks')
training('a number for a part', '--train-backbone 4', 'train.backbone.*4', 'blocks')
training('two videos for two views', '--pairs videos', '--pairs videos.*scl', 'tcc and lav')
training('a batch of more than all', '--batch 100', '--batch 100', '3 videos')
training('a batch that processes do not divide', '', '--batch 3.*2 processes', 'multiple of 2',
         WORLD_SIZE='2', MASTER_ADDR='127.0.0.1')
training('one of several processes without torchrun', '--batch 2', 'WORLD_SIZE', 'torchrun', WORLD_SIZE='2')
evaluating('one of several processes without torchrun', RUN, 'WORLD_SIZE', 'torchrun',
           WORLD_SIZE='2')
evaluating('no checkpoint', '', 'CHECKPOINT', 'required')
evaluating('a flag that is not', RUN + ' --figure x', '--figure', 'unrecognized')
evaluating('a negative number of workers', RUN + ' --workers -1', '--workers.*-1', 'at least 0')
case('model: no such backbone', 'model.py', '--backbone dino', "'dino'", 'choose from.*dino_vits8')

# folders and where to write
training('no folder', '--data {here}/nowhere', 'nowhere', '--data')
training('no data', '--dataset penn', 'videos.*lacks.*frames', 'dreamdragon')
training('a file for the data', '--data {here}/file', 'no folder.*file', '--data', file('file', b'mine'))
training('an empty folder', VIDEOS, 'no train video.*videos', 'video files', folder('videos'))
training('train without val', VIDEOS, 'videos has train/', 'val/',
         both(videos, lambda here, stage: shutil.rmtree(here / VAL)))
training('nothing in train', VIDEOS, 'no train video', 'video files',
         both(videos, lambda here, stage: shutil.rmtree(here / TRAINING), folder(TRAINING)))
training('a file where the run should be', '', 'run', '--out', file('run', b'mine'))
training('a run below a file', '--out {here}/file/run', 'file', '--out', file('file', b'mine'))
training('a folder where the checkpoint should be', '', 'checkpoint.pt', '--out|--fresh',
         folder('run/checkpoint.pt'))
training('a folder where the log should be', '', 'log.jsonl', '--out|--fresh|directory',
         folder('run/log.jsonl'))
training('a fresh run of nothing keeps the old one', '--fresh --data {here}/nowhere', 'nowhere', '--data',
         checkpoint())
training('a fresh run without weights keeps the old one', '--fresh --weights {here}/nowhere.pth',
         'nowhere.pth', 'no such file', checkpoint())
evaluating('pictures where a file is', RUN + ' --figures {here}/file', 'file', '--figures|exists',
           file('file', b'mine'))
evaluating('embeddings below a file', RUN + ' --embeddings {here}/file/x', 'file',
           '--embeddings|Not a directory', file('file', b'mine'))
evaluating('numbers where a folder is', RUN + ' --json {here}/folder', 'folder',
           '--json|directory', folder('folder'))
evaluating('data that is gone', RUN + ' --data {here}/nowhere', 'nowhere', '--data')
doctor('which folder', 'folder', '--data', 'required')
doctor('an empty folder', 'folder --data {here}', 'no train video', 'video files')

# weights
training('no such weights', '--weights {here}/nowhere.pth', 'nowhere.pth', 'no such file')
training('empty weights', WEIGHTS, 'weights.pt', 'torch.save', file('weights.pt'))
training('a folder for weights', WEIGHTS, 'weights.pt', 'torch.save|directory', folder('weights.pt'))
training('weights cut short', WEIGHTS, 'weights.pt', 'torch.save', cut_short('weights.pt', weights()))
training('weights in the old format cut short', WEIGHTS, 'weights.pt', 'torch.save',
         file('weights.pt', old_format({'cls_token': torch.zeros(3)})[:49]))
training('weights in a plain pickle', WEIGHTS, 'weights.pt', 'torch.save',
         pickled('weights.pt', lambda here: {'cls_token': np.zeros(3)}))
training('weights with code', WEIGHTS, 'weights.pt', 'torch.save',
         saved('weights.pt', lambda here, stage: {'cls_token': Code(here)}))
training('weights that lack a key', WEIGHTS, 'weights.pt.*missing norm.bias', 'does not fit',
         weights(norm__bias=None))
training('weights with a key too many', WEIGHTS, 'weights.pt.*unknown tail.bias', 'does not fit',
         weights(tail__bias=torch.zeros(3)))
training('weights of another shape', WEIGHTS, r'weights.pt.*norm.bias is \(5,\)', r'not \(\d+,\)',
         weights(norm__bias=torch.zeros(5)))
training('weights with a number among them', WEIGHTS, 'weights.pt', 'state dict',
         saved('weights.pt', lambda here, stage: {'cls_token': 3}))
case('train: no network for the official weights', 'train.py',
     GOOD + '--out {here}/run --backbone dino_vits16', 'dino_vits16.*127.0.0.1', '--weights')
case('train: a ResNet has no official weights', 'train.py', GOOD + '--out {here}/run --backbone resnet50',
     'resnet50', '--weights')

# checkpoints
training('going on from a checkpoint cut short', '', 'run/checkpoint.pt', '--fresh|--out',
         cut_short('run/checkpoint.pt'))
training('going on from a foreign file', '', 'run/checkpoint.pt', '--fresh|--out',
         saved('run/checkpoint.pt', lambda here, stage: {'state': torch.zeros(3)}))
training('going on from code', '', 'run/checkpoint.pt', '--fresh|--out',
         saved('run/checkpoint.pt', lambda here, stage: {'model': Code(here)}))
training('going on from something like a checkpoint', '', 'run/checkpoint.pt', '--fresh|--out',
         checkpoint(lambda it: it.update(settings=3)))
training('going on without what Adam knew', '', 'run/checkpoint.pt', '--fresh|--out',
         checkpoint(lambda it: it.pop('optimizer')))
training('going on with other settings', '--lr 0.25', r'lr was 0.001, now 0.25', '--fresh',
         checkpoint(lambda it: it['settings'].update(out='elsewhere')))
training('going on with another backbone', WEIGHTS, 'run/checkpoint.pt.*another backbone', '--weights',
         both(checkpoint(), other_weights))
training('starting from nothing', '--init {here}/nowhere.pt', 'nowhere.pt', 'no such file')
training('starting from weights alone', '--init {stage}/weights.pt', 'weights.pt', 'checkpoint of train.py')
training('starting from another width', '--init {stage}/run/checkpoint.pt --embedding 16',
         r'run/checkpoint.pt.*\(8, 256\), not \(16, 256\)', 'does not fit')
evaluating('no such checkpoint', '{here}/nowhere.pt', 'nowhere.pt', 'no such file')
evaluating('a folder without a checkpoint', '{stage}/videos', 'videos', 'no such file|checkpoint')
evaluating('a checkpoint cut short', '{here}/run.pt', 'run.pt', 'torch.save',
           cut_short('run.pt', checkpoint(name='run.pt')))
evaluating('a foreign file', '{stage}/weights.pt', 'weights.pt', 'checkpoint of train.py')
evaluating('a checkpoint with code', '{here}/run.pt', 'run.pt', 'torch.save',
           saved('run.pt', lambda here, stage: {'settings': Code(here)}))
evaluating('something like a checkpoint', '{here}/run.pt', 'run.pt', 'checkpoint of train.py',
           checkpoint(lambda it: it.update(settings=3), 'run.pt'))
evaluating('a checkpoint without a setting', '{here}/run.pt', 'run.pt.*pool', 'train again',
           checkpoint(lambda it: it['settings'].pop('pool'), 'run.pt'))
evaluating('a checkpoint without a weight', '{here}/run.pt', 'run.pt.*missing pool.own', 'does not fit',
           checkpoint(lambda it: it['model'].pop('pool.own'), 'run.pt'))
evaluating('a checkpoint with a word for a weight', '{here}/run.pt', 'run.pt',
           'checkpoint of train.py|does not fit',
           checkpoint(lambda it: it['model'].update({'pool.own': 'none'}), 'run.pt'))
evaluating('a checkpoint that diverged', '{here}/run.pt', 'diverged', '--lr',
           checkpoint(lambda it: it['model']['pool.own'].fill_(torch.nan), 'run.pt'))
evaluating('another backbone', RUN + WEIGHTS, 'run/checkpoint.pt.*backbone',
           '--weights', other_weights)
evaluating('two data sets', RUN + ' {here}/run.pt', 'run.pt.*dataset is synthetic', 'one by one',
           checkpoint(lambda it: it['settings'].update(dataset='synthetic', data=None), 'run.pt'))

# videos: where none is left that can be read
training('zero bytes for videos', VIDEOS, r'train/?.*\.mp4|\d.mp4', 'read|decode',
         each(TRAINING, lambda video: as_film(video, b'')))
training('videos of no frame', VIDEOS, r'\d', 'no frame|read', each(TRAINING, film_of_no_frame))
training('images cut short', VIDEOS, r'\d.png', 'cannot be read as an image',
         each(TRAINING, lambda video: [halve(image) for image in video.iterdir()]))
evaluating('no val video that can be read', RUN + VIDEOS, r'\d.png', 'cannot be read as an image',
           each(VAL, lambda video: [image.write_bytes(b'') for image in video.iterdir()]))

# labels that are neither numbers nor names throughout
evaluating('labels that are words', RUN + VIDEOS, r'\d\.txt', 'one integer label', label(b'up up down down'))

# other data sets
doctor('Penn without labels', 'penn --data {here}', 'lacks penn_action_labels/train', 'TCC',
       folder('frames'))
doctor('a pickle with code', 'pouring --data {here}', 'train.pkl', 'refused',
       carl('a.mp4', lambda here: [{'name': Code(here)}]))
doctor('no file that can be read', 'pouring --data {here}', 'none of the 2 videos in HERE', 'CARL',
       carl('a.mp4', lambda here: [dict(name='a', video_file='a.mp4', frame_label=np.zeros(4, int))]))


@pytest.mark.parametrize('script, arguments, thing, remedy, make, environment', CASES)
def test_bad_input(script, arguments, thing, remedy, make, environment, run, stage, tmp_path, monkeypatch):
    here = tmp_path / 'here'
    here.mkdir()
    make(here, stage)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if 'MASTER_ADDR' in environment:                      # as if the others had been met
        monkeypatch.setattr(dist, 'init_process_group', lambda *args, **more: None)
    before = contents(here)
    code, _, errors = run(script, shlex.split(fill(arguments, here=here, stage=stage)))
    assert code == 2, errors
    line = the_line(errors)
    assert line.startswith(f'{script}: error: '), line
    said = line.removeprefix(f'{script}: error: ').replace(f'{here}', 'HERE').replace(f'{stage}', 'STAGE')
    assert re.search(thing, said), f'does not name the thing: {said}'
    assert re.search(remedy, said), f'does not name the remedy: {said}'
    assert untouched(before, here), 'a file was touched'
    assert not (here / 'harm').exists(), 'code from a file was run'


@pytest.mark.parametrize('script, arguments', [('train.py', []), ('evaluate.py', ['nowhere.pt'])])
def test_more_processes_than_gpus(script, arguments, run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in dict(RANK=1, LOCAL_RANK=1, WORLD_SIZE=2, MASTER_ADDR='127.0.0.1').items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    code, _, errors = run(script, arguments)
    assert code == 2 and '--nproc_per_node 1' in the_line(errors)


def test_bad_input_from_a_shell(tmp_path):
    command = [sys.executable, ROOT / 'train.py', '--dataset', 'folder', '--data', 'nowhere']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and 'nowhere' in the_line(done.stderr)
    assert not any(tmp_path.iterdir())


def test_the_cause_in_a_worker_is_one_line(run, stage, tmp_path):
    """What goes wrong in a process that decodes reaches the screen without that process's traceback."""
    each(TRAINING, lambda video: as_film(video, b''))(tmp_path, stage)
    arguments = TRAIN + VIDEOS + ' --workers 1 --out {here}/run'
    code, _, errors = run('train.py', shlex.split(fill(arguments, here=tmp_path, stage=stage)))
    assert code == 2 and '.mp4' in the_line(errors)


@pytest.mark.parametrize('words, make', [
    (r'3 labels for \d frames', label(b'0 0 1')),
    (r'3\.npy: .*allow_pickle',
     each(VAL, lambda video: np.save(f'{video}.npy', np.array([Code(video.parents[2])], object))))])
def test_labels_that_do_not_fit_are_said_once_and_left_out(
        words, make, run, stage, tmp_path, monkeypatch):
    here = tmp_path / 'here'
    here.mkdir()
    make(here, stage)
    arguments = shlex.split(fill(RUN + VIDEOS, here=here, stage=stage))
    with quiet_pictures(monkeypatch):
        code, screen, errors = run('evaluate.py', arguments)
    assert code == 0 and re.search(words, errors) and '2 with labels that do not fit' in errors
    assert errors.count('labels that do not fit') == 1 and 'Traceback' not in errors
    header = next(line for line in screen.splitlines() if 'tau' in line)
    assert 'classification' in header or header.split() == ['tau']
    assert not list(tmp_path.rglob('harm'))


# --------------------------------------------------------------------------------------------------
# Looks bad, and must work

@contextlib.contextmanager
def quiet_pictures(monkeypatch):
    """Pictures have tests of their own; here they would take most of the time."""
    with monkeypatch.context() as patched:
        patched.setattr(figures, 'draw_entities', lambda *args, **more: None)
        yield


@pytest.mark.parametrize('what', ['names', 'link', 'broken'])
def test_odd_input_works(what, run, stage, tmp_path, monkeypatch):
    here = tmp_path / 'Übung mit Leerzeichen, 视频 & "quotes"'
    here.mkdir()
    source, out = here / 'videos', here / 'ein Lauf'
    videos(here, stage)
    if what == 'names':                                   # a one-frame video, upper-case endings
        images(source / 'train' / 'zwölf Äpfel', 1)
        write_video(source / 'train' / 'FILM.MP4', 5)
        Image.new('RGB', (32, 32)).save(source / 'train' / 'one frame.GIF')
        for image in (source / 'train' / '0').iterdir():
            image.rename(image.with_suffix('.PNG'))
        counts = 6, 2
    elif what == 'link':                                  # the folder, a video folder and a split are links
        for name, target in (('val', here / 'the val'), ('train/1', here / 'the first')):
            (source / name).rename(target)
            (source / name).symlink_to(target, target_is_directory=True)
        source.rename(here / 'elsewhere')
        source.symlink_to(here / 'elsewhere', target_is_directory=True)
        counts = 3, 2
    else:                                                 # broken ones among good ones, of every kind
        (source / 'train' / 'empty.mp4').write_bytes(b'')
        images(source / 'train' / 'cut')
        halve(source / 'train' / 'cut' / '000002.png')
        no_frame(source / 'train' / 'no frame.mp4')
        (source / 'val' / '3.txt').write_text('0')
        (source / 'train' / 'notes.md').write_text('not a video')
        counts = 6, 2
    before = contents(here)
    arguments = [*shlex.split(fill(TRAIN, stage=stage)), '--data', source, '--out', out, '--batch', counts[0],
                 '--frames', 4]
    with quiet_pictures(monkeypatch):
        code, screen, errors = run('train.py', arguments)
        assert code == 0 and f'{counts[0]} videos to train on, {counts[1]} to validate' in screen, errors
        assert 'finished' in run('train.py', arguments)[1]
        code, table, errors = run('evaluate.py', [out / 'checkpoint.pt', '--json', out / 'numbers é.json'])
    assert code == 0 and 'untrained model' in table, errors
    assert untouched(before, here)
    numbers = json.loads((out / 'numbers é.json').read_text())
    skipped = (out / 'skipped.txt').read_text() if (out / 'skipped.txt').exists() else ''
    if what == 'broken':
        assert {line.split(':')[0] for line in skipped.splitlines()} >= {'empty.mp4', 'cut', 'no frame.mp4'}
        assert set(numbers['skipped']) == {'empty.mp4', 'cut', 'no frame.mp4'} and 'skipped' in screen
        assert '1 labels for 5 frames' in errors
    else:
        assert not skipped and not numbers['skipped']
