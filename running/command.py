"""How a command ends, the same for all: with a line that says why, and an exit code. Then how its
training loop is left, and the processes that decode videos beside it.

    0         it is done
    2         it cannot be done: a UserError's line, on stderr, names the thing and the remedy
    128 + n   stopped by signal n: 130 by Ctrl-C, 143 by SIGTERM
"""
import json
import multiprocessing.queues
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import torch
import torch.distributed as dist

from running.errors import UserError
from running.processes import all_gather, is_rank0, wait_for_all

# Ctrl-C, and what batch systems send before they end a job; Windows lacks the last
STOPS = {signal.SIGINT, signal.SIGTERM, getattr(signal, 'SIGUSR1', signal.SIGTERM)}
DIED = ('a process that decodes videos died, most likely for want of memory (or of /dev/shm); the '
        'same command with fewer --workers, or 0, goes on')
# what PyTorch says where one died; it says otherwise where the code in one failed
DEATHS = ('DataLoader worker (pid', 'shared memory', 'in memory thread')


@contextmanager
def on_stop(handler):
    """In this block the signals of STOPS call handler(number); afterwards what they did."""
    before = [signal.signal(each, lambda number, _: handler(number)) for each in STOPS]
    try:
        yield
    finally:
        for number, handler in zip(STOPS, before):
            signal.signal(number, handler)


def interrupt(number):
    raise KeyboardInterrupt(number)


@contextmanager
def at_once(noted=()):
    """In this block a signal ends what runs; so does one that was noted before."""
    with on_stop(interrupt):
        if noted:
            interrupt(noted[0])
        yield


def end_well(program, function, *arguments, stopped='stopped; the same command goes on'):
    """Call the function; if it does not end by itself, say why and exit. All commands' main.
    stopped: what is said where a signal ended it and nothing more is known."""
    for stream in sys.stdout, sys.stderr:
        with suppress(AttributeError):                    # a notebook's cannot, and shows all
            stream.reconfigure(errors='backslashreplace')    # letters that a screen lacks
    code = 2
    try:
        with at_once():
            function(*arguments)
            with suppress(RuntimeError):                  # another has ended, and has said why
                wait_for_all()
        if dist.is_initialized():    # on GPUs a meeting, to which who fails does not come
            dist.destroy_process_group()
            sys.stdout.flush()
            os._exit(0)    # at once: now and then gloo's threads abort Python's own way out
        return
    except torch.OutOfMemoryError:
        line = f'{program}: error: out of GPU memory; training needs less with a lower --batch'
    except (UserError, OSError) as error:
        line = f'{program}: error: {" ".join(str(error).split()) or repr(error)}'
    except KeyboardInterrupt as signalled:
        number, *why = signalled.args or [signal.SIGINT]
        code = 128 + number
        line = f'{program}: {" ".join(why) or stopped}' if is_rank0() else ''
    if line:
        print('\n' + line, file=sys.stderr, flush=True)
    told = os.environ.get('TORCHELASTIC_ERROR_FILE')
    if told:                                              # torchrun ends its report with it
        Path(told).write_text(json.dumps(dict(message=line, timestamp=int(time.time()))))
    sys.exit(code)


def leave_if_asked(noted, batch, step, save):
    """Between two steps: save and leave, where any process has noted the number of a signal, or has
    None for a batch, since a worker has died."""
    stops, died = zip(*all_gather((max(noted, default=0), batch is None)))
    if not any(stops) and not any(died):
        return
    save()
    wait_for_all()
    if any(stops):    # of it the workers may have died, too
        raise KeyboardInterrupt(max(stops), f'stopped at step {step}; the same command goes on')
    raise UserError(f'step {step} is saved: {DIED}')


# ----------------------------------------------------------------------------------------------
# The processes that decode videos beside the one that trains, and their death

def start_worker(_number):
    """For DataLoader's worker_init_fn.

    Ctrl-C and a batch system's signals reach the workers too, but the training process is the one
    to stop; after SIGTERM it has ten seconds, then they go by themselves. A worker that cannot hand
    a batch over (/dev/shm is full) dies, for its reader would wait for that batch for ever.
    """
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(10))
    multiprocessing.queues.Queue._on_queue_feeder_error = lambda *_: os._exit(1)


def watched(loader):
    """Yield a DataLoader's batches, and None as the last one where a worker has died. Errors: those
    of the workers, a UserError as its one line again."""
    try:
        held = []    # signals: what a handler raises while Python forks, it swallows
        in_main = threading.current_thread() is threading.main_thread()
        with on_stop(held.append) if in_main else nullcontext():
            iterator = iter(loader)
        for number in held:
            signal.raise_signal(number)
        with suppress(AttributeError, ValueError):        # on Windows; in a thread
            # a worker's death is then noticed while waiting for a batch, never within a step
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        yield from iterator
    except Exception as error:
        # its traceback and the loader hold one another, and then the loader's end is waited for,
        # ten seconds for each worker
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, UserError):    # PyTorch has put the worker's traceback before it
            line = str(error).splitlines()[-1]
            raise UserError(line.split('UserError: ', 1)[-1]) from None
        # a dead worker shows as a broken connection where it died while handing a batch over
        died = isinstance(error, (ConnectionError, EOFError))
        if not died and not any(words in str(error) for words in DEATHS):
            raise
        yield None
