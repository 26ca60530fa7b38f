"""The rows of the paper's Tables 3 and 6 in miniature, quickly enough for several seeds.

The frozen features are computed once: every video passes the backbone in some augmented versions
and a clean one. A run draws its two views from two versions of a video, trains pooler, MTF and
projection head as train.py does, and embeds the clean videos. All rows see the same data and the
same seeds, so they are compared by paired differences over the seeds.

Two rows are controls. `corners` gets the mean of the four corner patches alone, where the actor
hardly ever is: what it scores above the clock, patches know of the pose wherever they lie, and then
it cannot matter where LSTP looks. `actor` gets the mean of the actor's patches, told by the mask:
what attention could gain if it were perfect.

    python experiments/experiment.py --data-seed 6 --seeds 6-13
    python experiments/experiment.py --probe         # no training: what tokens tell of the pose

A run adds a line to --out and is not made again; the tables are of all lines of these settings. On
the synthetic set's own scene: --scene present --backbone tiny --image-size 72 --lr 1e-3.
"""
import argparse
import copy
import json
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import einsum
from sklearn.linear_model import Ridge

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
import evaluate
import train
from backbones.build import build_backbone
from backbones.tiny import TINY
from datasets.garden import Garden
from datasets.synthetic import ACTIONS, Stage, synthetic
from evaluation.embedding import EmbeddedVideo
from evaluation.focus import focus
from loss import OBJECTIVES
from lstp import POOLERS
from model import build_model
from running.features import SeenVideo, look, take_packed
from speed.training import stepper

SCENES = {'present': Stage, 'garden': Garden}
ALL_LAYERS = (1, 2, 3, 4)               # of the tiny backbones
SEVERAL = (2, 3, 4)
METRICS = ('classification', 'progression', 'tau', 'ap5')
JUDGED = ('classification', 'ap5', 'best_mass')
ONE_TOKEN = ('cls', 'avg', 'max', 'corners', 'actor')


class Row(NamedTuple):
    """A row of a table: pool is a pooler of lstp.py, or one of ONE_TOKEN."""
    pool: str
    layers: tuple
    entities: int = 1
    readout: str = 'cls'
    disjoint: bool = False


def rows_of(several):
    """Their names, of several layers or the last of these -> {name: Row}."""
    last = several[-1:]
    return {
        'lstp-3': Row('lstp', several, 3),
        'lstp-1': Row('lstp', several, 1),
        'last-3': Row('lstp', last, 3),
        'last-1': Row('lstp', last, 1),
        'lstp-3, avg readout': Row('lstp', several, 3, readout='avg'),
        'lstp-3, disjoint': Row('lstp', several, 3, disjoint=True),
        'fwb-3': Row('fwb', last, 3),
        'cls': Row('cls', last),
        'avg': Row('avg', last),
        'max': Row('max', last),
        'corners': Row('corners', last),
        'actor': Row('actor', last),
    }


ROWS = rows_of(SEVERAL)
# the paper's claims, and controls: (better row, worse row, where it is made)
CLAIMS = [
    ('last-3', 'cls', 'Table 6: LSTP + MTF over CLS'),
    ('last-3', 'avg', 'Table 6: LSTP + MTF over AVG'),
    ('last-3', 'max', 'Table 6: LSTP + MTF over MAX'),
    ('last-1', 'avg', 'Table 6: LSTP-1 over AVG'),
    ('cls', 'avg', 'Table 6: CLS over AVG'),
    ('avg', 'max', 'Table 6: AVG over MAX'),
    ('last-3', 'last-1', 'Tables 3, 6: three entities over one'),
    ('lstp-3', 'lstp-1', 'Table 3: the same, several layers (alike there)'),
    ('lstp-3', 'last-3', 'Table 3: several layers over the last'),
    ('lstp-3', 'cls', 'several layers over CLS'),
    ('lstp-3', 'avg', 'several layers over AVG'),
    ('lstp-1', 'last-1', 'Table 3: several layers over the last, one entity'),
    ('last-3', 'fwb-3', 'Table 3: LSTP over the fixed-width baseline'),
    ('lstp-3, avg readout', 'lstp-3', 'section 3.4: average readout over CLS-style'),
    ('lstp-3, disjoint', 'lstp-3', 'section 5.4, an idea: disjoint entities over free'),
    ('actor', 'avg', 'control: what perfect attention gains over AVG'),
    ('actor', 'last-3', 'control: what it gains over LSTP + MTF'),
    ('avg', 'corners', 'control: what AVG gains over the corners'),
    ('corners', 'clock', 'control: what the corners know'),
]


