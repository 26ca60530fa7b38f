"""What a run leaves on disk and on the screen: its folder, checkpoint, log, progress."""
import io
import itertools
import json
import math
import os
import sys
import time
from collections import deque

import torch
import torch.distributed as dist

from running.errors import UserError
from running.processes import all_gather, is_rank0, print_rank0


def open_folder(out, fresh):
    """Make the run's folder and lock it; with `fresh` an old run is kept under another name.

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
    except BlockingIOError:
        raise UserError(f'{out}: in use by another run; choose another --out, or wait') from None
    return file


def save_checkpoint(path, checkpoint):
    """Write beside, flush, rename: `path` is whole at any moment, this checkpoint or the last.

    Errors: OSError in one line.
    """
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


class Log:
    """One JSON object a line, beside the checkpoint. Going on, it drops what came after that."""

    def __init__(self, path, step):
        self.entries = []
        if path.exists():
            for line in path.read_text(encoding='utf-8').splitlines():
                try:
                    entry = json.loads(line)
                    if entry['step'] <= step:
                        self.entries.append(entry)
                except (ValueError, KeyError, TypeError):
                    pass                                  # a line that a kill cut short
        last = self.entries[-1] if self.entries else dict(loss=None)
        # what rank 0 has read, told to all before it writes
        self.ends_with_metrics = all_gather('loss' not in last)[0]
        self.file = None
        if is_rank0():
            self.file = open(path, 'w', encoding='utf-8')
            for entry in self.entries:
                self.file.write(json.dumps(entry) + '\n')
            self.file.flush()

    def write(self, **values):
        if self.file:
            self.file.write(json.dumps(values) + '\n')
            self.file.flush()


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


class Progress:
    """Losses wait on the device until `report`, which waits for the GPU, logs and shows them."""

    def __init__(self, log, checkpoint, *, epochs, steps, frames):
        self.log = log
        self.checkpoint = checkpoint                      # its path
        self.epochs = epochs
        self.steps = steps                                # of an epoch
        self.frames = frames                              # of a step, over all processes
        self.pending = []
        self.recent = deque(maxlen=steps)                 # an epoch's losses: one batch says little
        self.since = time.time()

    def add(self, step, lr, names, loss, norm):
        self.pending.append((step, lr, names, torch.stack([loss, norm])))

    def report(self):
        """Log the pending steps. Errors: UserError where a loss or gradient is not finite."""
        values = torch.stack([value for _, _, _, value in self.pending])             # (steps, 2)
        if dist.is_initialized():
            dist.all_reduce(values)                       # all see the same and stop together
            values /= dist.get_world_size()
        for (step, lr, names, _), (loss, norm) in zip(self.pending, values.tolist()):
            if not math.isfinite(loss + norm):
                names = ', '.join(itertools.chain(*all_gather(names)))
                good = self.checkpoint if self.checkpoint.exists() else 'none yet'
                raise UserError(f'step {step}: loss {loss}, gradient norm {norm}; videos: {names}; '
                                f'last good checkpoint: {good}; try a lower --lr')
            epoch = (step - 1) // self.steps
            self.recent.append(loss)
            self.log.write(step=step, epoch=epoch, loss=loss, lr=lr, gradient_norm=norm)
        speed = len(self.pending) * self.frames / (time.time() - self.since)
        self.pending = []
        self.since = time.time()

        remaining = self.epochs * self.steps - step       # `step`, `epoch`, `lr`: of the last one
        minutes, seconds = divmod(round(remaining * self.frames / speed), 60)
        left = f'{minutes // 60}:{minutes % 60:02}:{seconds:02}'
        mean = sum(self.recent) / len(self.recent)
        line = (f'epoch {epoch + 1}/{self.epochs}  step {step}  loss {mean:.4f}  lr {lr:.1e}  '
                f'{speed:.0f} frames/s  {left} left')
        if sys.stdout.isatty():
            print_rank0(f'\r{line:100}', end='' if remaining else '\n', flush=True)
        elif not remaining or step % (self.steps * math.ceil(self.epochs / 20)) == 0:
            print_rank0(line, flush=True)                 # about twenty lines in a file


def attempt(what, function, *arguments):
    """Optional output: what fails becomes a printed note."""
    try:
        return function(*arguments)
    except Exception as error:  # whatever it is: a picture must never cost hours of results
        print(f'note: no {what}:', *str(error).split(), f'({type(error).__name__})')
