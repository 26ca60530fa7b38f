"""The processes that decode videos beside the one that trains: signals, and their death."""
import signal
from running.errors import UserError



def ignore_stop_signals(_worker):
    """For workers. Ctrl-C and a batch system's SIGTERM reach them too, but the training process is
    the one to stop; after SIGTERM it has ten seconds, then they go by themselves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(10))


def listen_to_signals(handler):
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def watched(loader, save):
    """Yield a DataLoader's batches; where a worker dies, save() and stop. Errors: UserError."""
    try:
        iterator = iter(loader)
        if hasattr(signal, 'SIGCHLD'):
            # a worker's death is then noticed while waiting for a batch, never within a step
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        yield from iterator
    except (RuntimeError, ConnectionError, EOFError) as error:
        # a dead worker shows as a broken connection where it died while handing a batch over
        text = str(error)
        died = 'DataLoader worker' in text or 'shared memory' in text
        if isinstance(error, RuntimeError) and not died:
            raise
        save()
        raise UserError('a process that decodes videos died, most likely for want of memory; what '
                        'was trained is saved: the same command with fewer --workers, or 0, goes '
                        'on from there') from None
