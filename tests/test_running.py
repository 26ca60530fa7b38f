"""What a long run needs: devices, processes, the folder's lock, a worker's death."""
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

import miniatures
import running.processes
import train
from running import command
from running.errors import UserError
from running.processes import half_dtype, join_processes, pick_device
from running.command import at_once, end_well, leave_if_asked, on_stop, start_worker, watched
from running.record import Log, lock_folder, open_folder, report_skipped

ROOT = Path(train.__file__).parent
ENVIRONMENT = os.environ | dict(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
TINY = ['--dataset', 'folder', '--backbone', 'tiny', '--weights', 'random', '--layers', '1',
        '--frames', '4', '--batch', '4', '--fc-width', '32', '--embedding', '16',
        '--image-size', '24', '--save-every', '1000', '--versions', '0', '--device', 'cpu']


# ------------------------------------------------------------------------------------- devices

def fake(monkeypatch, *, gpus=0, mps=False, bfloat16=True):
    """What PyTorch reports on another machine."""
    chosen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: bfloat16)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: mps)
    return chosen


def test_the_best_device_there_is_and_no_other(monkeypatch):
    for machine, best in [(dict(gpus=1, mps=True), 'cuda'), ({}, 'cpu'), (dict(mps=True), 'mps')]:
        fake(monkeypatch, **machine)
        assert pick_device().type == best
        assert pick_device('cpu').type == 'cpu'
    with pytest.raises(UserError, match='--device cuda: .*mps, cpu'):
        pick_device('cuda')
    chosen = fake(monkeypatch, gpus=2)
    assert pick_device('cuda', 1) == torch.device('cuda', 1) and chosen == [1]
    with pytest.raises(UserError, match='nproc_per_node 2'):
        pick_device('cuda', 2)


@pytest.mark.parametrize('bfloat16, expected', [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bfloat16_keeps_its_backbone_in_float16(bfloat16, expected, monkeypatch):
    """A frozen backbone has no gradient that could overflow; what is trained stays in float32."""
    fake(monkeypatch, gpus=1, bfloat16=bfloat16)
    assert half_dtype(torch.device('cuda', 0)) == expected
    autocast = type(train.mixed_precision(torch.device('cuda', 0))).__name__
    assert autocast == ('autocast' if bfloat16 else 'nullcontext')
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: bfloat16)
    assert half_dtype(torch.device('cpu')) == (torch.bfloat16 if bfloat16 else None)
    assert half_dtype(torch.device('mps')) is None
    for device in 'cpu', 'mps':
        assert type(train.mixed_precision(torch.device(device))).__name__ == 'nullcontext'


def test_a_variable_that_is_set_but_empty_counts_as_not_set(monkeypatch):
    for name in 'RANK', 'WORLD_SIZE', 'LOCAL_RANK':
        monkeypatch.setenv(name, '')
    assert join_processes('cpu') == (0, 1, torch.device('cpu'))


# -------------------------------------------------------------------------- one folder, one run

HOLD = 'import sys, time; from pathlib import Path; from running.record import lock_folder; ' \
       'file = lock_folder(Path(sys.argv[1])); print("locked", flush=True); time.sleep(60)'


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGTERM])
def test_a_folder_in_use_is_refused_and_a_killed_run_leaves_no_lock(how, tmp_path):
    other = subprocess.Popen([sys.executable, '-c', HOLD, tmp_path], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, env=ENVIRONMENT)
    assert other.stdout.readline() == 'locked\n'
    with pytest.raises(UserError, match='in use by another run'):
        lock_folder(tmp_path)
    other.send_signal(how)
    other.wait(10)
    lock_folder(tmp_path).close()


def test_names_that_no_text_file_can_hold_are_escaped(tmp_path, capsys):
    broken = {os.fsdecode(b'\xd0\xd5.mp4'): 'cut off', '深蹲.mp4': 'cut off'}
    report_skipped(tmp_path / 'skipped.txt', broken)
    report_skipped(tmp_path / 'skipped.txt', broken)
    lines = (tmp_path / 'skipped.txt').read_text(encoding='utf-8').splitlines()
    assert sorted(lines) == ['\\udcd0\\udcd5.mp4: cut off', '深蹲.mp4: cut off']
    assert capsys.readouterr().out.count('skipped, others taken instead (2') == 1


# ------------------------------------------------------------------------------ a worker's death

def start(tmp_path, *flags, within=()):
    """train.py with one worker, as a process of its own."""
    miniatures.folder(tmp_path / 'data', train=16, val=3, frames=8)
    command = [*within, sys.executable, ROOT / 'train.py', *TINY, '--data', tmp_path / 'data',
               '--out', tmp_path / 'run', '--workers', '1', *flags]
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE)


def one_line(run, *words):
    errors = run.communicate(timeout=100)[1]
    assert run.returncode == 2 and 'Traceback' not in errors, errors
    for word in words:
        assert word in errors


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='reads processes as Linux has it')
def test_a_killed_worker_is_one_line_and_its_run_goes_on_from_there(tmp_path):
    run = start(tmp_path, '--epochs', '1000')
    log = tmp_path / 'run' / 'log.jsonl'
    deadline = time.time() + 90
    while not (log.exists() and log.read_text().count('\n') >= 2) and time.time() < deadline:
        time.sleep(0.05)
    children = Path(f'/proc/{run.pid}/task/{run.pid}/children').read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    one_line(run, 'memory', '--workers')
    last = json.loads(log.read_text().splitlines()[-1])['step']
    assert torch.load(tmp_path / 'run' / 'checkpoint.pt')['step'] >= last >= 2


