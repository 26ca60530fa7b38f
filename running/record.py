"""What a run leaves on disk and on the screen: its folder, checkpoint and log."""
import io
import itertools
import json
import math
import os
import sys
import time
from collections import deque
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from datasets.layout import printable, shortened
from running.errors import UserError
from running.processes import all_gather, gather, is_rank0, print_rank0, wait_for_all

ALIKE = 0.98    # mean cosine between frames above which embeddings have collapsed


# ----------------------------------------------------------------------------------------------
# The folder

def open_folder(out, fresh, settings):
    """Make the run's folder, lock it, and write the settings there, to be read by people; with
    `fresh` an old run is kept under another name. Returns the lock. Errors: UserError, OSError."""
    lock = nullcontext()                                  # in all processes but rank 0
    if is_rank0():
        if fresh and any((out / name).exists() for name in ('checkpoint.pt', 'log.jsonl')):
            names = (out.with_name(f'{out.name}.{number}') for number in itertools.count(1))
            old = next(name for name in names if not name.exists())
            with lock_folder(out):                        # not while another run writes to it
                out.rename(old)
            print(f'the old run is kept in {old}')
        out.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(out)
        text = json.dumps(settings, indent=1)
        (out / 'settings.json').write_text(text + '\n', encoding='utf-8')
    wait_for_all()                                        # nobody writes before it is there
    return lock


def lock_folder(out):
    """Refuse a folder that another run writes to -> the lock, to be closed by `with`; it ends with
    the process, too. Errors: UserError."""
    try:
        import fcntl
    except ImportError:
        return nullcontext()                              # Windows has no such lock
    file = open(out / 'lock', 'w')
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise UserError(f'{out}: in use by another run; wait, or choose another folder') from None
    except OSError as error:                              # Lustre or NFS as some clusters mount it
        print(f'note: {out} cannot be locked ({error.strerror}); start no second run in it')
    return file


def save_checkpoint(path, checkpoint):
    """Only rank 0 writes. Errors: OSError in one line."""
    if is_rank0():
        content = io.BytesIO()
        torch.save(checkpoint, content)                   # in memory first: a full disk says so
        with whole_file(path) as file:
            file.write(content.getbuffer())


@contextmanager
def whole_file(path):
    """Write beside, flush, rename: `path` is whole at any moment, this file or the one before it.
    Errors: OSError in one line."""
    beside = path.with_name(path.name + '.new')
    try:
        with open(beside, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise OSError(f'{path}: cannot be written ({error.strerror}); what was written before is '
                      f'intact, and the same command goes on') from None
    finally:
        beside.unlink(missing_ok=True)


def report_skipped(path, skipped):
    """Name the videos that could not be read, {name: why} in each process: on the screen, and once
    in a file."""
    known = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
    lines = [printable(f'{name}: {why}', 'utf-8') for name, why in sorted(gather(skipped).items())]
    new = [line for line in lines if line not in known]
    if new:
        print(f'\nskipped, others taken instead ({len(new)}, {path}): {shortened(new, 5)}')
        path.write_text('\n'.join(known + new) + '\n', encoding='utf-8')


def attempt(what, function, *arguments):
    """Optional output: what fails becomes a printed note."""
    try:
        return function(*arguments)
    except Exception as error:  # whatever it is: a picture must never cost hours of results
        kind = '' if isinstance(error, UserError) else f' ({type(error).__name__})'
        print(f'note: no {what}:', ' '.join(str(error).split()) + kind)


# ----------------------------------------------------------------------------------------------
# The log

class Log:
    """log.jsonl, one JSON object a line: each step, and the metrics of each evaluation; less, where
    a run goes on from a checkpoint, what came after that. epochs, steps: of the run and of an
    epoch; frames: of a step, over all processes. The values of `every` so many steps wait on the
    device. evaluated: the step whose metrics are the last line, or None.
    """

    def __init__(self, folder, step, *, epochs, steps, frames, every=1):
        self.folder = folder
        self.epochs = epochs
        self.steps = steps
        self.frames = frames
        self.every = every
        self.pending = []
        self.recent = deque(maxlen=steps)                 # of an epoch: one batch says little
        self.collapsed = False
        self.since = time.time()
        path = folder / 'log.jsonl' if is_rank0() else Path(os.devnull)
        lines = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
        whole = [line for line in lines if line.endswith('}')]        # a kill cuts one off
        kept = [line for line in whole if json.loads(line)['step'] <= step]
        last = json.loads(kept[-1]) if kept else {}
        # what rank 0 has read, told to all before it writes
        self.evaluated = all_gather(None if 'loss' in last else last.get('step'))[0]
        if kept != lines:
            with whole_file(path) as file:
                file.write(''.join(f'{line}\n' for line in kept).encode())
        self.file = open(path, 'a', encoding='utf-8', buffering=1)    # line by line

    def write(self, step, **values):
        line = dict(step=step, epoch=max(0, step - 1) // self.steps, **values)
        print(json.dumps(line), file=self.file)
        self.since = time.time()                          # what comes next is another step

    def add(self, step, lr, names, *values):
        """values: scalars on the device, loss, gradient norm and mean cosine between frames."""
        values = torch.stack([value.detach().float() for value in values])
        self.pending.append((step, lr, sum(names, []), values))
        if len(self.pending) == self.every or step % self.steps == 0:
            self.report()

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
                names = ', '.join(sum(all_gather(names), []))
                good = self.folder / 'checkpoint.pt'
                raise UserError(f'step {step}: loss {loss}, gradient norm {norm}: overflow; '
                                f'videos: {names}; last good checkpoint: '
                                f'{good if good.exists() else "none yet"}; try a lower --lr')
            self.recent.append((loss, cosine))
            self.write(step, loss=loss, lr=lr, gradient_norm=norm, cosine=cosine,
                       seconds=round(seconds, 4), frames_per_second=round(self.frames / seconds))
        self.pending = []
        self.show(step, lr, seconds)

    def show(self, step, lr, seconds):
        """One line on the screen, about twenty lines of a run in a file."""
        loss, cosine = np.mean(self.recent, 0)
        remaining = self.epochs * self.steps - step
        left = timedelta(seconds=round(remaining * seconds))
        line = (f'epoch {math.ceil(step / self.steps)}/{self.epochs}  step {step}  '
                f'loss {loss:.4f}  lr {lr:.1e}  {self.frames / seconds:.0f} frames/s  {left} left')
        if sys.stdout.isatty():
            print_rank0(f'\r{line:100}', end='' if remaining else '\n', flush=True)
        elif not remaining or step % (self.steps * math.ceil(self.epochs / 20)) == 0:
            print_rank0(line, flush=True)
        if cosine > ALIKE and len(self.recent) == self.steps and not self.collapsed:
            self.collapsed = True                         # said once
            print_rank0(f'\nnote: what the loss sees of an epoch is all alike (mean cosine '
                        f'{cosine:.3f} between frames of a view): it has collapsed')
