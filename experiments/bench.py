"""Where the time goes on the machine at hand: the backbone, a step, and what stands around them.

    python experiments/bench.py                    all parts, some minutes on a CPU
    python experiments/bench.py --only lstp scl    some of them
    python experiments/bench.py --tiny             all, as small as can be: do they run?
    python experiments/bench.py --beside DIR       other jobs, here and in another checkout

A time is the median of runs after a warm-up; what is compared takes turns (speed/measure.py says
what is measured). On CUDA the sizes are those of Penn Action (paper, section 4.1) in bfloat16; a
CPU, in one thread, sees smaller ones in float32, as the rows say. The forms that the code is
compared with are in speed/plain.py and speed/released.py.
"""
import argparse
import os
import platform
import sys
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault('OMP_NUM_THREADS', '1')    # before NumPy and PyTorch are imported
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from speed import beside, films, fusing, measure, scores, training, trust


class Sizes(NamedTuple):
    """How large the parts are."""
    runs: int             # of which the median is taken
    product: int          # n of the matrix product n x n that is the ceiling
    backbones: tuple      # (name, frames at once)
    image_size: int       # pixels a side; None: what each backbone is used at
    steps: tuple          # (data set, what differs from its settings)
    batches: tuple        # videos a step
    fed: tuple            # as steps, but decoded from disk while training
    fed_steps: int
    workers: tuple
    film: int             # frames of the films that are decoded
    long: int             # frames of the long video
    patches: tuple        # frames, P, L*C that LSTP sees
    pairs: tuple          # videos, T, D that SCL sees
    merge: tuple          # T, N of token merging
    train: int            # videos that the metrics see
    val: int
    lengths: tuple        # frames: growth of the MTF
    most_tokens: int      # that one video may have on a CPU
    videos: tuple         # growth of evaluation


PENN = ('penn', {})
GPU = Sizes(
    runs=15, product=8192, image_size=None, film=300, long=5000,
    backbones=(('dino_vitb8', 160), ('dino_vitb16', 640), ('dino_vits8', 160),
               ('dinov2_vitb14', 320), ('dinov3_vitb16', 640)),
    steps=(PENN, ('penn', dict(backbone='dino_vitb16')), ('penn', dict(backbone='dino_vits8')),
           ('penn', dict(backbone='dinov2_vitb14')), ('penn', dict(backbone='dinov3_vitb16'))),
    batches=(1, 2, 4, 8, 16), fed=(PENN,), fed_steps=40, workers=(4, 8, 16),
    patches=(160, 784, 2304), pairs=(4, 80, 128), merge=(240, 6), train=102, val=106,
    lengths=(80, 240, 1000, 5000), most_tokens=30_000, videos=(10, 100, 1000))
SMALL = ('penn', dict(backbone='dino_vits16', frames=4, batch=1))
CPU = GPU._replace(
    runs=7, product=2048, long=1000,
    backbones=(('tiny', 32), ('dino_vits16', 4)),
    steps=(('synthetic', {}), SMALL), batches=(1, 2, 4, 8), fed=(SMALL,), fed_steps=8,
    workers=(1, 2), patches=(8, 784, 2304), most_tokens=6000, videos=(10, 100, 400))
TINY_STEP = ('synthetic', dict(frames=4, batch=2, image_size=12, layers=[1], fc_width=16,
                               entity_width=16))
TINY = Sizes(
    runs=1, product=64, image_size=12, film=20, long=70,
    backbones=(('tiny', 2),), steps=(TINY_STEP,), batches=(1, 2), fed=(TINY_STEP,), fed_steps=1,
    workers=(1,), patches=(2, 4, 8), pairs=(2, 6, 8), merge=(8, 2), train=8, val=6,
    lengths=(4, 9), most_tokens=20, videos=(3, 5))

PARTS = {
    'backbone': training.backbones,
    'step': training.steps,
    'released': training.beside_released,
    'batch': training.batches,
    'fed': training.feeding,
    'decoding': films.decoding,
    'lstp': fusing.pooling,
    'scl': scores.contrast,
    'earlier': scores.earlier,
    'merge': fusing.merging,
    'growth': fusing.growth,
    'precision': trust.precision,
    'long': trust.long_video,
}


def machine():
    device = torch.cuda.get_device_name() if measure.CUDA else 'no GPU'
    load = os.getloadavg()[0]
    return (f'{device}; {os.cpu_count()} cores {platform.machine()}, '
            f'{torch.get_num_threads()} thread, load {load:.1f}; '
            f'Python {platform.python_version()}, PyTorch {torch.__version__}')


def main(argv=None):
    parser = argparse.ArgumentParser(description='Speed and memory on the machine at hand.')
    parser.add_argument('--only', nargs='+', choices=PARTS, default=PARTS, metavar='PART',
                        help=', '.join(PARTS))
    parser.add_argument('--beside', metavar='DIR', help='instead: jobs here and in another one')
    parser.add_argument('--tiny', action='store_true', help='small sizes: do all parts run?')
    arguments = parser.parse_args(argv)
    sizes = GPU if measure.CUDA else CPU
    if arguments.tiny:
        sizes = TINY
    begun = time.perf_counter()
    print(machine())
    if arguments.beside:
        return beside.compare_checkouts(arguments.beside)
    for part in arguments.only:
        torch.manual_seed(0)
        PARTS[part](sizes)
    print(f'{time.perf_counter() - begun:.0f} s in all')


if __name__ == '__main__':
    main()
