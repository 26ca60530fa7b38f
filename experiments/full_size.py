"""Checkpoints of CARL and of the MV-Former release at full size, against their authors' numbers.

    python experiments/full_size.py                 # about a minute and 2.5 GB of memory

No weights are stored: each is drawn from the name of its key, and the authors' code was given the
same. The checkpoints are written as theirs are, read by evaluate.py's way, and run on a drawn clip.
Printed: the largest error of each output, relative to its largest magnitude; time; memory.
"""
import argparse
import pickle
import resource
import sys
import tempfile
import time
import types
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))
import model
from backbones.weights import load_strictly, read_file
from loss import projection_head

GOLDEN = Path(__file__).parent.parent / 'tests' / 'golden'
CARL = dict(MODEL=dict(EMBEDDER_TYPE='transformer', BASE_MODEL=dict(LAYER=3, OUT_CHANNEL=2048),
                       EMBEDDER_MODEL=dict(FLATTEN_METHOD='max_pool', NUM_HEADS=8)))
MVF = dict(MODEL=dict(EMBEDDER_TYPE='transformer', BASE_MODEL=dict(LAYER=12, OUT_CHANNEL=2304),
                      EMBEDDER_MODEL=dict(
                          FLATTEN_METHOD='max_pool', NUM_HEADS=8, FUSION_TYPE='smart',
                          SMART_FEATS='3,7,11', SMART_TOKENS=3, SMART_ONE_HOT=True,
                          SMART_FINAL='one')))


# ----------------------------------------------------------------- weights without a file

def shapes_in(name):
    """{key: shape, or None for an integer scalar} of a list of keys in tests/golden."""
    shapes = {}
    for line in (GOLDEN / f'{name}_keys.txt').read_text().splitlines():
        if '\t' in line:
            key, shape = line.split('\t')
            is_integer = shape.endswith('int64')
            shapes[key] = None if is_integer else tuple(map(int, shape.split('x')))
    return shapes


def draw(key, shape):
    """The weight of a key: the same wherever it is drawn."""
    if shape is None:
        return torch.tensor(0)
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


def draw_all(shapes):
    return OrderedDict((key, draw(key, shape)) for key, shape in shapes.items())


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


def save_released(path, state, config, epoch=299):
    """A checkpoint as CARL and the MV-Former release write it, without the package easydict."""
    if config is not None:
        config = EasyDict(config | dict(args=argparse.Namespace(local_rank=0), NUM_GPUS=4))
    before = sys.modules.get('easydict')
    sys.modules['easydict'] = types.ModuleType('easydict')
    sys.modules['easydict'].EasyDict = EasyDict
    weight = torch.nn.Parameter(torch.zeros(1))
    content = dict(epoch=epoch, model_state=OrderedDict(state),
                   optimizer_state=torch.optim.Adam([weight]).state_dict())
    if config is not None:
        content['cfg'] = config
    try:
        torch.save(content, path, pickle_module=pickle)
    finally:
        del sys.modules['easydict']
        if before:
            sys.modules['easydict'] = before


# ----------------------------------------------------------------------------- the comparison

def embedded(network, images):
    """Embeddings before L2 (T, D), entities (T, N, d), their attention (T, N, P) of a clip."""
    entities, attention = network.entities(images)
    return network.mtf(entities[None])[0], entities, attention


def projected(path, z):
    """Embeddings (T, D) through the checkpoint's projection head."""
    trained = model.load_checkpoint(path)['model']
    head = projection_head(z.shape[-1]).eval()
    load_strictly(head, {key.removeprefix('head.'): value for key, value in trained.items()
                         if key.startswith('head.')}, path)
    return F.normalize(head(z), dim=-1)


def compare(name, got, expected):
    error = (got - torch.from_numpy(expected)).abs().max().item() / abs(expected).max()
    print(f'  {name:20} {error:.1e}{"" if error <= 1e-5 else "   TOO LARGE"}')
    return error <= 1e-5


def carl(folder):
    """Penn Action (3 blocks, T 80) and Pouring (2 blocks, T 240)."""
    golden = np.load(GOLDEN / 'carl_checkpoint.npz')
    shapes = shapes_in('carl')
    state, images = draw_all(shapes), drawn_clip(6)
    good = check_recipe(golden, state, images)
    save_released(folder / 'penn.pth', state, CARL | dict(TRAIN=dict(NUM_FRAMES=80)))
    fewer = {key: value for key, value in state.items() if 'enc_layers.2.' not in key}
    save_released(folder / 'pouring.pth', fewer, CARL | dict(TRAIN=dict(NUM_FRAMES=240)))
    for name in 'penn', 'pouring':
        network = model.load_model(folder / f'{name}.pth')
        settings = model.load_checkpoint(folder / f'{name}.pth')['settings']
        print(f'CARL, {name}: {describe(settings)}')
        start = time.time()
        z, entities, _ = embedded(network, images)
        seconds = time.time() - start
        if name == 'penn':
            good &= compare('pooled', entities[:, 0], golden['penn/pooled'])
            head = projected(folder / 'penn.pth', z)
            good &= compare('projection', head, golden['penn/projection'])
        good &= compare('embedding', z, golden[f'{name}/embedding'])
        good &= compare('unit length', network(images[None])[0], golden[f'{name}/unit'])
        print(f'  {seconds:.1f} s for {len(images)} frames')
    return good


def mvf(folder):
    """penn_mvf: DINO ViT-B/8, blocks 4, 8, 12, three entities, T 80."""
    golden = np.load(GOLDEN / 'mvf_checkpoint.npz')
    state, images = draw_all(shapes_in('mvf')), drawn_clip(4)
    good = check_recipe(golden, state, images)
    save_released(folder / 'mvf.pth', state, MVF | dict(TRAIN=dict(NUM_FRAMES=80)))
    network = model.load_model(folder / 'mvf.pth')
    settings = model.load_checkpoint(folder / 'mvf.pth')['settings']
    print(f'MV-Former, penn_mvf: {describe(settings)}')
    start = time.time()
    z, entities, attention = embedded(network, images)
    seconds = time.time() - start
    features = network.features(images)
    patches = features.patches.unflatten(1, (28, 28))
    for name, got in [('patch_0_0', patches[:, 0, 0]), ('patch_13_20', patches[:, 13, 20]),
                      ('cls', features.cls), ('attention', attention), ('entities', entities),
                      ('embedding', z), ('unit', network(images[None])[0])]:
        good &= compare(name, got, golden[f'penn_mvf/{name}'])
    print(f'  {seconds:.1f} s for {len(images)} frames')
    return good


def check_recipe(golden, state, images):
    """Are weights and clip drawn as they were for the authors' code?"""
    good = True
    for key, expected in golden.items():
        if key == 'check/clip':
            good &= np.array_equal(images[:, :, 100, 100:104], expected)
        elif key.startswith('check/'):
            good &= np.array_equal(state[key.removeprefix('check/')].flatten()[:4], expected)
    if not good:
        print('the weights or the clip are drawn otherwise than they were')
    return good


def describe(settings):
    shown = ('backbone', 'layers', 'pool', 'entities', 'depth', 'frames', 'readout', 'embedding')
    return ' '.join(f'{name}={settings[name]}' for name in shown)


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        good = carl(Path(folder))
        good &= mvf(Path(folder))
        start = time.time()
        read_file(Path(folder) / 'mvf.pth')
        print(f'{time.time() - start:.1f} s to read the file of MV-Former')
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
    print(f'{peak:.1f} GB of memory at most')
    sys.exit(0 if good else 1)


if __name__ == '__main__':
    main()
