"""Training: its schedule, order and checkpoints; that no interruption or process changes it."""
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import data
import evaluate
import loss
import miniatures
import model as models
import train
from backbones.build import build_backbone
from lstp import POOLERS
from made import exit_code, grey
from pictures import figures
from running.errors import UserError
from running.record import save_checkpoint
from running.run import (make_clips, make_model, parse_flags, say_if_far_apart,
                         without_target)

ROOT = Path(train.__file__).parent
TINY = ('--dataset folder --backbone tiny --weights random --layers 1 --image-size 24 --frames 4 '
        '--batch 4 --fc-width 32 --depth 1 --embedding 4 --workers 0 --versions 0 '
        '--device cpu').split()


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """A small data set, as flags."""
    folder = tmp_path_factory.mktemp('videos')
    miniatures.folder(folder, train=4, val=2, frames=3)              # 8 and 4; some are padded
    return [*TINY, '--data', folder]


@pytest.fixture
def run(monkeypatch, capsys):
    """run(*flags) -> exit code, stdout, stderr of train.py, in this process, without pictures; with
    one thread, as those of `start`, for sums of several round differently."""
    monkeypatch.setattr(figures, 'draw_entities', lambda *_: None)

    def run(*flags):
        monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, flags)])
        code = exit_code(train.main)
        return code, *capsys.readouterr()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def no_evaluation(monkeypatch):
    monkeypatch.setattr(evaluate, 'evaluate', lambda *_, **__: {})


