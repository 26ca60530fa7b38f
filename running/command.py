"""How a command ends, the same for all: with a line that says why, and an exit code.

    0         it is done
    2         it cannot be done: a UserError's line, on stderr, names the thing and the remedy
    128 + n   stopped by signal n: 130 by Ctrl-C, 143 by SIGTERM
"""
import json
import os
import signal
import sys
import time
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import torch
import torch.distributed as dist

from running.errors import UserError
from running.processes import is_rank0, wait_for_all

# Ctrl-C, and what batch systems send before they end a job; Windows lacks the last
STOPS = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, 'SIGUSR1'):
    STOPS.append(signal.SIGUSR1)


@contextmanager
def on_stop(handler):
    """In this block the signals of STOPS call handler(number, frame); afterwards what they did."""
    before = [signal.signal(number, handler) for number in STOPS]
    try:
        yield
    finally:
        for number, handler in zip(STOPS, before):
            signal.signal(number, handler)


def interrupt(number, frame=None):
    raise KeyboardInterrupt(number)


class StopSignals:
    """For a loop that leaves after its step: on_stop(stop.ask) only notes the signal."""
    asked = 0                                             # its number

    def ask(self, number, frame):
        self.asked = number

    @contextmanager
    def at_once(self):
        """What lies in this block can be interrupted."""
        with on_stop(interrupt):
            if self.asked:
                interrupt(self.asked)
            yield


def end_well(program, function, *arguments, stopped='stopped; the same command goes on'):
    """Call the function; if it does not end by itself, say why and exit. All commands' main.
    stopped: what is said where a signal ended it and nothing more is known."""
    for stream in sys.stdout, sys.stderr:
        with suppress(AttributeError):                    # a notebook's cannot, and shows all
            stream.reconfigure(errors='backslashreplace')    # letters that a screen lacks
    code = 0
    line = ''
    try:
        with on_stop(interrupt):
            function(*arguments)
            # where rank 0 has ended with an error it has said why, and torchrun ends the others
            with nullcontext() if is_rank0() else suppress(RuntimeError):
                wait_for_all()
    except torch.OutOfMemoryError:
        code = 2
        line = f'{program}: error: out of GPU memory; training needs less with a lower --batch'
    except (UserError, OSError) as error:
        code = 2
        line = f'{program}: error: {" ".join(str(error).split()) or repr(error)}'
    except KeyboardInterrupt as signalled:
        number, *why = signalled.args or [signal.SIGINT]
        code = 128 + number
        line = f'{program}: {" ".join(why) or stopped}' if is_rank0() else ''
    if line:
        print('\n' + line, file=sys.stderr, flush=True)
    told = os.environ.get('TORCHELASTIC_ERROR_FILE')
    if told and code:                                     # torchrun ends its report with it
        Path(told).write_text(json.dumps(dict(message=line, timestamp=int(time.time()))))
    if dist.is_initialized() and not code:    # on GPUs a meeting, to which others may not come
        dist.destroy_process_group()
    if code:
        sys.exit(code)
