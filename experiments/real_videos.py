"""Real videos: the rows of Tables 3 and 6 on a folder of labelled clips, eight seeds and controls.

    python experiments/real_videos.py --data DIR --weights FILE --features DIR --seeds 2-9

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
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
import evaluate
from evaluation.embedding import EmbeddedVideo
from loss import OBJECTIVES
from model import build_model
from pictures.align import by_clock, match
from running.features import SeenVideo, see
from running.processes import pick_device

METRICS = ('classification', 'progression', 'tau', 'ap5', 'bottom')
LAYERS = [4, 8, 12]
ROWS = {                             # pooler, entities, several layers?
    'LSTP-3, several layers': ('lstp', 3, True),
    'CLS': ('cls', 1, False),
    'LSTP-3, last layer': ('lstp', 3, False),
    'AVG': ('avg', 1, False),
    'MAX': ('max', 1, False),
    'LSTP-1, last layer': ('lstp', 1, False),
    'FWB-3': ('fwb', 3, False),
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


class Reduced(SeenVideo):
    """A seen video in memory, of which a row's pooler gets only what it looks at."""

    def keep(self, kind):
        self.kept = []
        for file in self.files:
            self.kept.append(reduce(torch.from_numpy(np.load(file)), kind))

    def features(self, version, indices):
        return self.kept[version][torch.from_numpy(self.positions(indices))]


def reduce(rows, kind):
    """Packed frames (n, 1, P*L + 1, C) -> all of it, the last layer, or one token and CLS."""
    layers = len(LAYERS)
    if kind == 'several':
        return rows
    last = rows[:, :, layers - 1:-1:layers]                       # (n, 1, P, C)
    cls = rows[:, :, -1:]
    if kind == 'avg':
        last = last.float().mean(2, keepdim=True).half()
    if kind in ('max', 'cls', 'fwb'):
        last = last.amax(2, keepdim=True)
    return torch.cat([last, cls], 2)


def reduced(videos, kind):
    """{split: [SeenVideo]} -> the same of Reduced."""
    found = {}
    for split, members in videos.items():
        found[split] = [copy.copy(video) for video in members]
        for video in found[split]:
            video.__class__ = Reduced
            video.keep(kind)
    return found


def make_model(row, seed, args, backbone):
    """A row's model with fresh weights; `backbone` unpacks what Reduced gives."""
    pool, entities, several = ROWS[row]
    torch.manual_seed(seed)
    backbone = copy.copy(backbone)
    backbone.channels = backbone.width * (len(LAYERS) if several else 1)
    settings = dict(backbone=args.backbone, pool=pool, entities=entities, frames=args.frames)
    model = build_model(settings, backbone)
    model.head = OBJECTIVES['scl'].head(128, 0)
    return model.to(args.device)


def train_row(model, videos, seed, args):
    """The loop of train.py without its folder -> mean loss of the last epoch."""
    clips = data.Clips(videos, frames=args.frames, seed=seed)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, weight_decay=1e-5, fused=True)
    model.train()
    for epoch in range(args.epochs):
        optimizer.param_groups[0]['lr'] = (
            args.lr / 2 * (1 + math.cos(math.pi * epoch / (args.epochs + 1))))
        order = np.random.default_rng([seed, epoch]).permutation(len(videos))
        losses = []
        for start in range(0, len(videos) - 3, 4):
            batch = data.collate([clips[epoch, int(i)] for i in order[start:start + 4]])
            views = torch.stack(list(itertools.chain(*batch['frames'])))
            for name in ('time', 'length', 'valid'):
                batch[name] = batch[name].to(args.device)
            z = model(views.to(args.device).float(),
                      rearrange(batch['valid'], 'b v t -> (b v) t'), project=True)
            z = rearrange(z, '(b v) t d -> b v t d', v=2)
            loss = OBJECTIVES['scl'].loss(z, batch['time'], batch['length'], batch['valid'],
                                          sigma2=args.sigma2)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 10)
            optimizer.step()
            losses.append(loss.item())
    model.eval()
    return float(np.mean(losses))