def start(*flags, processes=0):
    """train.py as a process of its own, or several by torchrun."""
    launcher = []
    if processes:
        launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', processes]
    command = [sys.executable, *launcher, ROOT / 'train.py', *flags]
    return subprocess.Popen([*map(str, command)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=os.environ | dict(OMP_NUM_THREADS='1'))


# ----------------------------------------------------------------------------------------------
# Settings

PAPER = {
    'penn': dict(layers=[4, 8, 12], entities=3, readout='cls', frames=80, epochs=500, batch=4,
                 lr=1e-4, weight_decay=1e-5),
    'pouring': dict(layers=[12], frames=240, epochs=1000),
    'finegym288': dict(layers=[10, 11, 12], entities=6, readout='avg', frames=240, fc_width=1536,
                       embedding=256, epochs=300, batch=8, block='clip'),
    'k400': dict(layers=[4, 8, 12], epochs=10, batch=8),
}


def test_presets_are_the_papers():
    for dataset, values in PAPER.items():
        settings = train.preset(dataset).resolve()
        for name, value in values.items():
            assert getattr(settings, name) == value, (dataset, name)
        assert settings.versions == settings.longest == 0, dataset


def settings_of(flags):
    settings, _ = parse_flags(train.preset, flags.split())
    return settings.resolve()


def test_a_preset_may_be_overruled_by_flags_and_layers_follow_the_backbone():
    settings = settings_of('--dataset penn --backbone tiny --lr 0.1')
    assert settings.layers == [1, 2, 4]
    assert settings.lr == 0.1
    assert settings.image_size == 60
    assert settings_of('--dataset penn --pool max').layers == [12]
    assert settings_of('--dataset penn --layers 3,1').layers == [3, 1]


def test_the_folders_pixels_fit_every_backbone():
    """Small pictures, for a laptop; never more pixels than the backbone usually has."""
    own = settings_of('--dataset folder')
    assert (own.backbone, own.image_size, own.layers) == ('dinov2_vits14', 112, [4, 8, 12])
    for name, row in models.backbones().items():
        size = settings_of(f'--dataset folder --backbone {name}').image_size
        assert size % row.multiple_of == 0 and row.patch_size <= size <= 112, name
    assert settings_of('--dataset folder --image-size 224').image_size == 224


def test_learning_rate_is_the_cosine():
    settings = train.Settings(epochs=9, lr=2.)
    for epoch in (0, 5, 9):
        expected = 2 * math.cos(math.pi * epoch / 20) ** 2            # (1 + cos 2x) / 2 = cos^2 x
        assert train.learning_rate(settings, epoch) == pytest.approx(expected)


@pytest.mark.parametrize('world', [1, 2])
def test_batches_are_permutations_split_over_processes(world):
    settings = train.Settings(epochs=3, batch=4, seed=7)
    ranks = [list(train.batches(11, settings, 0, rank, world)) for rank in range(world)]
    together = [sum(parts, []) for parts in zip(*ranks)]
    assert together == list(train.batches(11, settings, 0, 0, 1))
    assert len(together) == 3 * 2
    for epoch in range(3):
        drawn = sum(together[2 * epoch:2 * epoch + 2], [])
        epochs, videos = zip(*drawn)
        assert set(epochs) == {epoch}
        assert len(set(videos)) == 8
    for first in range(7):
        assert list(train.batches(11, settings, first, 0, 1)) == together[first:]


def test_a_checkpoint_is_replaced_only_by_a_whole_one(tmp_path, monkeypatch):
    path = tmp_path / 'checkpoint.pt'
    save_checkpoint(path, dict(step=1))
    whole = path.read_bytes()

    def full(file):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left.*intact'):
        save_checkpoint(path, dict(step=2))
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


# ----------------------------------------------------------------------------------------------
# Processes

# every objective and pooler, and what else decides which weights take part
KINDS = [dict(loss=name) for name in loss.OBJECTIVES] + [dict(pool=name) for name in POOLERS]
KINDS += [dict(disjoint=True), dict(readout='avg'), dict(train_backbone=['patch_embed'])]


@pytest.mark.parametrize('changes', KINDS, ids=str)
def test_every_trained_weight_has_a_gradient(changes):
    """Else several processes end at their second step: DistributedDataParallel waits for it."""
    s = train.Settings(backbone='tiny', weights='random', layers=[1], frames=6, entity_width=16,
                       fc_width=16, embedding=16, image_size=24, depth=1)
    for name, value in changes.items():
        setattr(s, name, value)
    objective = loss.OBJECTIVES[s.loss]
    model = make_model(s.resolve(), objective, 3, None)
    clips = torch.randn(2, 6, 3, 24, 24)                              # two views of one video
    valid = torch.ones(1, 2, 6, dtype=torch.bool)
    time = torch.arange(6).expand(1, 2, 6)
    options = {}
    if objective.labels:
        options['labels'] = time // 2
    if objective.head and not objective.loss_on_head_output:
        options['classifier'] = model.head
    if objective.teacher:
        options |= objective.teacher(model)(clips, valid[0])
    z = model(clips, valid[0], unit_length=objective.unit_length,
              project=objective.loss_on_head_output)
    value = objective.loss(z[None], time, torch.full((1, 2), 6), valid, **options)
    value.backward()
    assert value.shape == ()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None and weight.grad.isfinite().all(), name


def test_two_processes_train_as_one(tmp_path, videos, run):
    """Loss and gradients of every step: BatchNorm has the statistics of all processes, on the CPU
    too. Rank 0 alone writes. Each embeds a part for the metrics, which one process finds as well.
    """
    flags = [*videos, '--epochs', 2, '--dropout', 0, '--lr', 1e-4]
    two = start('--out', tmp_path / 'two', *flags, processes=2)
    assert run('--out', tmp_path / 'one', *flags)[0] == 0
    screen, errors = two.communicate(timeout=200)
    assert two.returncode == 0, errors
    assert '2 x cpu' in screen
    assert screen.count('videos to train on') == screen.count('untrained model') == 1
    assert (tmp_path / 'two' / 'entities.png').exists()
    *steps, metrics = without_time(tmp_path / 'two' / 'log.jsonl')
    *expected, _ = without_time(tmp_path / 'one' / 'log.jsonl')
    assert len(steps) == 4
    for ours, theirs in zip(steps, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)              # as torchrun: sums in another order round differently
    evaluate.main([str(tmp_path / 'two'), '--device', 'cpu', '--json', str(tmp_path / 'it.json')])
    torch.set_num_threads(threads)
    rows = json.loads((tmp_path / 'it.json').read_text())['rows']
    means = next(iter(rows.values()))['mean']
    for metric in 'classification', 'progression', 'tau', 'ap5':
        assert means[metric] == pytest.approx(metrics[metric], abs=1e-4)


def without_time(log):
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    for entry in entries:
        entry.pop('seconds', None)
        entry.pop('frames_per_second', None)
    return entries


# ----------------------------------------------------------------------------------------------
# Interruption

def test_a_run_that_was_stopped_ends_as_one_never_stopped(tmp_path, videos, run, monkeypatch):
    """Killed once and ended by SIGTERM once: bit-identical weights and log; also with another
    number of workers. distill has a teacher to be kept."""
    flags = [*videos, '--batch', 2, '--epochs', 4, '--save-every', 0, '--loss', 'distill']
    whole = tmp_path / 'whole'
    stopped = tmp_path / 'stopped'
    assert run('--out', whole, *flags)[0] == 0
    first = kill_after(3, stopped, *flags)
    with monkeypatch.context() as patch:
        patch.setattr(train, 'seed_step', terminate_at(first + 2))
        code, _, errors = run('--out', stopped, *flags)
    assert code == 128 + signal.SIGTERM and 'the same command goes on' in errors
    second = torch.load(stopped / 'checkpoint.pt')['step']
    assert run('--out', stopped, *flags, '--workers', 1)[0] == 0
    a = torch.load(whole / 'checkpoint.pt')
    b = torch.load(stopped / 'checkpoint.pt')
    assert 0 < first < second < a['step'] == b['step']
    assert_same(a['model'], b['model'])
    assert 'centre' in a['teacher']
    assert not torch.equal(a['teacher']['model.pool.shared'], a['model']['pool.shared'])
    assert_same(a['teacher'], b['teacher'])
    assert without_time(whole / 'log.jsonl') == without_time(stopped / 'log.jsonl')


def test_a_backbone_fine_tuned_before_is_fine_tuned_again(tmp_path, videos, run):
    """What is not trained, a checkpoint knows by its fingerprint alone."""
    flags = [*videos, '--epochs', 1]
    trained = ['--train-backbone', 'pos_embed,patch_embed']
    assert run('--out', tmp_path / 'a', *flags, *trained)[0] == 0
    init = ['--init', tmp_path / 'a' / 'checkpoint.pt']
    for less in [], ['--train-backbone', 'pos_embed']:
        code, _, errors = run('--out', tmp_path / 'b', *flags, *init, *less)
        assert code == 2 and 'add --train-backbone pos_embed,patch_embed' in errors
    assert run('--out', tmp_path / 'b', *flags, *init, *trained)[0] == 0
    assert models.load_model(tmp_path / 'b')
    content = torch.load(tmp_path / 'b' / 'checkpoint.pt')
    torch.save(build_backbone('tiny').state_dict(), tmp_path / 'other.pt')    # it was random
    content['settings']['weights'] = str(tmp_path / 'other.pt')
    torch.save(content, tmp_path / 'c.pt')
    with pytest.raises(UserError, match='another backbone'):
        models.load_model(tmp_path / 'c.pt')


def test_a_save_by_the_clock_is_no_meeting(tmp_path, videos, run, monkeypatch):
    """Every process has its own clock. To report what is pending, as on a GPU the values of ten
    steps, all must come together: a process that saves a step before the others would wait."""
    reported = []

    class Log(train.Log):
        def __init__(self, *given, **options):
            super().__init__(*given, **options | dict(every=3))

        def report(self):
            reported.append(len(self.pending))
            super().report()

    monkeypatch.setattr(train, 'Log', Log)
    flags = ['--batch', 2, '--epochs', 2, '--save-every', 0]    # four steps an epoch
    assert run('--out', tmp_path, *videos, *flags)[0] == 0
    assert [steps for steps in reported if steps] == [3, 1, 3, 1]


def kill_after(lines, out, *flags):
    """Kill a run once its log has so many lines -> the step that it has saved."""
    log = out / 'log.jsonl'
    process = start('--out', out, *flags)
    deadline = time.time() + 90
    while not (log.exists() and log.read_text().count('\n') >= lines) and time.time() < deadline:
        time.sleep(0.01)
    process.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    return torch.load(out / 'checkpoint.pt')['step']


def terminate_at(last):
    """seed_step, which sends SIGTERM within step `last`."""
    seed_step = train.seed_step

    def terminate(seed, step, rank):
        if step == last:
            os.kill(os.getpid(), signal.SIGTERM)
        seed_step(seed, step, rank)
    return terminate


def assert_same(a, b):
    """Two state dicts, to the last bit."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_a_data_set_that_changed_between_two_calls_is_said(tmp_path, run, no_evaluation):
    """The first call ends before its metrics; the second goes on from there."""
    miniatures.folder(tmp_path / 'videos', train=2, val=2, frames=4)
    flags = [*TINY, '--data', tmp_path / 'videos', '--out', tmp_path / 'run', '--epochs', 1]
    assert 'note: the videos' not in run(*flags)[1]
    film = min((tmp_path / 'videos' / 'train').rglob('*.mp4'))
    film.rename(film.with_name('another.mp4'))
    code, screen, _ = run(*flags)
    assert code == 0 and 'not those that the run began with' in screen


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, videos, run):
    code, _, errors = run('--out', tmp_path, *videos, '--lr', 1e30)
    assert code == 2
    for part in ('step 2', 'videos:', 'last good checkpoint'):
        assert part in errors


def test_a_checkpoint_is_written_no_more_often_than_told(
        tmp_path, videos, run, no_evaluation, monkeypatch):
    """Time passes by 10 s at each look at the clock; it saves before the evaluation, at step 8."""
    clock = iter(range(0, 10 ** 6, 10))
    monkeypatch.setattr(train.time, 'time', lambda: next(clock))
    written = []

    def save(path, checkpoint):
        written.append(checkpoint['step'])
    monkeypatch.setattr(train, 'save_checkpoint', save)
    assert run('--out', tmp_path, *videos, '--epochs', 4, '--save-every', 1000)[0] == 0
    assert written == [8]


# ----------------------------------------------------------------------------------------------
# Long videos

def share_without_target(s, length):
    """Of the frames that training draws from a video of so many, those without a target in SCL."""
    clips = make_clips(s, loss.OBJECTIVES['scl'], [grey('long', length)] * 40)
    return without_target(clips, s.sigma2)


def test_frames_of_long_videos_have_targets():
    """Not so if 32 frames are drawn from all of the video."""
    for frames in 264, 2000, 18000:
        assert share_without_target(train.preset('folder'), frames) < 0.02
    of_all = train.Settings(frames=32)
    assert share_without_target(of_all, 18000) == pytest.approx(0.88, abs=0.04)


def test_frames_too_far_apart_are_said_before_the_first_step(capsys):
    s = train.Settings(frames=32, sigma2=10.)
    objective = loss.OBJECTIVES['scl']
    say_if_far_apart(s, make_clips(s, objective, [grey('short', 264)]))
    assert capsys.readouterr().out == ''
    say_if_far_apart(s, make_clips(s, objective, [grey('long', 18000)]))
    said = capsys.readouterr().out
    for part in ('sigma2 10: 9', '--frames', '--sigma2', '--longest 505'):
        assert part in said


def test_a_long_video_is_every_kth_frame():
    """Pixels, time and length: as of the shorter video that these frames are."""
    item = data.Clips([grey('long', 38)], frames=8, longest=10)[0, 0]
    assert item['length'].tolist() == [10, 10] and (item['time'] < 10).all()
    for frames, numbers in zip(item['clips'], item['time']):
        assert torch.equal(frames[:, 0, 0, 0], (6 * 4 * numbers % 256).byte())
