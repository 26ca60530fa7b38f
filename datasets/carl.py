"""The lists that CARL's authors prepared, read by a pickle reader that cannot run code."""
import collections
import io
import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import torch

from datasets.video import DataError, checked, one_line, video_file


def carl(train, val, clips, size, classes, actions, fit=False):
    """As CARL's authors prepared it: for each split a pickled list of dicts, and video files. Where there are
    several actions, the list comes in a pair with the indices of each action's videos."""
    videos, missing, there = {'train': [], 'val': []}, [], set(os.listdir(clips))
    for split, file in zip(videos, (train, val)):
        content = read_pickle(file)
        try:
            entries, groups = content if len(actions) > 1 else (content, [range(len(content))])
            for action, count, group in zip(actions, classes, groups, strict=True):
                for entry in (entries[int(index)] for index in group):
                    path, name = clips / Path(entry['video_file']).name, str(entry['name'])
                    labels = partial(checked, f'{file}: {name}', np.asarray(entry['frame_label']), count)
                    if path.name in there:
                        video = video_file(name, path, size, action=action, annotate=labels, fit=fit)
                        videos[split].append(video)
                    else:
                        missing.append(f'{clips.name}/{path.name} ({split})')
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DataError(f'{file}: not a list of videos as CARL writes it ({one_line(error)})') from None
    return videos, missing


class Unpickler(pickle.Unpickler):
    """A pickle may call what it can name. This one knows only the names that make arrays and tensors."""
    known = {
        ('collections', 'OrderedDict'): collections.OrderedDict,
        ('_codecs', 'encode'): lambda text, _: text.encode('latin1'),
        ('numpy', 'ndarray'): None, ('numpy', 'dtype'): np.dtype,
        ('torch._utils', '_rebuild_tensor_v2'): torch.zeros(1).__reduce_ex__(2)[0],
        # torch's own function of this name unpickles the bytes of a tensor without restriction
        ('torch.storage', '_load_from_bytes'): lambda data: torch.load(io.BytesIO(data), weights_only=True)}
    for numpy in ('numpy.core', 'numpy._core'):  # its name before and after NumPy 2
        known |= {(f'{numpy}.multiarray', '_reconstruct'): lambda *_: np.empty(0),
                  (f'{numpy}.multiarray', 'scalar'): np.int64(1).__reduce__()[0],
                  (f'{numpy}.numeric', '_frombuffer'): np.zeros(1).__reduce_ex__(5)[0]}

    def find_class(self, module, name):
        if (module, name) not in self.known:
            raise DataError(f'holds {module}.{name}, not just containers, numbers, strings, arrays, tensors')
        return self.known[module, name]


def read_pickle(path):
    """Containers, numbers, strings, NumPy arrays and torch tensors from a pickle that cannot run code."""
    try:
        with open(path, 'rb') as file:
            return Unpickler(file).load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f'{path}: refused, {one_line(error)}') from None