# ----------------------------------------------------------------------------------------------
# The frozen features, once. Packed frames (n, 1, P + 1, L*C): see running/features.py

class Cached(SeenVideo):
    """A seen video in memory: `files` are its packed frames themselves. It has besides

    activity    (n,) the pose's distance from the idle pose, in degrees
    heads       attention of the backbone's CLS heads in the clean version (n, H, P)
    actors      of each version the actor's share of the patches (n, P)
    """

    def features(self, version, indices):
        return self.files[version][indices]


def cover(masks, seed, backbone):
    """Masks bool (n, H, W), cropped and flipped as the frames of a seed (None: as they are), their
    edges sometimes blurred with them -> the share of each patch (n, P)."""
    size = backbone.grid * backbone.patch_size
    white = masks[:, None].expand(-1, 3, -1, -1).byte() * 255
    if seed is None:
        white = data.resize(white, size)
    else:
        white = data.denormalise(data.augment(white, seed, size, jitter=0, hue=0))
    return F.avg_pool2d(white[:, :1], backbone.patch_size).flatten(1)


@torch.no_grad()
def cache(backbone, videos, versions, seed):
    """[Video] -> [Cached], each with a clean version and `versions` augmented ones."""
    settings = train.preset('garden')
    backbone.with_cls = True
    found = []
    for number, video in enumerate(videos):
        every = np.arange(video.frames)
        frames = video.read(every)                                    # (n, 3, H, W)
        masks = video.actor(every)                                    # (n, H, W)
        images = data.center(frames, backbone.image_size)
        one = copy.copy(video)
        one.__class__ = Cached
        one.heads = backbone.attention_map(images)
        one.files = [look(backbone, images)]
        one.actors = [cover(masks, None, backbone)]
        for version in range(versions):
            drawn = np.random.SeedSequence([seed, number, version]).generate_state(1)[0]
            images = data.augment(frames, drawn, backbone.image_size, jitter=settings.jitter,
                                  hue=settings.hue)
            one.files.append(look(backbone, images))
            one.actors.append(cover(masks, drawn, backbone))
        _, idle, _ = ACTIONS[video.action]
        poses = video.decode.__self__.poses                           # (n, 9)
        one.activity = np.linalg.norm(poses - idle, axis=1)
        found.append(one)
    return found


