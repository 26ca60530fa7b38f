"""The command: what it prints, draws and writes. What is wrong with it: test_errors.py."""
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import evaluate
import model as models
from pictures import figures
from evaluation import command
from mtf import MTF
from noise import SETTINGS, Film, films, write_checkpoint

HERE = Path(__file__).parent
torch.set_num_threads(1)                                  # the frames are tiny


@pytest.fixture
def checkpoint(network, tmp_path, monkeypatch):
    """A checkpoint and its log; its data set is one of noise."""
    monkeypatch.setattr(data, 'load', lambda *args, **options: films())
    path = write_checkpoint(tmp_path / 'run' / 'checkpoint.pt', network)
    log = [dict(step=i, loss=1 / i, lr=0.1) for i in range(1, 60)]
    log.append(dict(step=59, tau=0.9, classification=0.5))
    path.with_name('log.jsonl').write_text('\n'.join(map(json.dumps, log)))
    return path


# ------------------------------------------------------------------------------------------------
# What it makes

def test_the_command(checkpoint, tmp_path, capsys):
    file = tmp_path / 'new' / 'a.json'
    pictures = tmp_path / 'pictures'
    arrays = tmp_path / 'arrays'
    evaluate.main([str(checkpoint), '--json', str(file), '--figures', str(pictures),
                   '--embeddings', str(arrays), '--focus'])
    out = capsys.readouterr().out
    left_out = 'left out, cannot be read (1): e: does not decode'
    for text in ('clock', 'untrained', 'CLS head', left_out):
        assert text in out
    drawn = sorted(path.stem for path in pictures.glob('*.png'))
    assert drawn == ['alignment', 'clock', 'entities', 'training']
    assert len(list((arrays / 'val').glob('*.npy'))) == 3
    assert not checkpoint.with_name('entities.png').exists()

    numbers = json.loads(file.read_text())
    means = numbers['rows'][str(checkpoint)]['mean']
    assert means['tau'] == numbers['spread']['mean']['mean']['tau'][0]
    assert out.count('bove every control') == 1
    assert numbers['skipped']
    assert numbers['settings']['entities'] == 2


def test_checkpoints_that_differ_in_the_seed_are_one_row(checkpoint, network, tmp_path, capsys):
    """Others are rows side by side, each with what sets it apart."""
    seed = write_checkpoint(tmp_path / 'seed.pt', network, seed=7, out='elsewhere')
    merged = write_checkpoint(tmp_path / 'merged.pt', network, merge=2)
    evaluate.main([str(checkpoint), str(seed)])
    assert '2 checkpoints: mean ± 2 standard deviations' in capsys.readouterr().out
    evaluate.main([str(checkpoint), str(seed), str(merged)])
    lines = capsys.readouterr().out.splitlines()
    assert '(untrained and frozen: as the first is built, merge 1)' in lines
    row, = [line for line in lines if line.startswith('merge 1  ')]
    other, = [line for line in lines if line.startswith('merge 2  ')]
    assert row.count('± 0.0000') == 4 and '±' not in other
    assert sum('bove every control' in line for line in lines) == 2
    tuned = [write_checkpoint(tmp_path / f'{seed}.pt', network, seed=seed, init=f'k400_{seed}.pt')
             for seed in (0, 1)]
    evaluate.main([str(path) for path in (checkpoint, *tuned)])
    lines = capsys.readouterr().out.splitlines()
    spreads = [line.count('±') for line in lines if line.startswith(('init None ', 'init given '))]
    assert spreads == [0, 4]


def test_main_in_a_notebook(checkpoint, monkeypatch):
    """What stands in the place of sys.stdout there cannot be reconfigured either."""
    screen = io.StringIO()
    monkeypatch.setattr(sys, 'stdout', screen)
    evaluate.main([str(checkpoint)])
    assert 'untrained model' in screen.getvalue()


def test_pictures_without_entities_or_labels(tmp_path):
    settings = SETTINGS | {'pool': 'avg'}
    plain = models.build_model(settings)
    result = evaluate.assess({'a': plain}, {'train': [], 'val': [Film('a', 3)]}, settings)
    figures.draw_all(plain, result, 'a', tmp_path, tmp_path / 'log.jsonl')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['entities.mp4', 'entities.png']


def test_labels_and_folder_are_those_of_training_but_of_another_data_set(
        checkpoint, network, monkeypatch):
    """And nothing is drawn or written without being asked."""
    write_checkpoint(checkpoint, network, label_unit='frames', data='there')
    before = sorted(checkpoint.parent.iterdir())
    asked = []

    def load(_, folder, **options):
        asked.append((folder, options['label_unit']))
        return films()

    monkeypatch.setattr(data, 'load', load)
    for arguments in [], ['--label-unit', 'seconds'], ['--dataset', 'folder', '--data', 'here']:
        evaluate.main([str(checkpoint.parent), *arguments])    # the folder of a run will do
    assert sorted(checkpoint.parent.iterdir()) == before
    assert asked == [('there', 'frames'), ('there', 'seconds'), ('here', None)]


