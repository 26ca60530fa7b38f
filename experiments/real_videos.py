"""Real videos: the rows of Tables 3 and 6 on a folder of labelled clips, with controls.

    python experiments/real_videos.py --data DIR --weights FILE --epochs 40 --lr 1e-3 --seeds 2-9

The frozen backbone sees each clip once (running/features.py); every run trains pooler, MTF and
projection head on that as train.py does, scores itself, and adds a line to --out: a run that is
there already is not made again, and the tables are of all that is there. `bottom`: how many frames
the alignment of two val clips (pictures/align.py) is off at the first frame of the phase --moment,
mean over all ordered pairs. Controls: the clock; `untrained`; `frozen`, the backbone's own
features, mean of the last layer's patches or CLS, without MV-Former.
"""
import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
import train
from experiment import (METRICS, all_runs, clean, embed, make_model, numbers, print_table, rows_of,
                        score, seen_by, train_row)
from model import build_model
from pictures.align import by_clock, match
from running.features import see
from running.processes import pick_device

LAYERS = (4, 8, 12)
VERSIONS = 4                         # augmented, of each train video
ROWS = rows_of(LAYERS)
ROWS['untrained'] = ROWS['lstp-3']
ROWS['frozen, patches'] = ROWS['avg']
ROWS['frozen, cls'] = ROWS['cls']
FROZEN = {'frozen, patches': 0, 'frozen, cls': -1}    # which of a reduced frame's two tokens


def scores(videos, moment, embeddings=None):
    """{split: [Video]}, {split: [(n, D)]}, without them of the clock -> {metric: value}."""
    bottom = misses(videos['val'], moment, embeddings and embeddings['val'])
    return score('folder', videos, embeddings) | dict(bottom=bottom)


def misses(videos, moment, embeddings):
    """How many frames the alignment of two videos is off where the phase begins, mean over those
    pairs in which it does, later than with the video. Without embeddings: by the clock."""
    begins = {}
    for i, video in enumerate(videos):
        found = np.flatnonzero(video.labels == moment)
        if len(found) and found[0] > 0:
            begins[i] = int(found[0])
    errors = []
    for i, j in itertools.permutations(begins, 2):
        if embeddings:
            path = match(embeddings[i], embeddings[j])
        else:
            path = by_clock(videos[i].frames, videos[j].frames)
        errors.append(abs(int(path[begins[i]]) - begins[j]))
    return float(np.mean(errors))


def run(name, videos, backbone, settings, moment, device):
    """A row, trained and scored, or a control, which has learned nothing from these videos."""
    if name == 'clock':
        return scores(videos, moment)
    videos = seen_by(ROWS[name], videos, LAYERS)
    if name in FROZEN:
        z = {}
        for split, members in videos.items():
            tokens = [clean(video)[:, 0, FROZEN[name]] for video in members]
            z[split] = [F.normalize(each, dim=-1).numpy() for each in tokens]
        return scores(videos, moment, z)
    network = make_model(ROWS[name], settings, backbone).to(device)
    found = {}
    if name != 'untrained':
        found['loss'] = train_row(network, videos['train'], settings)
    z, _ = embed(network, videos)
    return found | scores(videos, moment, z)


def parse():
    parser = argparse.ArgumentParser(description='Tables 3 and 6 on a folder of labelled clips.')
    parser.add_argument('--data', required=True, help='a folder set with train/ and val/')
    parser.add_argument('--backbone', default='dinov2_vits14')
    parser.add_argument('--weights')
    parser.add_argument('--features', default='runs/real_videos/features')
    parser.add_argument('--seeds', type=numbers, default='2-9')
    parser.add_argument('--rows', default='lstp-3;cls;last-3;avg;max;last-1;fwb-3',
                        help='separated by ;')
    parser.add_argument('--epochs', type=int, default=20)
    parser.add_argument('--lr', type=float, default=3e-4)
    parser.add_argument('--moment', type=int, default=2, help='the phase that begins at it')
    parser.add_argument('--out', type=Path, default='runs/real_videos/results.jsonl')
    return parser.parse_args()


def main():
    args = parse()
    device = pick_device()
    s = train.preset('folder')
    alike = dict(epochs=args.epochs, lr=args.lr)
    s.backbone = args.backbone
    s.epochs = args.epochs
    s.lr = args.lr
    model = build_model(dict(backbone=args.backbone, weights=args.weights, layers=LAYERS,
                             image_size=s.image_size)).to(device)
    videos = data.load('folder', args.data, image_size=s.image_size)
    strength = dict(crop=s.crop, jitter=s.jitter, hue=s.hue)
    videos = see(model, videos, args.features, VERSIONS, strength, device=device)

    def make(name, seed):
        s.seed = seed
        return run(name, videos, model.backbone, s, args.moment, device)

    all_runs(args.out, alike, args.rows.split(';') + ['untrained'], args.seeds, make)
    runs = all_runs(args.out, alike, ['clock', *FROZEN], [0], make)
    print_table(runs, (*METRICS, 'bottom'))


if __name__ == '__main__':
    main()
