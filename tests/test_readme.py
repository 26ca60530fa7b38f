"""The README does what it says: its snippet, its solutions, its links and its table of files."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from miniatures import write_video

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')
ENVIRONMENT = os.environ | dict(OMP_NUM_THREADS='1')
EXERCISES = README.partition('## Change something')[2]
SOLUTIONS = re.findall(r'^\d\. \*\*(.+?)\*\*.*?```diff\n(.*?)```', EXERCISES, re.S | re.M)

SMALL = ['--entities', '2', '--entity-width', '8', '--fc-width', '16', '--embedding', '8', '--frames', '4',
         '--batch', '2', '--epochs', '1', '--workers', '0']
# solution: what its train.py is called with, besides a small data set and small settings
COMMANDS = {
    'Another readout': ['--readout', 'max'],
    'A new pooler': ['--pool', 'corners'],
    'A new objective': ['--loss', 'nearest'],
    'A new data set': ['--dataset', 'arrays'],
    'A new backbone': ['--backbone', 'pixels', '--weights', 'random', '--image-size', '64'],
}


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```', README, re.S | re.M)


def apply(diff, root):
    """Apply a solution to a copy: `--- file` changes the lines marked -, `+++ file` is a new file.
    Returns how many files it touches and how many lines it adds."""
    files, added = set(), 0
    for change in re.split(r'^(?=(?:---|\+\+\+) )', diff, flags=re.M)[1:]:
        mark, name = change.splitlines()[0].split()
        lines = change.splitlines()[1:]
        old = [line[1:] for line in lines if line.startswith('-')]
        new = [line[1:] for line in lines if line.startswith('+')]
        path = root / name
        files.add(name)
        added += len(new) - len(old)
        if mark == '+++':
            assert not path.exists() and not old
            path.write_text('\n'.join(new) + '\n', encoding='utf-8')
        else:
            text = path.read_text(encoding='utf-8')
            before = '\n'.join(old) + '\n'
            assert text.count(before) == 1, f'{name} has not once: {before}'
            path.write_text(text.replace(before, '\n'.join(new) + '\n'), encoding='utf-8')
    return len(files), added


@pytest.fixture(scope='module')
def changed(tmp_path_factory):
    """A copy of the project with all solutions applied, and two videos as folders and as arrays."""
    root = tmp_path_factory.mktemp('changed')
    for name in ('model.py lstp.py mtf.py loss.py data.py train.py evaluate.py backbones datasets '
                 'objectives evaluation pictures running assets').split():
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, root / name)
    for _, diff in SOLUTIONS:
        apply(diff, root)
    rng = np.random.default_rng(0)
    for split in 'train', 'val':
        (root / 'videos' / split).mkdir(parents=True)
        for number in range(2):
            frames = rng.integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
            np.save(root / 'videos' / split / f'{number}.npy', frames)
    return root


def test_every_solution_has_a_command_and_is_short():
    assert [name for name, _ in SOLUTIONS] == list(COMMANDS)
    for _, diff in SOLUTIONS:
        assert diff.count('\n') < 45


# one process for all: the imports take longer than the steps
TRAIN_ALL = '''
import sys, train
for number, arguments in enumerate({commands}):
    sys.argv = ["train.py", "--data", "videos", "--dataset", "arrays", "--backbone", "tiny", "--weights", "random",
                "--image-size", "24", "--layers", "1", *{small}, *arguments, "--out", f"runs/{{number}}"]
    if "pixels" in arguments:
        sys.argv[sys.argv.index("--layers"):][:2] = []
    train.main()
'''


def test_the_solutions_train(changed):
    """All five in one copy: each command trains an epoch, evaluates and writes its checkpoint."""
    code = TRAIN_ALL.format(commands=list(COMMANDS.values()), small=SMALL)
    done = subprocess.run([sys.executable, '-c', code], cwd=changed, env=ENVIRONMENT, text=True,
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(changed.glob('runs/*/checkpoint.pt'))) == len(COMMANDS)
    assert done.stdout.count('untrained model') == len(COMMANDS)


def test_the_three_lines_give_an_embedding_of_every_frame(changed):
    """After the solutions have trained: any of their runs, by the names that README gives."""
    _, three_lines = blocks('python')
    write_video(changed / 'squat.mp4', 5)
    three_lines = three_lines.replace('runs/folder', 'runs/3')
    code = three_lines + '\nassert z.shape == (5, 8), z.shape'
    done = subprocess.run([sys.executable, '-c', code], cwd=changed, env=ENVIRONMENT, text=True,
                          capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_the_snippet_runs_as_pasted():
    snippet, _ = blocks('python')
    done = subprocess.run([sys.executable, '-c', snippet], cwd=ROOT, env=ENVIRONMENT, text=True,
                          capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ['views', 'patches', 'entities', 'embeddings', 'SCL']
    assert lines[0][1:] == ['2', '2', '16', '3', '60', '60'] and lines[3][1:] == ['4', '16', '128']
    assert 0 < float(lines[4][1]) < 10


@pytest.mark.parametrize('name', ['README.md', 'RESULTS.md'])
def test_links_and_pictures_exist(name):
    text = (ROOT / name).read_text(encoding='utf-8')
    targets = [target for target in re.findall(r'\]\(([^)#]+)', text) if '://' not in target]
    assert all((ROOT / target).exists() for target in targets), targets
    size = sum((ROOT / target).stat().st_size for target in set(targets) if target.endswith(('.webp', '.gif')))
    assert size < 3e6


def test_files_are_as_long_as_the_table_says():
    table = re.findall(r'^\| `([\w/]+\.py)` \| (\d+) \|', README, re.M)
    assert len(table) >= 7
    for name, lines in table:
        real = len((ROOT / name).read_text(encoding='utf-8').splitlines())
        assert abs(real - int(lines)) <= 0.05 * real, (name, real)


def test_flags_named_in_the_readme_exist():
    import evaluate
    import train
    known = set()
    for parse in train.parse, evaluate.parse:
        with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
            said = []
            patch.setattr('argparse.ArgumentParser._print_message', lambda self, message, file=None: said.append(message))
            parse(['--help'])
        known |= set(re.findall(r'--[a-z-]+', said[0]))
    # those of torchrun, data.py, experiments/lesson.py and experiments/experiment.py
    known |= {'--nproc_per_node', '--decode', '--checkpoint', '--seeds'}
    asked = set(re.findall(r'(?<![\w-])--[a-z][a-z_-]+', README))
    assert asked <= known, asked - known