def test_val_that_was_trained_on_is_said(checkpoint, capsys):
    """A folder without train/ and val/ that has changed since training is split otherwise."""
    torch.save(torch.load(checkpoint) | {'videos': ['a', 'g', 'x']}, checkpoint)
    evaluate.main([str(checkpoint)])
    line = 'val, but one of this name was trained on: if it is the same, trust no score (1): g'
    assert f'note: {line}\n' in capsys.readouterr().out


def test_a_released_checkpoint(checkpoint, monkeypatch, capsys):
    """Those of the authors name no data set and no workers; the backbone is among the weights; no
    sequence is longer than their limit."""
    own = models.build_model(SETTINGS)
    own.backbone.norm.bias.data += 1
    settings = {name: value for name, value in SETTINGS.items() if name != 'workers'}
    settings |= dict(dataset=None, limit=7)
    content = dict(settings=settings, model=own.state_dict(), backbone=None)
    load = command.load_checkpoint
    monkeypatch.setattr(command, 'load_checkpoint',
                        lambda path: content if path == 'released.pt' else load(path))
    with pytest.raises(SystemExit):
        evaluate.main(['released.pt'])
    assert 'released.pt: says no data set' in capsys.readouterr().err
    paths = [checkpoint, 'released.pt', checkpoint.parent]
    networks, settings = command.load_models(paths, torch.device('cpu'), dataset='folder')
    ours, theirs, again = [network.backbone for network in networks.values()]
    assert torch.equal(theirs.norm.bias, own.backbone.norm.bias)
    assert not torch.equal(theirs.norm.bias, ours.norm.bias) and again is ours
    lengths = []
    forward = MTF.forward

    def noted(self, entities, *options):
        lengths.append(entities.shape[1])
        return forward(self, entities, *options)

    monkeypatch.setattr(MTF, 'forward', noted)
    released = settings['released.pt'] | {'workers': 0}
    evaluate.assess({'released': networks['released.pt']}, films(), released, controls=False)
    assert len(lengths) == 6 and max(lengths) == 7


# ------------------------------------------------------------------------------------------------
# Optional output never costs a result

def fail(*_, **__):
    raise ValueError('two\nlines')


def full_disk(*_):
    raise OSError(28, 'No space left on device')


def test_metrics_are_logged_before_a_picture_that_fails(network, tmp_path, monkeypatch, capsys):
    logged = []
    monkeypatch.setattr(figures, 'draw_entities', lambda *_: fail(logged.append('drawn')))
    scores = evaluate.evaluate(network, films(), SETTINGS, picture=tmp_path / 'a.png',
                               log=lambda **means: logged.append(means))
    assert logged == [scores, 'drawn'] and scores['tau'] > 0
    assert f'note: no {tmp_path / "a.png"}: two lines (ValueError)' in capsys.readouterr().out


def test_pictures_tables_and_files_that_fail_are_notes(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, 'draw_all', fail)
    monkeypatch.setattr(command, 'write_json', fail)
    monkeypatch.setattr(np, 'save', full_disk)
    evaluate.main([str(checkpoint), '--json', str(tmp_path / 'a'), '--figures',
                   str(tmp_path / 'b'), '--embeddings', str(tmp_path / 'c')])
    out = capsys.readouterr().out
    assert 'untrained model' in out
    assert out.count(': two lines (ValueError)') == 2
    assert out.count('note: no embeddings from here on: [Errno 28] No space left on device') == 1


AS_A_SCRIPT = '''
import runpy, sys
root, here = sys.argv[1:3]
sys.path[:0] = root, here
import data, evaluate, noise
assert not {"sklearn", "scipy", "matplotlib"} & set(sys.modules), "evaluate starts slowly"
data.load = lambda *a, **k: noise.films()
sys.argv[1:3] = []
runpy.run_path(root + "/evaluate.py", run_name="__main__")
'''


def test_a_notebooks_backend_and_a_screen_without_letters(checkpoint, tmp_path):
    """A notebook exports MPLBACKEND for its own matplotlib, which is not here; the screen knows
    ASCII alone."""
    other = checkpoint.with_name('other.pt')
    other.write_bytes(checkpoint.read_bytes())
    line = [sys.executable, '-c', AS_A_SCRIPT, HERE.parent, HERE, checkpoint, other,
            '--figures', tmp_path / 'pictures']
    environment = os.environ | dict(MPLBACKEND='module://matplotlib_inline.backend_inline',
                                    PYTHONIOENCODING='ascii')
    ran = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0 and 'Traceback' not in ran.stderr, ran.stderr
    assert '2 checkpoints: mean \\xb1 2 standard deviations' in ran.stdout


@pytest.mark.parametrize('changes, expected', [
    ({}, torch.bfloat16), (dict(train_backbone=['patch_embed']), torch.float32)])
def test_frozen_backbones_are_halved_on_a_gpu(tmp_path, monkeypatch, changes, expected):
    """All of several; one that was fine-tuned stays as it is."""
    network = models.build_model(SETTINGS | changes)
    paths = [write_checkpoint(tmp_path / name, network, **changes) for name in 'ab']
    monkeypatch.setattr(command, 'half_dtype', lambda device: torch.bfloat16)
    networks, _ = command.load_models(paths, torch.device('cpu'))
    for loaded in networks.values():
        assert {weight.dtype for weight in loaded.backbone.parameters()} == {expected}
        assert {weight.dtype for weight in loaded.mtf.parameters()} == {torch.float32}