# in a namespace of its own, where the machine allows one, /dev/shm has room for no batch
SMALL_SHM = ['unshare', '-m', 'sh', '-c',
             'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', 'sh']


@pytest.mark.skipif(not shutil.which('unshare') or subprocess.run([*SMALL_SHM, 'true'],
                    capture_output=True).returncode != 0, reason='no mount in a namespace here')
def test_a_small_dev_shm_is_one_line(tmp_path):
    one_line(start(tmp_path, '--image-size', '112', within=SMALL_SHM), '/dev/shm', '--workers')


def test_a_log_that_cannot_be_cut_back_stays_whole(tmp_path, monkeypatch):
    """A run goes on from step 1, and the disk is full."""
    log = tmp_path / 'log.jsonl'
    before = '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"st'
    log.write_text(before)
    monkeypatch.setattr(os, 'replace', lambda *_: os.read(-1, 1))    # an OSError
    with pytest.raises(OSError, match='written before is intact'):
        Log(tmp_path, 1, epochs=1, steps=2, frames=8)
    assert log.read_text() == before
    monkeypatch.undo()
    Log(tmp_path, 1, epochs=1, steps=2, frames=8).write(2, loss=1.25)
    assert [json.loads(line)['loss'] for line in log.read_text().splitlines()] == [2.0, 1.25]


def test_a_signal_while_workers_start_is_not_lost():
    armed = [signal.SIGTERM]
    os.register_at_fork(after_in_parent=lambda: armed and signal.raise_signal(armed.pop()))
    with pytest.raises(KeyboardInterrupt), at_once():
        list(watched(DataLoader(range(4), num_workers=1, worker_init_fn=start_worker)))
    assert not armed


def test_a_signal_is_what_is_said_where_it_killed_the_workers_too():
    with pytest.raises(KeyboardInterrupt):
        leave_if_asked([signal.SIGTERM], None, 7, lambda: None)
    with pytest.raises(UserError, match='step 7 is saved: a process that decodes'):
        leave_if_asked([], None, 7, lambda: None)


@pytest.mark.parametrize('error', [None, OSError('no space left')])
def test_who_fails_does_not_wait_for_the_others(error, monkeypatch):
    """To take leave of a process group is a meeting on GPUs."""
    left = []
    monkeypatch.setattr(dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(dist, 'destroy_process_group', lambda: left.append(True))
    monkeypatch.setattr(command.os, '_exit', sys.exit)
    for place in command, running.processes:
        monkeypatch.setattr(place, 'is_rank0', lambda: True)
    monkeypatch.setattr(command, 'wait_for_all', lambda: None)

    def work():
        if error:
            raise error
    with suppress(SystemExit):
        end_well('train.py', work)
    assert len(left) == (not error)


def test_batches_may_be_asked_for_by_any_thread():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(list, watched(iter([1, 2]))).result() == [1, 2]


def failing(message):
    """A DataLoader's iterator that fails as it begins."""
    raise RuntimeError(message)
    yield


@pytest.mark.parametrize('message', [
    'unable to open shared memory object </torch_1> in read-write mode',
    'DataLoader worker (pid 7) is killed by signal: Killed.',
    'Caught ConnectionResetError in pin memory thread for device 0.'])
def test_a_dead_worker_is_the_end_of_the_batches(message):
    """What PyTorch raises where memory or /dev/shm, as in many containers, is too small."""
    assert list(watched(failing(message))) == [None]
    with pytest.raises(RuntimeError, match='Caught'):    # what failed in a worker is no death
        list(watched(failing('Caught RuntimeError in DataLoader worker process 0.')))


@pytest.mark.parametrize('code', [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_used(code, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(code, os.strerror(code))
    monkeypatch.setattr('fcntl.lockf', refuse)
    lock_folder(tmp_path).close()
    assert 'cannot be locked' in capsys.readouterr().out


def test_stop_signals_are_noted_and_given_back():
    numbers = signal.SIGUSR1, signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    noted = []
    with pytest.raises(KeyError), on_stop(noted.append):      # also where the loop ends by an error
        os.kill(os.getpid(), signal.SIGUSR1)
        assert noted == [signal.SIGUSR1]
        with pytest.raises(KeyboardInterrupt), at_once(noted):
            assert False, 'it was asked before'
        raise KeyError
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_says_so_and_has_the_exit_code_of_shells(number, code, capsys):
    with pytest.raises(SystemExit) as exited:
        end_well('train.py', os.kill, os.getpid(), number)
    assert exited.value.code == code
    assert capsys.readouterr().err == '\ntrain.py: stopped; the same command goes on\n'


def test_under_torchrun_an_error_is_what_its_report_ends_with(tmp_path, monkeypatch, capsys):
    """torchrun prints what a process that failed has left in this file, instead of a traceback."""
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'error.json'))
    with pytest.raises(SystemExit):
        end_well('train.py', os.mkdir, tmp_path)
    told = json.loads((tmp_path / 'error.json').read_text())
    assert told['message'] in capsys.readouterr().err and 'error: [Errno' in told['message']


def test_the_lock_is_not_what_makes_a_folder_a_run(tmp_path, monkeypatch):
    """--fresh keeps an old run under another name; a folder that holds only a lock is no run."""
    open_folder(tmp_path / 'run', fresh=True, settings={}).close()
    assert not (tmp_path / 'run.1').exists()
    (tmp_path / 'run' / 'log.jsonl').write_text('')
    open_folder(tmp_path / 'run', fresh=True, settings={}).close()
    assert (tmp_path / 'run.1' / 'log.jsonl').exists()
    assert not (tmp_path / 'run' / 'log.jsonl').exists()
