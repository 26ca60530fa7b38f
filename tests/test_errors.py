"""Bad input: exit code 2, one line on stderr that names the thing and its remedy, no file touched.

The scripts run in this process, by their own main(); from a shell: test_running.py. Small things
that only look bad, and must work, come last. What is wrong with a data set or with labels has its
tests in test_datasets.py, test_folder.py and test_labels.py; one's own videos have theirs in
test_own_videos.py; weights in test_weights.py.
"""
import hashlib
import json
import multiprocessing
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import data
import evaluate
import loss
import model
import train
from backbones.weights import fingerprint
from made import exit_code
from miniatures import phases, write_images, write_video
from pictures import figures
from running.run import parse_flags

SCRIPTS = {'train.py': train, 'evaluate.py': evaluate, 'data.py': data}
SMALL = ('train.py --dataset folder --backbone tiny --data videos --batch 3 --workers 0 '
         '--weights random --epochs 1 --frames 2 --layers 1 --entities 1 --entity-width 8 '
         '--fc-width 8 --embedding 8 --out new ')


# --------------------------------------------------------------------------------------------------
# Running a script

@pytest.fixture
def run(monkeypatch, capfd):
    """run('data.py penn', ...) -> exit code, stdout, stderr; as from a shell, but in this process.

    'train' stands for train.py and the flags of a small model on the folder videos."""
    def run(command, *more):
        command = command.replace('train ', SMALL, 1) if command.startswith('train ') else command
        script, *arguments = shlex.split(command)
        monkeypatch.setattr(sys, 'argv', [script, *arguments, *map(str, more)])
        capfd.readouterr()
        code = exit_code(SCRIPTS[script].main)
        return code, *capfd.readouterr()
    return run


def the_line(errors):
    """The one line of an error, without the script's name; argparse may say the usage before it."""
    lines = [line for line in errors.splitlines() if line.strip()]
    if lines and lines[0].startswith('usage: '):
        lines = [line for line in lines[1:] if not line.startswith(' ')]
    assert len(lines) == 1, errors
    assert re.match(r'\w+\.py: error: ', lines[0]), errors
    return lines[0].split(': error: ')[1]


def contents(folder):
    """Every file below a folder, with a checksum of what is in it."""
    files = [path for path in folder.rglob('*') if path.is_file()]
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in files}


def untouched(before, folder):
    """Is all that there was in a folder still there, as it was? New files may be."""
    return before.items() <= contents(folder).items()


# --------------------------------------------------------------------------------------------------
# What is wrong: a folder of files and data sets, made once

def video(folder, count=4):
    """A video as a folder of images, and its labels beside it."""
    write_images(folder, count, '.png', size=(32, 32))
    folder.with_name(folder.name + '.txt').write_text(' '.join(map(str, phases(count, 2))))


