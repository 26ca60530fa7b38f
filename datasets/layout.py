"""Which layout of a data set lies in a folder, and the row by which the rest of the house knows a data set."""
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from datasets.video import DataError


class DataSet(NamedTuple):
    """A row of data.DATASETS: all that other files must know of a data set."""
    read: Callable                # read(folder, size) -> {'train': [Video], 'val': [Video]}, [what is missing, in words]
    source: str                   # where the field gets it
    published: dict = {}          # {action or 'all': (train videos, val videos)}
    paper: dict = {}              # "MVF (ours)" of Table 1: {metric: (mean, 2 standard deviations)}
    metrics: str = 'phases'       # 'phases': the four metrics; 'linear': classification by a linear layer; 'none'
    by_action: bool = True        # each metric for each action by itself, then their mean
    stride: int = 1               # tau and retrieval see every so many-th frame
    limit: int = 1000             # frames of the longest sequence at evaluation; a longer video is cut into equal ones
    on_disk: bool = True          # False: read(seed) makes it in memory
    counted: bool = True          # False: too large to count frames or look for files unless asked


TCC = 'the release of TCC (temporal cycle-consistency learning)'
CARL = 'the release of CARL (contrastive action representation learning)'


def layout(source, data, *layouts):
    """The first layout whose parts (glob patterns) are all there -> its number, its paths; else DataError."""
    absent = []
    for number, patterns in enumerate(layouts):
        found = [next(iter(sorted(data.glob(pattern))), None) for pattern in patterns]
        if all(found):
            return number, found
        absent.append([pattern for pattern, path in zip(patterns, found) if not path])
    begun = [gone for gone, patterns in zip(absent, layouts) if len(gone) < len(patterns)]
    raise DataError(f'{data} lacks {" or ".join(", ".join(gone) for gone in begun or absent)}. {source}')


def say(line):
    if os.environ.get('RANK', '0') == '0':
        print(line, file=sys.stderr)