@torch.inference_mode()
def embed(model, video, device):
    """-> unit-length embeddings (n, D) of the video as it is."""
    frames = torch.cat(list(video.parts())).to(device).float()
    return model(frames[None])[0].cpu().numpy()


def frozen(video, token):
    """-> the backbone's own unit-length features (n, C) of a video reduced to 'avg'."""
    rows = torch.cat(list(video.parts())).float()[:, 0]           # (n, 2, C)
    return F.normalize(rows[:, ('patches', 'cls').index(token)], dim=-1).numpy()


def first_of(video, moment):
    """The frame where the phase begins; None where it does not, or where the video begins in it."""
    found = np.flatnonzero(video.labels == moment)
    return int(found[0]) if len(found) and found[0] > 0 else None


def scores(videos, embeddings, moment, matched=None):
    """{split: [Video]}, {split: [(n, D)]} -> {metric: value}. matched(i, j): the alignment."""
    embedded = {}
    for split, members in videos.items():
        embedded[split] = [EmbeddedVideo(video, video.frames, np.arange(video.frames),
                                         video.labels) for video in members]
    values = evaluate.score('folder', embedded, embeddings)['mean']
    errors = []
    for i, j in itertools.permutations(range(len(videos['val'])), 2):
        here, there = (first_of(videos['val'][k], moment) for k in (i, j))
        if here is not None and there is not None:
            path = matched(i, j) if matched else match(*(embeddings['val'][k] for k in (i, j)))
            errors.append(abs(int(path[here]) - there))
    return {name: values[name] for name in METRICS[:-1]} | dict(bottom=float(np.mean(errors)))


def controls(videos, backbone, args):
    """Yields (name, seed, values) of what has learned nothing from these videos."""
    def each(function):
        return {split: [function(video) for video in videos[split]] for split in videos}

    lengths = [video.frames for video in videos['val']]
    yield 'clock', 0, scores(videos, each(lambda video: evaluate.clock(video.frames)), args.moment,
                             lambda i, j: by_clock(lengths[i], lengths[j]))
    small = reduced(videos, 'avg')
    for token in ('patches', 'cls'):
        own = {split: [frozen(video, token) for video in small[split]] for split in small}
        yield f'frozen, {token}', 0, scores(videos, own, args.moment)
    for seed in args.seeds:
        model = make_model('LSTP-3, several layers', seed, args, backbone)
        yield 'untrained', seed, scores(
            videos, each(lambda video: embed(model, video, args.device)), args.moment)


def table(records):
    """Markdown: mean and standard deviation over the seeds."""
    print('| row | seeds | ' + ' | '.join(METRICS) + ' |')
    print('|---' * (2 + len(METRICS)) + '|')
    for row in dict.fromkeys(record['row'] for record in records):
        own = [record for record in records if record['row'] == row]
        cells = []
        for metric in METRICS:
            values = np.array([record[metric] for record in own])
            digits = 1 if metric == 'bottom' else 3
            spread = f' ± {values.std(ddof=1):.{digits}f}' if len(values) > 1 else ''
            cells.append(f'{values.mean():.{digits}f}{spread}')
        print(f'| {row} | {len(own)} | ' + ' | '.join(cells) + ' |')


