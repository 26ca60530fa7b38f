"""The lists that CARL's authors prepared, read by a pickle reader that cannot run code.

What most people have of Penn Action, Pouring and FineGym: for each split a pickled list of dicts
(name, video_file, frame_label), with several actions in a pair with the indices of each action's.
"""
import io
import pickle
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from datasets.labels import checked
from datasets.layout import refused
from datasets.video import video_file


def carl(train, val, clips, size, classes, fit=False):
    """-> videos, [missing]. train, val: the pickles; clips: the folder of video files.

    classes: {action: number of its classes} in the order of the lists, or one with action None.
    fit: sample the more numerous of frames and labels down, as for Penn Action.
    """
    videos = {'train': [], 'val': []}
    missing = []
    for split, file in (('train', train), ('val', val)):
        for action, name, video, labels in entries(file, list(classes)):
            if not (clips / video).exists():
                missing.append(f'{clips.name}/{video} ({split})')
                continue
            annotate = partial(checked, f'{file}: {name}', labels, classes[action])
            videos[split].append(video_file(
                name, clips / video, size, action=action, annotate=annotate, fit=fit))
    return videos, missing


def entries(file, actions):
    """Yield (action, name, file, labels) of a pickled list; UserError if it is no such list."""
    content = read_pickle(file)
    with refused(f'{file}: not a list of videos as CARL writes it'):
        groups = [range(len(content))]
        if len(actions) > 1:
            content, groups = content
        for action, group in zip(actions, groups, strict=True):
            for index in group:
                entry = content[int(index)]
                labels = np.asarray(entry['frame_label'])
                yield action, str(entry['name']), Path(entry['video_file']).name, labels


def read_pickle(path):
    """Containers, numbers, strings, arrays and tensors from a pickle; nothing in it runs."""
    with refused(f'{path}: refused'), open(path, 'rb') as file:
        return Unpickler(file).load()


def load_tensor(data):
    """In place of torch's own function, which would unpickle these bytes without restriction.
    A tensor that lay on a GPU comes to the CPU."""
    return torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)


KNOWN = {    # what makes arrays and tensors, by the names by which pickles call it
    'collections.OrderedDict': OrderedDict,
    # by which old protocols write bytes; its other codecs do more
    '_codecs.encode': lambda text, _encoding: text.encode('latin1'),
    'numpy.ndarray': None,  # only ever an argument of _reconstruct
    'numpy.dtype': np.dtype,
    'torch._utils._rebuild_tensor_v2': torch.zeros(1).__reduce_ex__(2)[0],
    'torch.storage._load_from_bytes': load_tensor,
    # NumPy's own would make what its first argument names; the state follows
    'numpy.core.multiarray._reconstruct': lambda *_: np.empty(0),
    'numpy.core.multiarray.scalar': np.int64(1).__reduce__()[0],
    'numpy.core.numeric._frombuffer': np.zeros(1).__reduce_ex__(5)[0]}


class Unpickler(pickle.Unpickler):
    """A pickle may call what it can name; this one can name what KNOWN lists, nothing else."""

    def find_class(self, module, name):
        name = f'{module}.{name}'.replace('numpy._core', 'numpy.core')    # as before NumPy 2
        if name not in KNOWN:
            raise ValueError(f'holds {name}, no container, number, string, array or tensor')
        return KNOWN[name]
