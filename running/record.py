"""What a run leaves on disk and on the screen: its folder, checkpoint, log; how it is stopped."""
import io
import itertools
import json
import math
import os
import signal
import sys
import time
from collections import deque
from contextlib import contextmanager

import torch
import torch.distributed as dist

from running.errors import UserError
from running.processes import all_gather, is_rank0, print_rank0

ALIKE = 0.98    # mean cosine between frames above which embeddings have collapsed


def any_name(*streams):
    """Let a screen that lacks a letter of a file's name show its code instead."""
    for stream in streams:
        if hasattr(stream, 'reconfigure'):                # a notebook's cannot, and shows all
            stream.reconfigure(errors='backslashreplace')


class StopSignals:
    """From now on Ctrl-C, SIGTERM and SIGUSR1 (a batch system's warning) only set `asked`."""

    def __init__(self):
        self.asked = False
        self.before = {}
        for name in ('SIGINT', 'SIGTERM', 'SIGUSR1'):
            if hasattr(signal, name):
                number = getattr(signal, name)
                self.before[number] = signal.signal(number, self.ask)

    def ask(self, *_):
        self.asked = True

    def restore(self):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @contextmanager
    def paused(self):
        """What lies in this block can be interrupted."""
        for number in self.before:
            signal.signal(number, signal.default_int_handler)
        if self.asked:
            raise KeyboardInterrupt
        yield
        for number in self.before:
            signal.signal(number, self.ask)


# ----------------------------------------------------------------------------------------------
# The folder

def open_folder(out, fresh, settings):
    """Make the run's folder, lock it, and write the settings there, to be read by people; with
    `fresh` an old run is kept under another name.

    Returns the locked file: the lock ends with the process, however that ends. Errors: UserError.
    """
    lock = None
    try:
        if is_rank0():
            out.mkdir(parents=True, exist_ok=True)
            lock = lock_folder(out)
            if fresh and any((out / name).exists() for name in ('checkpoint.pt', 'log.jsonl')):
                names = (out.with_name(f'{out.name}.{number}') for number in itertools.count(1))
                old = next(name for name in names if not name.exists())
                out.rename(old)
                print(f'the old run is kept in {old}')
                out.mkdir()
                lock = lock_folder(out)
            text = json.dumps(settings, indent=1)
            (out / 'settings.json').write_text(text + '\n', encoding='utf-8')
    except OSError as error:
        raise UserError(f'{out}: cannot be a folder for this run ({error.strerror}); '
                        f'choose another --out') from None
    all_gather(None)                                      # nobody writes before it is there
    return lock


def lock_folder(out):
    file = open(out / 'lock', 'w')
    try:
        import fcntl
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass                                              # Windows has no such lock
    except (BlockingIOError, PermissionError):
        raise UserError(f'{out}: in use by another run; choose another --out, or wait') from None
    except OSError as error:                              # Lustre or NFS as some clusters mount it
        print(f'note: {out} cannot be locked ({error.strerror}); start no second run in it')
    return file


def save_checkpoint(path, checkpoint):
    """Write beside, flush, rename: `path` is whole at any moment, this checkpoint or the last.
    Only rank 0 writes. Errors: OSError in one line.
    """
    if not is_rank0():
        return
    content = io.BytesIO()
    torch.save(checkpoint, content)                       # in memory first: a full disk says so
    beside = path.with_name(path.name + '.new')
    try:
        with open(beside, 'wb') as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(f'{path}: cannot be written ({error.strerror}); the checkpoint before it, '
                      f'if any, is intact') from None


# ----------------------------------------------------------------------------------------------
# The log