def verdicts(records):
    """Markdown: each claim's paired differences with standard errors; seen where both metrics are
    beyond two of them."""
    by_key = {(record['row'], record['seed']): record for record in records}
    print('\n| claim | seeds | classification | ap5 | on real videos |\n|---|---|---|---|---|')
    for better, worse, where in CLAIMS:
        seeds = [seed for row, seed in by_key if row == better and (worse, seed) in by_key]
        if len(seeds) < 2:
            continue
        cells, signs = [], []
        for metric in ('classification', 'ap5'):
            differences = np.array([by_key[better, seed][metric] - by_key[worse, seed][metric]
                                    for seed in seeds])
            error = differences.std(ddof=1) / math.sqrt(len(seeds))
            cells.append(f'{differences.mean():+.3f} ± {error:.3f}')
            signs.append(np.sign(differences.mean()) * (abs(differences.mean()) > 2 * error))
        word = {2: 'seen', -2: 'contrary'}.get(int(sum(signs)), 'not seen')
        print(f'| {where} | {len(seeds)} | {cells[0]} | {cells[1]} | {word} |')


def numbers(text):
    first, _, last = text.partition('-')
    return list(range(int(first), int(last or first) + 1))


def parse():
    parser = argparse.ArgumentParser(description='Tables 3 and 6 on a folder of labelled clips.')
    parser.add_argument('--data', required=True, help='a folder set with train/ and val/')
    parser.add_argument('--backbone', default='dinov2_vits14')
    parser.add_argument('--weights')
    parser.add_argument('--image-size', type=int, default=112)
    parser.add_argument('--features', default='runs/real_videos/features')
    parser.add_argument('--versions', type=int, default=4)
    parser.add_argument('--seeds', type=numbers, default=numbers('2-9'))
    parser.add_argument('--rows', type=lambda text: text.split(';'), default=list(ROWS))
    parser.add_argument('--frames', type=int, default=16)
    parser.add_argument('--epochs', type=int, default=20)
    parser.add_argument('--lr', type=float, default=3e-4)
    parser.add_argument('--sigma2', type=float, default=10.)
    parser.add_argument('--moment', type=int, default=2, help='the phase that begins at it')
    parser.add_argument('--device')
    parser.add_argument('--out', type=Path, default=Path('runs/real_videos/results.jsonl'))
    return parser.parse_args()


def main():
    args = parse()
    args.device = pick_device(args.device)
    settings = dict(backbone=args.backbone, weights=args.weights, layers=LAYERS,
                    image_size=args.image_size)
    model = build_model(settings)
    videos = data.load('folder', args.data, image_size=args.image_size)
    videos = see(model, videos, args.features, args.versions,
                 dict(crop=0.8, jitter=0.8, hue=0.2), device=args.device)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    records = [json.loads(line) for line in open(args.out)] if args.out.exists() else []
    setting = dict(versions=args.versions, frames=args.frames, epochs=args.epochs, lr=args.lr,
                   sigma2=args.sigma2)
    records = [record for record in records if setting.items() <= record.items()]
    records = list({(record['row'], record['seed']): record for record in records}.values())
    known = {(record['row'], record['seed']) for record in records}

    def keep(row, seed, values, **more):
        records.append(dict(row=row, seed=seed) | setting | values | more)
        with open(args.out, 'a') as file:
            file.write(json.dumps(records[-1]) + '\n')
        print(records[-1], flush=True)

    kinds = {}
    for seed in args.seeds:                   # row by row within a seed: all stay comparable
        for row in args.rows:
            if (row, seed) in known:
                continue
            begin = time.perf_counter()
            pool, _, several = ROWS[row]
            kind = 'several' if several else 'last' if pool == 'lstp' else pool
            if kind not in kinds:
                kinds[kind] = reduced(videos, kind)
            own = kinds[kind]
            network = make_model(row, seed, args, model.backbone)
            loss = train_row(network, own['train'], seed, args)
            embeddings = {split: [embed(network, video, args.device) for video in own[split]]
                          for split in own}
            keep(row, seed, scores(own, embeddings, args.moment), loss=loss,
                 seconds=time.perf_counter() - begin)
    if ('clock', 0) not in known:
        for row, seed, values in controls(videos, model.backbone, args):
            keep(row, seed, values)
    table(records)
    verdicts(records)


if __name__ == '__main__':
    main()
