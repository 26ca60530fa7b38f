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
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import loss
import miniatures
import model as models
import train
from running.batchnorm import share_batchnorm
from running.record import save_checkpoint

ROOT = Path(train.__file__).parent
TINY = '--dataset folder --backbone tiny --weights random --layers 1 --image-size 24 --frames 4'
TINY += ' --batch 4 --fc-width 32 --embedding 16 --workers 0'
ENVIRONMENT = os.environ | dict(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """A small data set, as flags."""
    folder = tmp_path_factory.mktemp('videos')
    miniatures.folder(folder, train=16, val=3, frames=8)
    return [*TINY.split(), '--data', str(folder)]


def run(*arguments, processes=1, check=True):
    launcher = []
    if processes > 1:
        launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', processes]
    command = [sys.executable, *launcher, ROOT / 'train.py', *arguments]
    done = subprocess.run([str(part) for part in command], env=ENVIRONMENT,
                          capture_output=True, text=True, timeout=200)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


PAPER = {
    'penn': dict(layers=[4, 8, 12], entities=3, readout='cls', frames=80, epochs=500, batch=4,
                 lr=1e-4, weight_decay=1e-5),
    'pouring': dict(layers=[12], frames=240, epochs=1000),
    'finegym288': dict(layers=[10, 11, 12], entities=6, readout='avg', frames=240, fc_width=1536,
                       embedding=256, epochs=300, batch=8, block='clip'),
    'k400': dict(layers=[4, 8, 12], epochs=10, batch=8),
}


@pytest.mark.parametrize('dataset', PAPER)
def test_presets_are_the_papers(dataset):
    settings = train.preset(dataset).resolve()
    for name, value in PAPER[dataset].items():
        assert getattr(settings, name) == value, name


def settings_of(flags):
    _, settings, _ = train.parse(flags.split())
    return settings.resolve()


def test_a_preset_may_be_overruled_by_flags_and_layers_follow_the_backbone():
    settings = settings_of('--dataset penn --backbone tiny --lr 0.1')
    assert settings.layers == [1, 2, 4]
    assert settings.lr == 0.1
    assert settings.image_size == 60
    assert settings_of('--dataset penn --pool max').layers == [12]
    assert settings_of('--dataset penn --layers 3,1').layers == [3, 1]


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

def gradients(rank=0, world=1):
    """Gradients and BatchNorm statistics of one SCL step on a global batch of 4 videos."""
    torch.manual_seed(0)
    small = dict(layers=[1], frames=6, entity_width=32, fc_width=32, embedding=16, dropout=0.,
                 image_size=16)
    model = models.build_model(vars(train.preset('synthetic').resolve()) | small)
    model.head = loss.projection_head(16)
    share_batchnorm(model)
    model.train()
    clips = torch.randn(4, 2, 6, 3, 16, 16)
    valid = torch.ones(4, 2, 6, dtype=torch.bool)
    valid[1, :, 4:] = False
    when = torch.arange(6).expand(4, 2, 6)
    length = torch.full((4, 2), 6)
    mine = slice(rank * 4 // world, (rank + 1) * 4 // world)
    parallel = DistributedDataParallel(model) if world > 1 else model
    z = parallel(clips[mine].flatten(0, 1), valid[mine].flatten(0, 1), project=True)
    z = z.unflatten(0, (-1, 2))
    loss.scl(z, when[mine], length[mine], valid[mine]).backward()
    found = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            found[name] = weight.grad
    for name, buffer in model.named_buffers():
        if 'running' in name:
            found[name] = buffer
    return found


def process(rank, world, folder):
    meet = f'file://{folder}/meet'
    dist.init_process_group('gloo', init_method=meet, rank=rank, world_size=world)
    torch.save(gradients(rank, world), f'{folder}/{rank}.pt')
    dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path):
    """BatchNorm included: ours takes its statistics over all processes on the CPU as well."""
    mp.spawn(process, args=(2, tmp_path), nprocs=2)
    alone = gradients()
    for rank in range(2):
        theirs = torch.load(tmp_path / f'{rank}.pt')
        assert theirs.keys() == alone.keys()
        for name, value in alone.items():
            assert (theirs[name] - value).abs().max() <= 1e-4 * max(1, value.abs().max()), name


def test_torchrun_trains_and_only_rank_0_writes(tmp_path, videos):
    done = run('--out', tmp_path, *videos, '--epochs', 2, processes=2)
    assert '2 x cpu' in done.stdout
    assert done.stdout.count('videos to train on') == 1
    lines = (tmp_path / 'log.jsonl').read_text().splitlines()
    steps = [json.loads(line)['step'] for line in lines]
    assert steps == sorted(steps)
    assert steps[-1] == torch.load(tmp_path / 'checkpoint.pt')['step']


# ----------------------------------------------------------------------------------------------
# Interruption

@pytest.mark.parametrize('how, objective', [(signal.SIGKILL, 'distill'), (signal.SIGTERM, 'scl')])
def test_a_run_that_was_stopped_ends_as_one_never_stopped(tmp_path, videos, how, objective):
    """Bit-identical weights and log, also with another number of workers."""
    flags = [*videos, '--epochs', '5', '--save-every', '0', '--loss', objective]
    whole = tmp_path / 'whole'
    stopped = tmp_path / 'stopped'
    log = stopped / 'log.jsonl'
    run('--out', whole, *flags)
    first = stop_after(3, how, log, '--out', stopped, *flags)
    run('--out', stopped, *flags, '--workers', 1)
    a = torch.load(whole / 'checkpoint.pt')
    b = torch.load(stopped / 'checkpoint.pt')
    assert 0 < first < a['step'] == b['step']
    assert_same(a['model'], b['model'])
    if objective == 'distill':
        assert 'centre' in a['teacher']
        assert not torch.equal(a['teacher']['model.pool.shared'], a['model']['pool.shared'])
        assert_same(a['teacher'], b['teacher'])
    assert without_time(whole / 'log.jsonl') == without_time(log)


def without_time(log):
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    for entry in entries:
        entry.pop('seconds', None)
        entry.pop('frames_per_second', None)
    return entries


def stop_after(lines, how, log, *arguments):
    """Send a run the signal once its log has so many lines -> the step that it has saved."""
    command = [sys.executable, ROOT / 'train.py', *map(str, arguments)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    deadline = time.time() + 60
    while not (log.exists() and log.read_text().count('\n') >= lines) and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    output = process.communicate(timeout=30)[0]
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 0 and 'goes on from there' in output
    return torch.load(log.with_name('checkpoint.pt'))['step']


def assert_same(a, b):
    """Two state dicts, to the last bit."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_finished_run_says_so_and_other_settings_are_refused(tmp_path, videos):
    flags = ['--out', tmp_path / 'run', *videos, '--epochs', 2]
    run(*flags)
    before = contents(tmp_path / 'run')
    assert 'finished' in run(*flags).stdout
    refused = run(*flags, '--lr', 1, check=False)
    assert refused.returncode == 2
    assert 'lr was 0.0005, now 1.0' in refused.stderr
    assert 'Traceback' not in refused.stderr
    assert contents(tmp_path / 'run') == before
    run(*flags, '--lr', 1e-3, '--fresh')
    assert contents(tmp_path / 'run.1')['checkpoint.pt'] == before['checkpoint.pt']


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, videos):
    done = run('--out', tmp_path, *videos, '--lr', 1e30, check=False)
    assert done.returncode == 2
    assert 'Traceback' not in done.stderr
    for part in ('step 2', 'videos:', 'last good checkpoint'):
        assert part in done.stderr
