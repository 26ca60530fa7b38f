"""Every data set in every layout people have: the doctor, one epoch of training, the evaluation, by the real commands."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import data
import evaluate
import train
from miniatures import LAYOUTS

SMALL = ['--weights', 'random', '--backbone', 'tiny', '--layers', '1', '--entities', '2', '--entity-width', '8',
         '--fc-width', '16', '--embedding', '8', '--image-size', '24', '--frames', '4', '--batch', '2', '--epochs', '1',
         '--workers', '0']
ROOT = Path(train.__file__).parent


@pytest.fixture
def run(monkeypatch, capfd):
    """run(script, *arguments) -> what it says, as from a shell but in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(script, *arguments):
        monkeypatch.setattr(sys, 'argv', [script.__name__ + '.py', *map(str, arguments)])
        capfd.readouterr()
        try:
            script.main()
        except SystemExit as stop:
            assert not stop.code, capfd.readouterr()
        return capfd.readouterr().out
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_train_and_evaluate(layout, run, tmp_path):
    LAYOUTS[layout](tmp_path / 'data')
    dataset, out = layout.split(',')[0], tmp_path / 'run'
    where = ['--data', tmp_path / 'data']
    assert run(data, dataset, *where).splitlines()[-1]
    run(train, '--dataset', dataset, *where, '--out', out, *SMALL)
    lines = [json.loads(line) for line in (out / 'log.jsonl').read_text().splitlines()]
    assert all('loss' in line for line in lines[:-1]) and len(lines) >= 2
    table = run(evaluate, out / 'checkpoint.pt', '--json', tmp_path / 'all.json', '--workers', 0)
    measured = {'finegym99': {'classification'}, 'k400': set()}.get(
        dataset, {'classification', 'progression', 'tau', 'ap5'})
    assert measured <= lines[-1].keys() and (dataset == 'k400' or 'clock' in table)
    if measured:                                          # evaluate.py finds what training found at its end
        means = next(iter(json.loads((tmp_path / 'all.json').read_text())['rows'].values()))['mean']
        assert all(means[metric] == pytest.approx(lines[-1][metric], abs=1e-6, nan_ok=True) for metric in measured)


def test_kinetics_then_penn(run, tmp_path):
    """Table 2: pre-train on one data set, go on from all of its weights on another."""
    LAYOUTS['k400'](tmp_path / 'k400')
    LAYOUTS['penn'](tmp_path / 'penn')
    run(train, '--dataset', 'k400', '--data', tmp_path / 'k400', '--out', tmp_path / 'a', *SMALL)
    said = run(train, '--dataset', 'penn', '--data', tmp_path / 'penn', '--out', tmp_path / 'b', *SMALL,
               '--init', tmp_path / 'a' / 'checkpoint.pt')
    assert 'init=' + str(tmp_path / 'a') in said and (tmp_path / 'b' / 'checkpoint.pt').exists()


def test_penn_by_torchrun(tmp_path):
    """Two processes train and evaluate; one table on the screen."""
    LAYOUTS['penn'](tmp_path / 'data')
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
    environment = os.environ | dict(OMP_NUM_THREADS='1')
    for command in (['train.py', '--dataset', 'penn', '--data', tmp_path / 'data', '--out', tmp_path / 'run', *SMALL],
                    ['evaluate.py', tmp_path / 'run' / 'checkpoint.pt', '--workers', '0']):
        done = subprocess.run([*launch, str(ROOT / command[0]), *map(str, command[1:])], env=environment, text=True,
                              capture_output=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count('untrained model') == 1
