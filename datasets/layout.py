"""The row by which the rest of the house knows a data set, and what the files of this folder share.

A data set is one file here and one line in data.DATASETS. Its file has
    read(folder, size) -> {'train': [Video], 'val': [Video]}, [remarks]
size: pixels a side to which frames are squashed, where the field does so. A remark is a line of
text: what is missing or, where it begins with NOTE, something else that the user should know.
"""
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

from running.errors import UserError


class DataSet(NamedTuple):
    """A row of data.DATASETS: all that other files must know of a data set."""
    read: Callable           # read(folder, size) as above
    source: str              # where the field gets it
    published: dict = {}     # {action or 'all': (train videos, val videos)}
    paper: dict = {}         # "MVF (ours)" of Table 1: {metric: (mean, 2 standard deviations)}
    metrics: str = 'phases'  # 'phases': the four metrics; 'linear': a linear classifier; 'none'
    by_action: bool = True   # each metric for each action by itself, then their mean
    stride: int = 1          # tau and retrieval see every so many-th frame
    limit: int = 1000        # frames of the longest sequence at evaluation
    own: bool = False        # one's own: a longer video stays whole, thinned out, where published
                             # ones are cut; read takes the unit of labels that are segments, too
    on_disk: bool = True     # False: read(seed) makes it in memory


TCC = 'the release of TCC (temporal cycle-consistency learning)'
CARL = 'the release of CARL (contrastive action representation learning)'
NOTE = 'note: '
CONTROL = {code: f'\\x{code:02x}' for code in range(32)}  # file names may hold even these


def layout(source, data, *layouts):
    """The first layout (a tuple of glob patterns) whose parts are all below `data` -> its number,
    the path of each part. UserError: what the one lacks that lacks the fewest, and the source."""
    lacking = []
    for number, patterns in enumerate(layouts):
        paths = [min(data.glob(pattern), default=None) for pattern in patterns]
        if all(paths):
            return number, paths
        lacking.append([pattern for pattern, path in zip(patterns, paths) if not path])
    raise UserError(f'{data} lacks {", ".join(min(lacking, key=len))}. {source}')


def printable(text, encoding=None):
    """Text on one line that the screen can show, or a file of this encoding. What it cannot hold
    becomes an escape like \\u6df1, \\x0a: ends of lines, names that are no UTF-8."""
    encoding = encoding or getattr(sys.stdout, 'encoding', None) or 'utf-8'
    return str(text).translate(CONTROL).encode(encoding, 'backslashreplace').decode(encoding)


def one_line(error):
    """What an exception says."""
    words = getattr(error, 'strerror', None) or str(error)
    return ' '.join(words.split()) or type(error).__name__


@contextmanager
def refused(what):
    """What is raised inside becomes a UserError of one line: what is refused, and why.

    For strangers' files: on bytes that they did not expect, readers raise a dozen types of errors.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{what} ({one_line(error)})') from None


def say(line, warning=False):
    """A line for the user, said once however many processes there are; warnings on stderr."""
    if (os.environ.get('RANK') or '0') == '0':
        print(printable(line), file=sys.stderr if warning else sys.stdout)


def shortened(names, most=3):
    """'a, b, c ...': the first names of a list."""
    names = list(names)
    return ', '.join(names[:most]) + (' ...' if len(names) > most else '')


def readable(path, top):
    """A path below `top` as text that every file can hold."""
    return printable(path.relative_to(top).as_posix(), 'utf-8')
