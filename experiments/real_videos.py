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
import copy
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
import evaluate
import train
from backbones.build import to_half
from evaluation.embedding import EmbeddedVideo
from experiment import numbers, print_difference
from loss import OBJECTIVES
from model import build_model
from pictures.align import by_clock, match
from running.features import SeenVideo, see
from running.processes import half_dtype, on_device, pick_device

METRICS = ('classification', 'progression', 'tau', 'ap5', 'bottom')
LAYERS = [4, 8, 12]
VERSIONS = 4                         # augmented, of each train video
BATCH = 4
ROWS = {                             # pooler, entities, what of the features it looks at
    'LSTP-3, several layers': ('lstp', 3, 'several'),
    'CLS': ('cls', 1, 'cls'),
    'LSTP-3, last layer': ('lstp', 3, 'last'),
    'AVG': ('avg', 1, 'avg'),
    'MAX': ('max', 1, 'max'),
    'LSTP-1, last layer': ('lstp', 1, 'last'),
    'FWB-3': ('fwb', 3, 'max'),
}
CLAIMS = [                           # better row, worse row, where the paper says so
    ('LSTP-3, last layer', 'CLS', 'Table 6: LSTP + MTF over CLS'),
    ('LSTP-3, last layer', 'AVG', 'Table 6: LSTP + MTF over AVG'),
    ('LSTP-3, last layer', 'MAX', 'Table 6: LSTP + MTF over MAX'),
    ('LSTP-1, last layer', 'AVG', 'Table 6: LSTP-1 over AVG'),
    ('CLS', 'AVG', 'Table 6: CLS over AVG'),
    ('AVG', 'MAX', 'Table 6: AVG over MAX'),
    ('LSTP-3, last layer', 'LSTP-1, last layer', 'Tables 3, 6: three entities over one'),
    ('LSTP-3, several layers', 'LSTP-3, last layer', 'Table 3: several layers over the last'),
    ('LSTP-3, last layer', 'FWB-3', 'Table 3: LSTP over the fixed-width baseline'),
    ('LSTP-3, several layers', 'CLS', 'several layers over CLS'),
    ('LSTP-3, several layers', 'AVG', 'several layers over AVG'),
]


# ----------------------------------------------------------------------------------------------
# What a row looks at, in memory

class Reduced(SeenVideo):
    """A seen video in memory, of which a row's pooler gets only what it looks at."""

    def features(self, version, indices):
        return self.kept[version][torch.from_numpy(self.positions(indices))]


def reduced(videos, kind):
    """{split: [SeenVideo]} -> the same of Reduced."""
    found = {}
    for split, members in videos.items():
        found[split] = [copy.copy(video) for video in members]
        for video in found[split]:
            every = range(video.frames)
            video.kept = [reduce(video.features(k, every), kind) for k in range(len(video.files))]
            video.__class__ = Reduced
    return found


def reduce(rows, kind):
    """Packed frames (n, 1, P + 1, L*C) -> all of it, the last layer, or one token and CLS."""
    if kind == 'several':
        return rows
    width = rows.shape[-1] // len(LAYERS)
    last = rows[:, :, :-1, -width:]                               # (n, 1, P, C)
    if kind == 'avg':
        last = last.float().mean(2, keepdim=True).half()
    if kind in ('max', 'cls'):                                    # CLS looks at none of them
        last = last.amax(2, keepdim=True)
    return torch.cat([last, rows[:, :, -1:, :width]], 2)


# ----------------------------------------------------------------------------------------------
# One run

def make_model(row, seed, args, backbone):
    """A row's model with fresh weights; `backbone` unpacks what Reduced gives."""
    pool, entities, kind = ROWS[row]
    torch.manual_seed(seed)
    backbone = copy.copy(backbone)
    backbone.channels = backbone.width * (len(LAYERS) if kind == 'several' else 1)
    frames = train.preset('folder').frames
    settings = dict(backbone=args.backbone, pool=pool, entities=entities, frames=frames)
    model = build_model(settings, backbone)
    model.head = OBJECTIVES['scl'].head(128)
    return model.to(args.device)