class Reduced(SeenVideo):
    """The video `seen`, whose features are of `layers`, as a row's pooler looks at it: all patches
    of the row's layers, or one token in their place; and CLS."""

    def features(self, version, indices):
        packed = self.seen.features(version, indices)[:, 0]           # (n, P + 1, L*C)
        by_layer = packed[:, :-1].chunk(len(self.layers), -1)
        patches = torch.cat([by_layer[self.layers.index(k)] for k in self.row.layers], -1)
        if self.row.pool != 'lstp':
            patches = self.one_token(patches.float(), version, indices).half()[:, None]
        cls = packed[:, -1:, :packed.shape[-1] // len(self.layers)]   # (n, 1, C)
        cls = F.pad(cls, (0, patches.shape[-1] - cls.shape[-1]))
        return torch.cat([patches, cls], 1)[:, None]

    def one_token(self, patches, version, indices):
        """patches (n, P, C) -> (n, C); any, where the pooler reads CLS alone."""
        if self.row.pool == 'avg':
            return patches.mean(1)
        if self.row.pool == 'corners':
            side = math.isqrt(patches.shape[1])
            return patches[:, [0, side - 1, -side, -1]].mean(1)
        if self.row.pool == 'actor':
            weights = self.seen.actors[version][indices] + 1e-6       # (n, P)
            weights = weights / weights.sum(-1, keepdim=True)
            return einsum(weights, patches, 'n p, n p c -> n c')
        return patches.amax(1)


def seen_by(row, videos, layers=ALL_LAYERS):
    """{split: [SeenVideo]} -> {split: [Reduced]}."""
    found = {}
    for split, members in videos.items():
        found[split] = []
        for video in members:
            one = copy.copy(video)
            one.__class__ = Reduced
            one.seen = video
            one.row = row
            one.layers = layers
            found[split].append(one)
    return found


def clean(video):
    """A seen video as it is, packed (n, 1, P + 1, L*C), float32."""
    return video.features(0, np.arange(video.frames)).float()


# ----------------------------------------------------------------------------------------------
# The probe: no training of MV-Former at all

def probe(cached):
    """R^2 on val of a ridge regression from one token to how far the actor is from the idle pose.

    Both are taken relative to their mean over the video, as the MTF can do, so that clothes and
    scenes matter little. -> {name: [R^2 of layers 1, 2, 3, 4]}
    """
    activity = {}
    for split in cached:
        activity[split] = relative([video.activity for video in cached[split]])
    table = {}
    for name in ONE_TOKEN:
        table[name] = []
        for layer in ALL_LAYERS:
            place = -1 if name == 'cls' else 0
            x = {}
            for split, videos in seen_by(Row(name, (layer,)), cached).items():
                x[split] = relative([clean(video)[:, 0, place] for video in videos])
            scale = x['train'].std(0) + 1e-6
            ridge = Ridge(alpha=30, fit_intercept=False)
            ridge.fit(x['train'] / scale, activity['train'])
            table[name].append(ridge.score(x['val'] / scale, activity['val']))
    return table


def relative(videos):
    """[(n, ...)], each less its mean, in a row."""
    return np.concatenate([each - each.mean(0) for each in videos])


# ----------------------------------------------------------------------------------------------
# One run

def make_model(row, settings, backbone):
    """A row's model with fresh weights, of Settings of train.py, on packed frames."""
    backbone = copy.copy(backbone)
    take_packed(backbone)
    backbone.channels = backbone.width * len(row.layers)
    # one token is its own mean
    pool = row.pool if row.pool in POOLERS else 'avg'
    torch.manual_seed(settings.seed)
    own = row._asdict() | dict(pool=pool, layers=None)
    model = build_model(vars(settings) | own, backbone)
    model.head = OBJECTIVES['scl'].head(settings.embedding)
    return model


def train_row(model, videos, settings):
    """As train.py does, without its folder -> the mean loss of the last fifth of the steps."""
    clips = data.Clips(videos, frames=settings.frames, seed=settings.seed)
    step = stepper(settings, model.train())
    losses = []
    for chosen in train.batches(len(clips), settings, 0, 0, 1):
        epoch, _ = chosen[0]
        batch = data.collate([clips[item] for item in chosen])
        losses.append(step(batch, train.learning_rate(settings, epoch)))
    model.eval()
    return torch.stack(losses[-len(losses) // 5:]).mean().item()


@torch.inference_mode()
def embed(model, videos):
    """{split: [Reduced]} -> {split: unit-length embeddings [(n, D)]}, and the same of the entities'
    attention [(n, N, P) or None]."""
    device = next(model.mtf.parameters()).device
    embeddings = {}
    attention = {}
    for split, members in videos.items():
        seen = [model.entities(clean(video).to(device)) for video in members]
        z = [model.mtf(entities[None])[0] for entities, _ in seen]
        embeddings[split] = [F.normalize(each, dim=-1).cpu().numpy() for each in z]
        attention[split] = [each for _, each in seen]
    return embeddings, attention


def score(dataset, videos, embeddings=None):
    """{split: [Video]}, {split: [(n, D)]}, without them of the clock -> {metric: mean over the
    actions}."""
    records = {}
    clocks = {}
    for split, members in videos.items():
        records[split] = []
        for video in members:
            every = np.arange(video.frames)
            records[split].append(EmbeddedVideo(video, video.frames, every, video.labels))
        clocks[split] = [evaluate.clock(video.frames) for video in members]
    values = evaluate.score(dataset, records, embeddings or clocks)['mean']
    return {metric: values[metric] for metric in METRICS}


def best(attention, cached):
    """{split: [(n, N, P)]} -> mass and IoU (evaluation/focus.py) in val of the entity or head of
    the largest mass in train, and the mass of all."""
    measures = {}
    for split in cached:
        found = []
        for seen, video in zip(attention[split], cached[split]):
            own = focus(seen, video.actors[0])
            found.append(torch.stack([own['mass'].mean(0), own['iou'].mean(0)]))
        measures[split] = torch.stack(found).mean(0)                  # (2, N)
    mass, iou = measures['val'][:, measures['train'][0].argmax()].tolist()
    return dict(best_mass=mass, best_iou=iou, mass=measures['val'][0].tolist())


def run(name, backbone, cached, settings):
    """A row, trained and scored, or a control that needs no training: the clock, and how the best
    of the backbone's CLS heads looks -> {measure: value}."""
    if name == 'head':
        heads = {}
        for split in cached:
            heads[split] = [video.heads for video in cached[split]]
        return best(heads, cached)
    if name == 'clock':
        return score('synthetic', cached)
    row = ROWS[name]
    videos = seen_by(row, cached)
    model = make_model(row, settings, backbone)
    found = dict(loss=train_row(model, videos['train'], settings))
    embeddings, attention = embed(model, videos)
    found |= score('synthetic', videos, embeddings)
    if row.pool == 'lstp':
        found |= best(attention, cached)
    return found


def all_runs(path, alike, rows, seeds, make):
    """make(row, seed) of what is not in the file yet, a line of it each -> {row: {seed: line}} of
    all its lines that are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    runs = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if alike.items() <= record.items():
            runs.setdefault(record['row'], {})[record['seed']] = record
    for row in rows:
        for seed in seeds:
            if seed in runs.setdefault(row, {}):
                continue
            begun = time.perf_counter()
            record = dict(row=row, seed=seed) | make(row, seed)
            print(json.dumps(record), flush=True)
            runs[row][seed] = record | alike | dict(seconds=time.perf_counter() - begun)
            with open(path, 'a') as file:
                file.write(json.dumps(runs[row][seed]) + '\n')
    return runs


# ----------------------------------------------------------------------------------------------
# The tables

def print_table(runs, metrics=METRICS):
    """{row: {seed: {metric: value}}} -> Markdown: mean and standard deviation over the seeds; then
    each of CLAIMS as paired differences."""
    print('| row | seeds | ' + ' | '.join(metrics) + ' |')
    print('|---' * (2 + len(metrics)) + '|')
    for name, by_seed in runs.items():
        cells = [name, f'{len(by_seed)}']
        for metric in metrics:
            values = [each[metric] for each in by_seed.values()]
            cell = f'{np.mean(values):.3f}'
            if len(values) > 1:
                cell += f' ± {np.std(values, ddof=1):.3f}'
            cells.append(cell)
        print('| ' + ' | '.join(cells) + ' |')
    print('\npaired differences, mean +- standard error over the seeds that both rows have')
    for better, worse, claim in CLAIMS:
        print_difference(claim, runs.get(better, {}), runs.get(worse, {}), metrics)


def print_difference(claim, ours, theirs, metrics):
    """ours, theirs: {seed: {metric: value}}; nothing is printed of less than two seeds.

    Mean and standard error; seen or contrary: beyond two of them, in all of JUDGED."""
    seeds = sorted(ours.keys() & theirs.keys())
    if len(seeds) < 2:
        return
    line = f'{claim:52}'
    signs = set()
    for metric in metrics:
        differences = [ours[seed][metric] - theirs[seed][metric] for seed in seeds]
        mean = np.mean(differences)
        error = np.std(differences, ddof=1) / len(seeds) ** .5
        line += f'  {metric} {mean:+.3f} +- {error:.3f}'
        if metric in JUDGED:
            signs.add(np.sign(mean) if abs(mean) > 2 * error else 0)
    word = {(1,): 'seen', (-1,): 'contrary'}.get(tuple(signs), 'not seen')
    print(f'{line}  {word} ({len(seeds)} seeds)')


def print_focus(runs, head):
    """How much of the best entity's attention lies on the actor, beside that of the best head."""
    for name, by_seed in runs.items():
        if ROWS[name].pool == 'lstp':
            masses = [f'{max(each["mass"]):.2f}' for each in by_seed.values()]
            print(f'{name}: mass of the best entity, seed by seed:', *masses)
    for name in ('last-3', 'lstp-3'):
        claim = f'Figure 1: best entity of {name} over best CLS head'
        print_difference(claim, runs.get(name, {}), head, ['best_mass', 'best_iou'])


def numbers(text):
    """'6-13' or '6' -> a list of numbers."""
    first, _, last = text.partition('-')
    return list(range(int(first), int(last or first) + 1))


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--scene', default='garden', choices=list(SCENES))
    parser.add_argument('--backbone', default='tiny_local', choices=list(TINY))
    parser.add_argument('--image-size', type=int, help="pixels; else the backbone's")
    parser.add_argument('--rows', default=';'.join(ROWS), help='separated by ;')
    parser.add_argument('--seeds', type=numbers, default=[0], help='of training, e.g. 6-13')
    parser.add_argument('--data-seed', type=int, default=0, help='draws the videos')
    parser.add_argument('--train', type=int, default=16, help='videos of each action')
    parser.add_argument('--val', type=int, default=8)
    parser.add_argument('--versions', type=int, default=3, help='augmented ones of a train video')
    parser.add_argument('--epochs', type=int, default=24)
    parser.add_argument('--lr', type=float, default=train.preset('garden').lr)
    parser.add_argument('--probe', action='store_true', help='only the probe, no run')
    parser.add_argument('--out', type=Path, default='runs/experiment.jsonl', help='a line a run')
    return parser.parse_args()


def main():
    args = parse()
    settings = train.preset('garden')
    settings.epochs = args.epochs
    settings.lr = args.lr
    begun = time.time()
    backbone = build_backbone(args.backbone, layers=ALL_LAYERS, image_size=args.image_size)
    videos = synthetic(args.data_seed, args.train, args.val, SCENES[args.scene])
    versions = 0 if args.probe else args.versions
    cached = {
        'train': cache(backbone, videos['train'], versions, args.data_seed),
        'val': cache(backbone, videos['val'], 0, args.data_seed),
    }
    area = np.mean([video.actors[0].mean() for video in cached['val']])
    print(f'{args.scene}: features in {time.time() - begun:.0f} s; the actor covers {area:.3f}')
    print('what one token tells of the pose, R^2 at layers 1, 2, 3, 4')
    for name, values in probe(cached).items():
        print(f'  {name:8}' + ''.join(f'{value:8.3f}' for value in values), flush=True)
    if args.probe:
        return

    def make(name, seed):
        settings.seed = seed
        return run(name, backbone, cached, settings)

    alike = vars(args).copy()
    for name in ('rows', 'seeds', 'probe', 'out'):
        del alike[name]
    rows = [*args.rows.split(';'), 'clock', 'head']
    runs = all_runs(args.out, alike, rows, args.seeds, make)
    head = runs.pop('head')
    print_table(runs)
    del runs['clock']
    print_focus(runs, head)


if __name__ == '__main__':
    main()
