"""Penn Action as released, or as CARL's authors prepared it."""
import itertools
import os
from functools import partial

import numpy as np
import torch

from datasets.carl import carl
from datasets.layout import CARL, TCC, DataSet, layout
from datasets.images import frame_folder
from datasets.video import DataError, one_line, read_labels


SOURCE = (f'Frames: dreamdragon.github.io/PennAction. Phase labels, penn_action_labels/: {TCC}. '
          f'Or all of it prepared, as train.pkl, val.pkl and videos/: {CARL}')
PENN = {  # action: classes, published train and val videos; in the order of CARL's lists
    'baseball_pitch': (4, 103, 63), 'baseball_swing': (3, 113, 57), 'bench_press': (2, 69, 71),
    'bowl': (3, 134, 85), 'clean_and_jerk': (6, 40, 42), 'golf_swing': (3, 87, 77),
    'jumping_jacks': (4, 56, 56), 'pushup': (2, 102, 106), 'pullup': (2, 98, 101), 'situp': (2, 50, 50),
    'squat': (4, 111, 115), 'tennis_forehand': (3, 79, 74), 'tennis_serve': (4, 98, 69)}

def penn(data, size):
    """Penn Action as released, with TCC's phase labels, whose folders decide split and action; or CARL's."""
    number, found = layout(SOURCE, data, ('frames', 'penn_action_labels/train', 'penn_action_labels/val'),
                           ('train.pkl', 'val.pkl', 'videos'))
    if number == 1:
        return carl(*found, size, [classes for classes, _, _ in PENN.values()], list(PENN), fit=True)
    videos, missing, there = {'train': [], 'val': []}, [], set(os.listdir(found[0]))
    for split, action in itertools.product(videos, PENN):  # its folder may have an ending: pushups, bowling
        for file in sorted(data.glob(f'penn_action_labels/{split}/{action}*/*.npy')):
            name = file.name[:4]
            if name in there:
                videos[split].append(frame_folder(
                    name, found[0] / name, size, action=action, fit=True,
                    annotate=partial(read_labels, file, PENN[action][0]),
                    mask=partial(penn_actor, data / 'labels' / f'{name}.mat', size)))
            else:
                missing.append(f'frames/{name} ({split}, {action})')
    return videos, missing


def penn_actor(path, size, indices):
    """The actor's box in a Penn Action .mat file, as a mask over frames squashed to size x size."""
    from scipy.io import loadmat
    if not path.exists():
        return None
    try:
        mat = loadmat(path, variable_names=['bbox', 'dimensions'])
        height, width = np.asarray(mat['dimensions'], float).ravel()[:2]
        box = np.asarray(mat['bbox'], float).reshape(-1, 4)[indices] / (width, height, width, height)
    except Exception as error:  # SciPy's reader raises a dozen types on a broken file
        raise DataError(f'{path}: cannot be read as a Penn Action annotation ({one_line(error)})') from None
    x1, y1, x2, y2 = box.T[:, :, None]                                                  # each (n, 1), 0 to 1
    pixel = (np.arange(size) + 0.5) / size
    across, down = (x1 <= pixel) & (pixel < x2), (y1 <= pixel) & (pixel < y2)           # (n, S)
    return torch.from_numpy(down[:, :, None] & across[:, None, :])                      # (n, S, S)


ROW = DataSet(penn, SOURCE, stride=2,
              published={action: (train, val) for action, (_, train, val) in PENN.items()} | {'all': (1140, 966)},
              paper=dict(classification=(.9421, .0004), progression=(.931, .006), tau=(.989, .002), ap5=(.9299, .0006)))
