"""Penn Action as released, with TCC's phase labels, or as CARL's authors prepared it (section 4).

    frames/0001/000001.jpg ...                      the release: a folder of JPEGs a video
    labels/0001.mat                                 its annotation, of which the actor's box is used
    penn_action_labels/train/<action>/0001_...npy   TCC's: one integer a frame; the folder decides
                                                    split and action
"""
from functools import partial

import numpy as np
import torch

from datasets.carl import carl
from datasets.images import frame_folder
from datasets.labels import read_labels
from datasets.layout import CARL, TCC, DataSet, layout, refused
from running.errors import UserError

SOURCE = (
    'Frames: dreamdragon.github.io/PennAction. Phase labels, penn_action_labels/: '
    f'{TCC}. Or all of it prepared, as train.pkl, val.pkl and videos/: {CARL}')

ACTIONS = {  # in the order of CARL's lists: classes, published train videos, val videos
    'baseball_pitch': (4, 103, 63),
    'baseball_swing': (3, 113, 57),
    'bench_press': (2, 69, 71),
    'bowl': (3, 134, 85),
    'clean_and_jerk': (6, 40, 42),
    'golf_swing': (3, 87, 77),
    'jumping_jacks': (4, 56, 56),
    'pushup': (2, 102, 106),
    'pullup': (2, 98, 101),
    'situp': (2, 50, 50),
    'squat': (4, 111, 115),
    'tennis_forehand': (3, 79, 74),
    'tennis_serve': (4, 98, 69)}
CLASSES = {action: numbers[0] for action, numbers in ACTIONS.items()}
PUBLISHED = {action: numbers[1:] for action, numbers in ACTIONS.items()}


def penn(data, size):
    """-> videos, [missing]: every labelled video of the 13 actions. size: pixels a side."""
    number, found = layout(
        SOURCE, data,
        ('frames', 'penn_action_labels/train', 'penn_action_labels/val'),
        ('train.pkl', 'val.pkl', 'videos'))
    if number == 1:
        return carl(*found, size, CLASSES, fit=True)
    frames, *label_folders = found
    videos = {'train': [], 'val': []}
    missing = []
    for split, labels in zip(videos, label_folders):
        for action, classes in CLASSES.items():
            # the folder's name may have an ending: pushups, bowling
            for file in sorted(labels.glob(f'{action}*/*.npy')):
                name = file.name[:4]
                if not (frames / name).exists():
                    missing.append(f'frames/{name} ({split}, {action})')
                    continue
                # where frames and labels differ in number, the more numerous are sampled down
                videos[split].append(frame_folder(
                    name, frames / name, size, action=action, fit=True,
                    annotate=partial(read_labels, file, classes=classes),
                    mask=partial(actor_mask, data / 'labels' / f'{name}.mat', size)))
    return videos, missing


def actor_mask(path, size, indices):
    """The actor's box in a Penn Action .mat file -> bool (n, size, size), empty in frames beyond
    the last box. UserError: there is none. SciPy reads no MATLAB 7.3, which is HDF5, and says so.
    """
    from scipy.io import loadmat
    with refused(f'{path}: cannot be read as a Penn Action annotation'):
        mat = loadmat(path, variable_names=['bbox', 'dimensions'])
        height, width = np.asarray(mat['dimensions'], float).ravel()[:2]
        boxes = np.asarray(mat['bbox'], float).reshape(-1, 4)           # x1, y1, x2, y2
    if min(indices) >= len(boxes):
        raise UserError(f'{path}: {len(boxes)} boxes for {max(indices) + 1} frames')
    boxes = np.pad(boxes, [(0, max(indices)), (0, 0)]) / (width, height, width, height)
    x1, y1, x2, y2 = boxes[indices].T[:, :, None]                   # each (n, 1)
    pixel = (np.arange(size) + 0.5) / size                          # (S,): centres of the pixels
    across = (x1 <= pixel) & (pixel < x2)                           # (n, S)
    down = (y1 <= pixel) & (pixel < y2)                             # (n, S)
    return torch.from_numpy(down[:, :, None] & across[:, None, :])  # (n, S, S)


ROW = DataSet(
    penn, SOURCE, stride=2,
    published=PUBLISHED | {'all': (1140, 966)},
    paper=dict(
        classification=(.9421, .0004), progression=(.931, .006),
        tau=(.989, .002), ap5=(.9299, .0006)))