def train_row(model, videos, seed, args):
    """The loop of train.py without its folder -> mean loss of the last epoch."""
    clips = data.Clips(videos, frames=model.mtf.frames, seed=seed)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, weight_decay=1e-5, fused=True)
    model.train()
    for epoch in range(args.epochs):
        optimizer.param_groups[0]['lr'] = train.learning_rate(args, epoch)
        order = np.random.default_rng([seed, epoch]).permutation(len(videos))
        losses = []
        for start in range(0, len(videos) - BATCH + 1, BATCH):
            batch = data.collate([clips[epoch, int(i)] for i in order[start:start + BATCH]])
            views = torch.stack(list(itertools.chain(*batch['clips'])))
            times, length, valid = on_device(
                [batch[name] for name in ('time', 'length', 'valid')], args.device)
            z = model(views.to(args.device).float(), valid.flatten(0, 1), project=True)
            loss = OBJECTIVES['scl'].loss(z.unflatten(0, (-1, 2)), times, length, valid)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 10)
            optimizer.step()
            losses.append(loss.item())
    model.eval()
    return float(np.mean(losses))


@torch.inference_mode()
def embed(model, videos, device):
    """-> unit-length embeddings [(n, D)] of the videos as they are."""
    found = []
    for video in videos:
        frames = torch.cat(list(video.parts())).to(device).float()
        found.append(model(frames[None])[0].cpu().numpy())
    return found


def frozen(videos, token):
    """-> the backbone's own unit-length features [(n, C)] of videos reduced to 'avg': token 0 is
    the mean of the patches, 1 CLS."""
    found = []
    for video in videos:
        rows = torch.cat(list(video.parts())).float()             # (n, 1, 2, C)
        found.append(F.normalize(rows[:, 0, token], dim=-1).numpy())
    return found


def scores(videos, embeddings, moment, matched=None):
    """{split: [Video]}, {split: [(n, D)]} -> {metric: value}. matched: see misses."""
    embedded = {}
    for split, members in videos.items():
        embedded[split] = []
        for video in members:
            record = EmbeddedVideo(video, video.frames, np.arange(video.frames), video.labels)
            embedded[split].append(record)
    values = evaluate.score('folder', embedded, embeddings)['mean']
    values = {name: values[name] for name in METRICS[:-1]}
    return values | dict(bottom=misses(videos['val'], embeddings['val'], moment, matched))


def misses(videos, embeddings, moment, matched):
    """How many frames the alignment of two videos is off where the phase begins, mean over those
    pairs in which it does, later than with the video. matched(n, m): the alignment by the clock."""
    begins = {}
    for i, video in enumerate(videos):
        found = np.flatnonzero(video.labels == moment)
        if len(found) and found[0] > 0:
            begins[i] = int(found[0])
    errors = []
    for i, j in itertools.permutations(begins, 2):
        if matched:
            path = matched(videos[i].frames, videos[j].frames)
        else:
            path = match(embeddings[i], embeddings[j])
        errors.append(abs(int(path[begins[i]]) - begins[j]))
    return float(np.mean(errors))


def controls(videos, backbone, args):
    """Yields (name, seed, values) of what has learned nothing from these videos."""
    clocks = {}
    for split in videos:
        clocks[split] = [evaluate.clock(video.frames) for video in videos[split]]
    yield 'clock', 0, scores(videos, clocks, args.moment, by_clock)
    small = reduced(videos, 'avg')
    for token, name in enumerate(('patches', 'cls')):
        own = {split: frozen(small[split], token) for split in small}
        yield f'frozen, {name}', 0, scores(videos, own, args.moment)
    for seed in args.seeds:
        model = make_model('LSTP-3, several layers', seed, args, backbone)
        z = {split: embed(model, videos[split], args.device) for split in videos}
        yield 'untrained', seed, scores(videos, z, args.moment)


