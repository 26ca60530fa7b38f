"""Checkpoints of CARL and of the MV-Former release at full size, against their authors' numbers.

    python experiments/full_size.py                 # about a minute and 2.5 GB of memory

No weights are stored: each is drawn from the name of its key, and the authors' code was given the
same. The checkpoints are written as theirs are, read by evaluate.py's way, and run on a drawn clip.
Printed: the largest error of each output, relative to its largest magnitude.
"""
import argparse
import pickle
import sys
import tempfile
import types
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))
import model
from loss import projection_head

GOLDEN = Path(__file__).parent.parent / 'tests' / 'golden'
CARL = dict(FLATTEN_METHOD='max_pool', NUM_HEADS=8)
MVF = CARL | dict(FUSION_TYPE='smart', SMART_FEATS='3,7,11', SMART_TOKENS=3, SMART_ONE_HOT=True,
                  SMART_FINAL='one')


# ----------------------------------------------------------------- weights without a file

def drawn_weights(name):
    """A state dict by a list of keys and shapes in tests/golden."""
    state = OrderedDict()
    for line in (GOLDEN / f'{name}_keys.txt').read_text().splitlines():
        if '\t' in line:
            key, shape = line.split('\t')
            is_integer = shape.endswith('int64')
            state[key] = torch.tensor(0) if is_integer else draw(key, shape.split('x'))
    return state


def draw(key, shape):
    """The weight of a key: the same wherever it is drawn."""
    shape = tuple(map(int, shape))
    n = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    last = key.split('.')[-1]
    if last == 'running_var':
        n = 1 + 0.1 * abs(n)
    elif len(shape) == 1 and last == 'weight':
        n = 1 + 0.1 * n
    elif len(shape) == 1:                                 # running_mean among them
        n = 0.1 * n
    elif len(shape) == 3:
        n = 0.5 * n
    else:
        n = n / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(n.astype(np.float32))


def drawn_clip(frames):
    """(F, 3, 224, 224), as it enters the model."""
    random = np.random.default_rng(frames)
    coarse = random.standard_normal((frames, 3, 7, 7)).repeat(32, 2).repeat(32, 3)
    fine = random.standard_normal((frames, 3, 224, 224))
    return torch.from_numpy((coarse + 0.25 * fine).astype(np.float32))


# --------------------------------------------------------------- files as the authors' are

class EasyDict(dict):
    """What easydict pickles: a dict whose entries are also attributes."""

    def __init__(self, entries):
        super().__init__()
        for key, value in entries.items():
            self[key] = EasyDict(value) if isinstance(value, dict) else value
        self.__dict__.update(self)


EasyDict.__module__ = 'easydict'


def save_released(path, state, config):
    """A checkpoint as CARL and the MV-Former release write it, without the package easydict."""
    before = sys.modules.get('easydict')
    sys.modules['easydict'] = types.ModuleType('easydict')
    sys.modules['easydict'].EasyDict = EasyDict
    weight = torch.nn.Parameter(torch.zeros(1))
    content = dict(epoch=299, model_state=OrderedDict(state),
                   optimizer_state=torch.optim.Adam([weight]).state_dict(),
                   cfg=EasyDict(config | dict(args=argparse.Namespace(local_rank=0), NUM_GPUS=4)))
    try:
        torch.save(content, path, pickle_module=pickle)
    finally:
        del sys.modules['easydict']
        if before:
            sys.modules['easydict'] = before


# ----------------------------------------------------------------------------- the comparison

def compare(name, state, embedder, frames, images, golden):
    """Write and load a checkpoint, run it on the clip, and compare with `golden`, {key: numbers} of
    it -> is every output near?"""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f'{name}.pth')
        save_released(path, state, dict(MODEL=dict(EMBEDDER_MODEL=embedder),
                                        TRAIN=dict(NUM_FRAMES=frames)))
        network = model.load_model(path)
        checkpoint = model.load_checkpoint(path)
        network.head = projection_head(checkpoint['settings']['embedding']).eval()
        model.load_trained(network, checkpoint, path)
    print(name)
    entities, attention = network.entities(images)
    z = network.mtf(entities[None])[0]                    # (T, D)
    features = network.features(images)
    grid = features.patches.unflatten(1, (network.backbone.grid, -1))
    last = network.backbone.grid - 1
    outputs = dict(cls=features.cls, attention=attention, entities=entities, pooled=entities[:, 0],
                   patch_0_0=grid[:, 0, 0], patch_13_20=grid[:, min(13, last), min(20, last)],
                   embedding=z, unit=network(images[None])[0],
                   projection=F.normalize(network.head(z), dim=-1))
    good = True
    for key, expected in golden.items():
        error = (outputs[key] - torch.from_numpy(expected)).abs().max() / abs(expected).max()
        good &= bool(error <= 1e-5)
        print(f'  {key:20} {error:.1e}{"" if error <= 1e-5 else "   TOO LARGE"}')
    return good


def checked(name, frames):
    """-> weights and clip as they were drawn for the authors' code, the authors' numbers."""
    state = drawn_weights(name)
    images = drawn_clip(frames)
    golden = {}
    for key, numbers in np.load(GOLDEN / f'{name}_checkpoint.npz').items():
        checkpoint, _, output = key.partition('/')
        golden.setdefault(checkpoint, {})[output] = numbers
    for key, numbers in golden['check'].items():
        ours = images[:, :, 100, 100:104] if key == 'clip' else state[key].flatten()[:4]
        if not np.array_equal(ours, numbers):
            sys.exit(f'{key}: the weights or the clip are drawn otherwise than they were')
    return state, images, golden


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    state, images, golden = checked('carl', 6)
    good = compare('CARL, Penn Action', state, CARL, 80, images, golden['penn'])
    fewer = {key: value for key, value in state.items() if 'enc_layers.2.' not in key}
    good &= compare('CARL, Pouring', fewer, CARL, 240, images, golden['pouring'])
    state, images, golden = checked('mvf', 4)
    good &= compare('MV-Former, penn_mvf', state, MVF, 80, images, golden['penn_mvf'])
    sys.exit(0 if good else 1)


if __name__ == '__main__':
    main()
