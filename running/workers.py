"""The processes that decode videos beside the one that trains, and their death."""
import multiprocessing.queues
import os
import signal

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
    """Yield a DataLoader's batches, and None as the last one where a worker has died."""
    try:
        iterator = iter(loader)
        if hasattr(signal, 'SIGCHLD'):
            # a worker's death is then noticed while waiting for a batch, never within a step
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        yield from iterator
    except (RuntimeError, ConnectionError, EOFError) as error:
        # a dead worker shows as a broken connection where it died while handing a batch over
        told = ('DataLoader worker', 'shared memory', 'in memory thread')
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in told):
            raise
        yield None