def halve(path, into=None):
    content = path.read_bytes()
    (into or path).write_bytes(content[:len(content) // 2])


class Code:
    """Unpickled by a careless reader, it makes the file `harm`."""
    def __reduce__(self):
        return open, ('harm', 'w')


def bad_videos():
    Path('file').write_bytes(b'mine')
    shutil.copytree('videos', 'zero bytes')
    for folder in [path for path in Path('zero bytes/train').iterdir() if path.is_dir()]:
        shutil.rmtree(folder)
        folder.with_suffix('.mp4').write_bytes(b'')
    shutil.copytree('videos', 'words')
    for path in Path('words/val').glob('*.txt'):
        path.write_text('up up down down')


def bad_runs(whole, state):
    """whole: the checkpoint of a finished run; state: its backbone's weights."""
    torch.save({key: value + 1 for key, value in state.items()}, 'other.pt')
    settings, weights = whole['settings'], whole['model']
    headless = {key: value for key, value in weights.items() if key != 'pool.own'}
    diverged = weights | {'pool.own': weights['pool.own'] * torch.nan}
    runs = {
        'whole': whole,
        'foreign': {'state': torch.zeros(3)},
        'code': {'settings': settings, 'model': Code()},
        'like': whole | {'settings': 3},
        'no adam': {key: value for key, value in whole.items() if key != 'optimizer'},
        'headless': whole | {'model': headless},
        'diverged': whole | {'model': diverged},
        'synthetic': whole | {'settings': settings | {'dataset': 'synthetic', 'data': None}},
    }
    for name, content in runs.items():
        Path('runs', name).mkdir(parents=True)
        torch.save(content, f'runs/{name}/checkpoint.pt')
    Path('runs/cut').mkdir()
    halve(Path('runs/whole/checkpoint.pt'), Path('runs/cut/checkpoint.pt'))
    Path('runs/checkpoint is a folder/checkpoint.pt').mkdir(parents=True)
    Path('runs/log is a folder/log.jsonl').mkdir(parents=True)


@pytest.fixture(scope='module')
def stage(tmp_path_factory):
    """All that the cases read: good videos, a finished run on them, and what is bad."""
    stage = tmp_path_factory.mktemp('stage')
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(stage)
        for number in range(5):
            split = 'train' if number < 3 else 'val'
            video(Path('videos', split, str(number)), count=4 + number % 2)
        settings = vars(parse_flags(train.preset, shlex.split(SMALL)[1:])[0].resolve())
        whole = model.build_model(settings)
        whole.head = loss.projection_head(8)
        checkpoint = dict(settings=settings, model=whole.trained_state(), optimizer={}, step=1,
                          epoch=0, backbone=fingerprint(whole.backbone))
        Path('run').mkdir()
        torch.save(checkpoint, 'run/checkpoint.pt')
        Path('run/log.jsonl').write_text('{"step": 1, "epoch": 0, "loss": 1.0, "lr": 0.0005}\n')
        torch.save(whole.backbone.state_dict(), 'weights.pt')
        bad_videos()
        bad_runs(checkpoint, whole.backbone.state_dict())
    before = contents(stage)
    yield stage
    assert untouched(before, stage)                       # by all cases together


@pytest.fixture
def here(stage, tmp_path, monkeypatch):
    """A folder of the case's own, in which the stage lies; the working folder."""
    here = tmp_path / 'here'
    here.mkdir()
    for path in stage.iterdir():
        (here / path.name).symlink_to(path)
    monkeypatch.chdir(here)
    return here


# --------------------------------------------------------------------------------------------------
# The table: a command, and the line that it ends with; ... stands for whatever is between

NOT_WHOLE = 'not a whole file of tensors as torch.save ... write them'
ANEW = 'choose another --out, or --fresh'
CASES = [
    # flags
    ('train --epoch 3', 'unrecognized arguments: --epoch 3'),
    ('train --dropout 1.5', '--dropout 1.5: must be at most 0.99'),
    ('train --shift nan', '--shift nan: must be at least 0'),
    ('train --layers 1,7', '--layers 1,7: ... from 1 to 4'),
    ('train --loss tcn --frames 5', '--frames 5: tcn ... even'),
    ('train --backbone resnet50 --pool cls', 'pool cls: resnet50 ... choose from lstp, avg, max'),
    ('train --train-backbone layer4 --versions 0', '--train-backbone layer4: tiny has ... blocks'),
    ('train --train-backbone blocks', '--versions 4: ... give --versions 0'),
    ('train --pairs videos', '--pairs videos: scl ... tcc and lav'),
    ('train --batch 100', '--batch 100: only 3 videos to train on'),
    ('evaluate.py run --workers -1', '--workers -1: must be at least 0'),
    ('data.py folder', 'the following arguments are required: --data'),

    # folders and where to write
    ('train --dataset penn', 'penn: videos lacks frames... dreamdragon'),
    ('train --dataset synthetic', 'synthetic is made in memory; ... --dataset folder'),
    ('train.py --dataset folder', 'folder: --data is missing'),
    ('train --out file', "File exists: 'file'"),
    ('train --out "runs/checkpoint is a folder"', f'checkpoint.pt: ... {ANEW}'),
    ('train --out "runs/log is a folder"', 'log.jsonl'),
    ('evaluate.py run --figures videos', 'videos: is there already; move it away'),
    ('evaluate.py run --json weights.pt', 'weights.pt: is there already; move it away'),

    # weights
    ('train --out runs/whole --fresh --weights none.pth', 'none.pth: no such file'),

    # checkpoints
    ('train --out runs/cut', f'runs/cut/checkpoint.pt: {NOT_WHOLE} ... {ANEW}'),
    ('train --out runs/foreign', f'checkpoint.pt: ... no checkpoint of train.py; {ANEW}'),
    ('train --out "runs/no adam"', f'checkpoint.pt: lacks what Adam knew; {ANEW}'),
    ('train --out runs/whole --lr 0.25', '(lr was 0.001, now 0.25); ... --fresh'),
    ('train --out runs/whole --weights other.pt', 'another backbone ... give --weights'),
    ('train --init weights.pt', 'weights.pt: ... no checkpoint of train.py'),
    ('train --init run/checkpoint.pt --embedding 16', 'does not fit: ... mtf.out.weight'),
    ('evaluate.py videos', 'videos/checkpoint.pt: no such file'),
    ('evaluate.py runs/code', f'checkpoint.pt: {NOT_WHOLE}'),
    ('evaluate.py runs/like', 'checkpoint.pt: ... no checkpoint of train.py'),
    ('evaluate.py runs/headless', 'checkpoint.pt does not fit: ... "pool.own"'),
    ('evaluate.py runs/diverged', 'this model has diverged; train again with a lower --lr'),
    ('evaluate.py run --weights other.pt', 'another backbone ... give --weights'),
    ('evaluate.py run runs/synthetic', 'synthetic/checkpoint.pt: dataset is synthetic, of the '
                                       'first checkpoint folder; evaluate them one by one'),

    # videos and labels: where none is left that can be read
    ('train --data "zero bytes" --workers 1',
     '100 videos in a row cannot be read; the last: ... .mp4: cannot be read as a video'),
    ('evaluate.py run --data words', '.txt has class names, ... classes.txt'),
]


def says(pattern, line):
    return re.search('.*'.join(re.escape(part.strip()) for part in pattern.split('...')), line)


@pytest.mark.parametrize('command, line', CASES)
def test_bad_input(command, line, run, here):
    code, _, errors = run(command)
    assert code == 2, errors
    assert says(line, the_line(errors)), errors
    assert 'Traceback' not in errors
    assert not (here / 'harm').exists(), 'code from a file was run'
    assert not multiprocessing.active_children(), 'a worker was left behind'


@pytest.mark.parametrize('environment, command, line', [
    ({}, 'train --batch 2', 'WORLD_SIZE is 2, ... start by torchrun'),
    ({'MASTER_ADDR': '127.0.0.1'}, 'train ', '--batch 3: 2 processes ... a multiple of 2'),
])
def test_bad_numbers_of_processes(environment, command, line, run, here, monkeypatch):
    for name, value in {'WORLD_SIZE': '2', **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, 'init_process_group', lambda *_, **__: None)    # as if they had met
    code, _, errors = run(command)
    assert code == 2
    assert says(line, the_line(errors))


# --------------------------------------------------------------------------------------------------
# Looks bad, and must work

def test_odd_names_links_and_broken_videos(run, tmp_path, here, monkeypatch):
    """Trained on twice, and evaluated: a video of one frame, endings in capitals; a video and a
    split are links, and so is all. What is broken is skipped and named."""
    monkeypatch.setattr(figures, 'draw_entities', lambda *_, **__: None)    # slow; test_figures.py
    top = tmp_path / 'Übung mit Leerzeichen, 视频 & "quotes"'
    source = top / 'videos'
    shutil.copytree('videos', top / 'elsewhere')
    source.symlink_to(top / 'elsewhere', target_is_directory=True)
    video(source / 'train' / 'zwölf Äpfel', 1)
    write_video(source / 'train' / 'FILM.MP4', 5)
    (source / 'train' / 'empty.mp4').write_bytes(b'')
    video(source / 'train' / 'cut')
    halve(source / 'train' / 'cut' / '000002.png')
    (source / 'train' / 'notes.md').write_text('not a video')
    (source / 'val' / '3.txt').write_text('0')
    for name in ('val', 'train/1'):
        target = top / f'the {name[-3:]}'.replace('/', ' ')
        (source / name).rename(target)
        (source / name).symlink_to(target, target_is_directory=True)
    before = contents(top)

    out = top / 'ein Lauf'
    command = 'train --frames 4 --data', source, '--out', out, '--batch', 7
    code, screen, errors = run(*command)
    assert code == 0, errors
    assert '7 videos to train on, 2 to validate' in screen
    assert 'skipped' in screen and '1 labels for 5 frames' in screen + errors
    skipped = (out / 'skipped.txt').read_text().splitlines()
    assert {line.split(':')[0] for line in skipped} == {'empty.mp4', 'cut'}
    after = contents(out)
    assert 'finished' in run(*command)[1]
    assert untouched(after, out)

    code, table, errors = run('evaluate.py', out, '--json', out / 'numbers é.json')
    assert code == 0, errors
    assert 'untrained model' in table
    cut, empty = json.loads((out / 'numbers é.json').read_text())['skipped']
    assert 'train/cut' in cut and 'train/empty.mp4' in empty
    assert untouched(before, top)
