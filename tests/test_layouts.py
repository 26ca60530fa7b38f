"""Data sets by the real commands: doctor, an epoch, evaluation."""
import json
import sys

import pytest

import data
import evaluate
import train
from miniatures import write_layout

SMALL = (
    '--weights random --backbone tiny --layers 1 --entities 2 --entity-width 8 --fc-width 16 '
    '--embedding 8 --image-size 24 --frames 4 --batch 2 --epochs 1 --workers 0'
).split()
PHASES = ['classification', 'progression', 'tau', 'ap5']


@pytest.fixture
def run(monkeypatch, capfd):
    """run(script, *arguments) -> what it says, as from a shell but in this process."""
    def run(script, *arguments):
        monkeypatch.setattr(sys, 'argv', [script.__name__, *map(str, arguments)])
        script.main()
        return capfd.readouterr().out
    return run


@pytest.mark.parametrize('dataset, metrics', [
    ('penn', PHASES), ('finegym99', ['classification']), ('folder', PHASES)])
def test_train_and_evaluate(dataset, metrics, run, tmp_path):
    write_layout(dataset, tmp_path / 'data')
    out = tmp_path / 'run'
    where = ['--data', tmp_path / 'data']
    assert dataset in run(data, dataset, *where)
    # without versions: their features, in 16 bits, are not those of evaluate.py to 1e-6
    run(train, '--dataset', dataset, *where, '--out', out, *SMALL, '--versions', 0)
    *steps, end = [json.loads(line) for line in (out / 'log.jsonl').read_text().splitlines()]
    assert steps and all('loss' in step for step in steps)
    numbers = tmp_path / 'all.json'
    assert 'clock' in run(evaluate, out / 'checkpoint.pt', '--json', numbers, '--workers', 0)
    rows = json.loads(numbers.read_text())['rows']
    means = next(iter(rows.values()))['mean']
    for metric in metrics:    # as training found at its end
        assert means[metric] == pytest.approx(end[metric], abs=1e-6, nan_ok=True)


def test_kinetics_then_penn(run, tmp_path):
    """Table 2: pre-train on one data set, without labels; go on from all of its weights."""
    first = tmp_path / 'a'
    second = tmp_path / 'b'
    write_layout('k400', tmp_path / 'k400')
    write_layout('penn', tmp_path / 'penn')
    run(train, '--dataset', 'k400', '--data', tmp_path / 'k400', '--out', first, *SMALL)
    said = run(train, '--dataset', 'penn', '--data', tmp_path / 'penn', '--out', second, *SMALL,
               '--init', first / 'checkpoint.pt')
    assert f'init={first}' in said and (second / 'checkpoint.pt').exists()
