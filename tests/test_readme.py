"""The README does what it says: its commands, its snippets, its exercises, its links, its table."""
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import train
from evaluation import command
from miniatures import write_video
from running.run import parse_flags

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')
ENVIRONMENT = os.environ | dict(OMP_NUM_THREADS='1')
SMALL = ('--data videos --entities 2 --entity-width 8 --fc-width 16 --embedding 8 --frames 4 '
         '--batch 2 --epochs 1 --workers 0').split()
TINY = '--backbone tiny --weights random --image-size 24 --layers 1'.split()
ARRAYS = ['--dataset', 'arrays']
# a solution, and what its training is called with besides SMALL
EXERCISES = {
    'readout': [*ARRAYS, *TINY, '--readout', 'max'],
    'pooler': [*ARRAYS, *TINY, '--pool', 'corners'],
    'objective': [*ARRAYS, *TINY, '--loss', 'nearest'],
    'dataset': [*ARRAYS, *TINY],
    'backbone': [*ARRAYS, '--backbone', 'pixels', '--weights', 'random', '--image-size', '64'],
}
# one process for all of them: the imports take longer than the steps
TRAIN_ALL = '''
import sys
import train

for name, arguments in {exercises}.items():
    sys.argv = ['train.py', *{small}, *arguments, '--out', f'runs/{{name}}']
    train.main()
'''


def python(code, folder):
    done = subprocess.run([sys.executable, '-c', code], cwd=folder, env=ENVIRONMENT, text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```', README, re.S | re.M)


@pytest.fixture(scope='module')
def changed(tmp_path_factory):
    """A copy of the project with every solution applied, two arrays as videos, all trained."""
    root = tmp_path_factory.mktemp('changed')
    files = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True).stdout
    for name in files.splitlines():
        if name.endswith(('.py', '.pt')) and not name.startswith(('tests/', 'experiments/')):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())
    for name in EXERCISES:
        diff = ROOT / 'tests' / 'exercises' / f'{name}.diff'
        subprocess.run(['git', 'apply', diff], cwd=root, check=True)
    rng = np.random.default_rng(0)
    for split in 'train', 'val':
        (root / 'videos' / split).mkdir(parents=True)
        for number in range(2):
            frames = rng.integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
            np.save(root / 'videos' / split / f'{number}.npy', frames)
    print(python(TRAIN_ALL.format(exercises=EXERCISES, small=SMALL), root))
    return root


@pytest.mark.parametrize('name', EXERCISES)
def test_exercise_trains(changed, name):
    assert f'tests/exercises/{name}.diff' in README
    assert (changed / 'runs' / name / 'checkpoint.pt').exists()


def test_three_lines_give_an_embedding_of_every_frame(changed):
    _, three_lines = blocks('python')
    write_video(changed / 'squat.mp4', 5)
    three_lines = three_lines.replace('runs/folder', 'runs/dataset')
    python(three_lines + '\nassert z.shape == (5, 8), z.shape', changed)


def test_snippet_runs_as_pasted():
    snippet, _ = blocks('python')
    lines = [line.split() for line in python(snippet, ROOT).splitlines()]
    assert [line[0] for line in lines] == ['views', 'patches', 'entities', 'embeddings', 'SCL']
    assert lines[0][1:] == ['2', '2', '16', '3', '60', '60']
    assert lines[3][1:] == ['4', '16', '128']
    assert 0 < float(lines[4][1]) < 10


# all but those of the exercises, which their solutions add
BEFORE, _, _ = README.partition('## Change something')
SHOWN = re.findall(r'\b(train|evaluate)\.py +([^`#|\n]+)', BEFORE)


@pytest.mark.parametrize('script, arguments', dict.fromkeys(SHOWN))
def test_command_is_understood(script, arguments):
    """Every command of train.py and evaluate.py is one that their parsers take."""
    arguments = shlex.split(arguments.replace('...', ''))
    arguments = [word for word in arguments if word != '--help']
    parse = dict(train=partial(parse_flags, train.preset), evaluate=command.parse)[script]
    parse(arguments)


@pytest.mark.parametrize('name', ['README.md', 'RESULTS.md'])
def test_links_and_pictures_exist(name):
    text = (ROOT / name).read_text(encoding='utf-8')
    targets = [target for target in re.findall(r'\]\(([^)#]+)', text) if '://' not in target]
    assert all((ROOT / target).exists() for target in targets), targets


def test_files_are_as_long_as_the_table_says():
    table = re.findall(r'^\| `([\w/]+\.py)` \| (\d+) \|', README, re.M)
    assert len(table) == 7
    for name, lines in table:
        real = len((ROOT / name).read_text(encoding='utf-8').splitlines())
        assert abs(real - int(lines)) <= 0.05 * real, (name, real)