# ----------------------------------------------------------------------------------------------
# The tables

def print_tables(records):
    """Markdown: mean and standard deviation over the seeds; then each claim."""
    runs = {}
    for record in records:
        runs.setdefault(record['row'], {})[record['seed']] = record
    print('| row | seeds | ' + ' | '.join(METRICS) + ' |')
    print('|---' * (2 + len(METRICS)) + '|')
    for row, by_seed in runs.items():
        cells = [row, f'{len(by_seed)}']
        for metric in METRICS:
            values = [record[metric] for record in by_seed.values()]
            cell = f'{np.mean(values):.3f}'
            if len(values) > 1:
                cell += f' ± {np.std(values, ddof=1):.3f}'
            cells.append(cell)
        print('| ' + ' | '.join(cells) + ' |')
    for better, worse, claim in CLAIMS:
        print_difference(claim, runs.get(better, {}), runs.get(worse, {}), METRICS)


def parse():
    parser = argparse.ArgumentParser(description='Tables 3 and 6 on a folder of labelled clips.')
    parser.add_argument('--data', required=True, help='a folder set with train/ and val/')
    parser.add_argument('--backbone', default='dinov2_vits14')
    parser.add_argument('--weights')
    parser.add_argument('--features', default='runs/real_videos/features')
    parser.add_argument('--seeds', type=numbers, default='2-9')
    parser.add_argument('--rows', default=';'.join(ROWS), help='separated by ;')
    parser.add_argument('--epochs', type=int, default=20)
    parser.add_argument('--lr', type=float, default=3e-4)
    parser.add_argument('--moment', type=int, default=2, help='the phase that begins at it')
    parser.add_argument('--out', type=Path, default='runs/real_videos/results.jsonl')
    return parser.parse_args()


def main():
    args = parse()
    args.device = pick_device()
    s = train.preset('folder')
    model = build_model(dict(backbone=args.backbone, weights=args.weights, layers=LAYERS,
                             image_size=s.image_size)).to(args.device)
    to_half(model.backbone, args.backbone, half_dtype(args.device))
    videos = data.load('folder', args.data, image_size=s.image_size)
    videos = see(model, videos, args.features, VERSIONS,
                 dict(crop=s.crop, jitter=s.jitter, hue=s.hue), device=args.device)
    model.backbone.float()                    # from here on it only hands features on
    args.out.parent.mkdir(parents=True, exist_ok=True)
    setting = dict(epochs=args.epochs, lr=args.lr)
    records = []
    if args.out.exists():
        records = [json.loads(line) for line in args.out.read_text().splitlines()]
        records = [record for record in records if setting.items() <= record.items()]
    known = {(record['row'], record['seed']) for record in records}

    def keep(row, seed, values, **more):
        records.append(dict(row=row, seed=seed) | setting | values | more)
        with open(args.out, 'a') as file:
            file.write(json.dumps(records[-1]) + '\n')
        print(records[-1], flush=True)

    kinds = {}
    for seed in args.seeds:                   # row by row within a seed: all stay comparable
        for row in args.rows.split(';'):
            if (row, seed) in known:
                continue
            kind = ROWS[row][-1]
            if kind not in kinds:
                kinds[kind] = reduced(videos, kind)
            own = kinds[kind]
            network = make_model(row, seed, args, model.backbone)
            loss = train_row(network, own['train'], seed, args)
            z = {split: embed(network, own[split], args.device) for split in own}
            keep(row, seed, scores(own, z, args.moment), loss=loss)
    if ('clock', 0) not in known:
        for row, seed, values in controls(videos, model.backbone, args):
            keep(row, seed, values)
    print_tables(records)


if __name__ == '__main__':
    main()
