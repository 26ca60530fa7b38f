"""What it costs the fixed-width baseline to be trained on mixed-up views, on the synthetic set, over three seeds.

The reference implementation runs clips of more than 40 frames through its backbone in chunks and, for this baseline,
joins them along the wrong axis: the first half of "view a" are the first halves of both views, the rest their second
halves. Times, padding and loss know nothing of it; evaluation is right. Here a clip has two chunks, as at its T = 80.

    python experiments/fwb_mixing.py
"""
import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from einops import rearrange

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
import train


def mixed(*args):
    """data.views, (B, 2, T, 3, S, S), with the halves of the two views exchanged as described."""
    return rearrange(views(*args), 'b view (half t) c y x -> b half (view t) c y x', half=2)


views = data.views
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--out', default='runs/fwb_mixing', help='folder of the six runs')
parser.add_argument('--data-seed', type=int, default=1)
parser.add_argument('--epochs', type=int, default=train.preset('synthetic').epochs)
args = parser.parse_args()
names, rows = ('classification', 'progression', 'tau', 'ap5'), {}
for name, data.views in {'right': views, 'mixed': mixed}.items():
    for seed in range(3):
        settings = replace(train.preset('synthetic'), pool='fwb', epochs=args.epochs, seed=seed, data_seed=args.data_seed,
                           out=f'{args.out}/{name}{seed}')
        train.train(settings.resolve())
        last = json.loads(Path(settings.out, 'log.jsonl').read_text().splitlines()[-1])
        rows.setdefault(name, []).append([last[metric] for metric in names])
for name, values in rows.items():
    print(name, '  '.join(f'{metric} {mean:.3f} ± {2 * deviation:.3f}' for metric, mean, deviation in
                          zip(names, np.mean(values, 0), np.std(values, 0))))
