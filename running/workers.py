"""The processes that decode videos beside the one that trains, and their death."""
import multiprocessing.queues
import os
import signal
import threading
import traceback

from running.errors import UserError

DIED = ('a process that decodes videos died, most likely for want of memory (or of /dev/shm); the '
        'same command with fewer --workers, or 0, goes on')


def start_worker(_number):
    """For DataLoader's worker_init_fn.

    Ctrl-C and a batch system's signals reach the workers too, but the training process is the one
    to stop; after SIGTERM it has ten seconds, then they go by themselves. A worker that cannot hand
    a batch over (/dev/shm is full) dies, for its reader would wait for that batch for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(10))
    if hasattr(signal, 'SIGUSR1'):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    multiprocessing.queues.Queue._on_queue_feeder_error = lambda *_: os._exit(1)


def watched(loader):
    """Yield a DataLoader's batches, and None as the last one where a worker has died. Errors: those
    of the workers, a UserError as its one line again."""
    try:
        iterator = iter(loader)
        main = threading.current_thread() is threading.main_thread()
        if hasattr(signal, 'SIGCHLD') and main:
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
        if isinstance(error, RuntimeError):
            words = 'DataLoader worker (pid', 'shared memory', 'in memory thread'
            died = any(each in str(error) for each in words)
        if not died:
            raise
        yield None