class Log:
    """log.jsonl, one JSON object a line: each step, and the metrics of each evaluation.

    Going on from a checkpoint, it drops what came after that. The values of a step wait on the
    device until `report`, which waits for the GPU, writes them and shows where the run is.
    epochs, steps: of the run and of an epoch; frames: of a step, over all processes.
    """

    def __init__(self, folder, step, *, epochs, steps, frames):
        self.folder = folder
        self.epochs = epochs
        self.steps = steps
        self.frames = frames
        self.pending = []
        self.recent = deque(maxlen=steps)                 # an epoch's losses: one batch says little
        self.alike = deque(maxlen=steps)                  # an epoch's mean cosines
        self.since = time.time()
        self.saved = time.time()                          # when the last checkpoint was written
        path = folder / 'log.jsonl'
        entries = [] if not path.exists() else entries_until(step, path)
        last = entries[-1] if entries else dict(loss=None)
        # what rank 0 has read, told to all before it writes
        self.ends_with_metrics = all_gather('loss' not in last)[0]
        self.file = None
        if is_rank0():
            self.file = open(path, 'w', encoding='utf-8')
            for entry in entries:
                self.file.write(json.dumps(entry) + '\n')
            self.file.flush()

    def write(self, step, **values):
        if self.file:
            epoch = max(0, step - 1) // self.steps
            self.file.write(json.dumps(dict(step=step, epoch=epoch, **values)) + '\n')
            self.file.flush()
        self.since = time.time()                          # what comes next is another step

    def every(self, device):
        """A report in how many steps: each waits for the GPU."""
        return 10 if device.type == 'cuda' else 1

    def add(self, step, lr, names, *values):
        """values: scalars on the device, loss, gradient norm and mean cosine between frames."""
        values = torch.stack([value.detach().float() for value in values])
        self.pending.append((step, lr, list(itertools.chain(*names)), values))

    def report(self):
        """Log the pending steps. Errors: UserError where a loss or gradient is not finite."""
        if not self.pending:
            return
        values = torch.stack([values for *_, values in self.pending])                 # (steps, 3)
        if dist.is_initialized():
            dist.all_reduce(values)                       # all see the same and stop together
            values /= dist.get_world_size()
        seconds = (time.time() - self.since) / len(self.pending)
        for (step, lr, names, _), (loss, norm, cosine) in zip(self.pending, values.tolist()):
            if not math.isfinite(loss + norm):
                self.refuse(step, loss, norm, names)
            self.recent.append(loss)
            self.alike.append(cosine)
            self.write(step, loss=loss, lr=lr, gradient_norm=norm, cosine=cosine,
                       seconds=round(seconds, 4), frames_per_second=round(self.frames / seconds))
        self.pending = []
        self.show(step, lr, seconds)
        self.since = time.time()

    def refuse(self, step, loss, norm, names):
        names = ', '.join(itertools.chain(*all_gather(names)))
        good = self.folder / 'checkpoint.pt'
        raise UserError(f'step {step}: loss {loss}, gradient norm {norm}: overflow; videos: {names}; '
                        f'last good checkpoint: {good if good.exists() else "none yet"}; '
                        f'try a lower --lr')

    def show(self, step, lr, seconds):
        """One line on the screen, about twenty lines of a run in a file."""
        remaining = self.epochs * self.steps - step
        minutes, left = divmod(round(remaining * seconds), 60)
        mean = sum(self.recent) / len(self.recent)
        line = (f'epoch {(step - 1) // self.steps + 1}/{self.epochs}  step {step}  '
                f'loss {mean:.4f}  lr {lr:.1e}  {self.frames / seconds:.0f} frames/s  '
                f'{minutes // 60}:{minutes % 60:02}:{left:02} left')
        if sys.stdout.isatty():
            print_rank0(f'\r{line:100}', end='' if remaining else '\n', flush=True)
        elif not remaining or step % (self.steps * math.ceil(self.epochs / 20)) == 0:
            print_rank0(line, flush=True)
        alike = sum(self.alike) / len(self.alike)
        if alike > ALIKE and len(self.alike) == self.steps:
            print_rank0(f'\nnote: the embeddings of an epoch are all alike (mean cosine '
                        f'{alike:.3f} between frames of a view): they have collapsed')
            self.alike = deque(maxlen=sys.maxsize)        # said once
            self.alike.append(0)


def entries_until(step, path):
    """The lines of a log up to a step; one that a kill cut short is passed over."""
    entries = []
    for line in path.read_text(encoding='utf-8').splitlines():
        try:
            entry = json.loads(line)
            if entry['step'] <= step:
                entries.append(entry)
        except (ValueError, KeyError, TypeError):
            pass
    return entries


def report_skipped(path, skipped):
    """Name the videos that could not be read: on the screen, and once in a file."""
    together = {}
    for each in all_gather(skipped):
        together |= each
    known = []
    if path.exists():
        known = path.read_text(encoding='utf-8').splitlines()
    new = []
    for name, reason in sorted(together.items()):
        line = f'{name}: {reason}'.encode(errors='backslashreplace').decode()
        if line not in known:
            new.append(line)
    if new and is_rank0():
        more = ' ...' if len(new) > 5 else ''
        videos = 'video' if len(new) == 1 else 'videos'
        print(f'\n{len(new)} {videos} skipped, others taken instead ({path}): '
              f'{"; ".join(new[:5])}{more}')
        path.write_text('\n'.join(known + new) + '\n', encoding='utf-8')


def attempt(what, function, *arguments):
    """Optional output: what fails becomes a printed note."""
    try:
        return function(*arguments)
    except Exception as error:  # whatever it is: a picture must never cost hours of results
        print(f'note: no {what}:', *str(error).split(), f'({type(error).__name__})')
