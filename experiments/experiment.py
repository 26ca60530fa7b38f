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
    python experiments/experiment.py --table FILES   # no training: the tables of finished runs

On the synthetic set's own scene: --scene present --backbone tiny --image-size 72 --lr 1e-3.
"""
import argparse
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from sklearn.linear_model import Ridge

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
import evaluate
import train
from backbones.tiny import TINY
from datasets.garden import Garden
from datasets.synthetic import ACTIONS, Stage, synthetic
from evaluation.embedding import EmbeddedVideo
from evaluation.focus import focus
from loss import OBJECTIVES
from lstp import POOLERS
from backbones.build import build_backbone
from mtf import MTF
from pictures.canvas import denormalise

SCENES = {'present': Stage, 'garden': Garden}
ALL_LAYERS = (1, 2, 3, 4)               # of the tiny backbones
SEVERAL = (2, 3, 4)
METRICS = ('classification', 'progression', 'tau', 'ap5')
JUDGED = ('classification', 'ap5', 'best_mass')
ONE_TOKEN = ('cls', 'avg', 'max', 'corners', 'actor')


class Row(NamedTuple):
    """A row of a table: pool is a pooler of lstp.py, or one of ONE_TOKEN."""
    pool: str
    layers: tuple = (4,)
    entities: int = 1
    readout: str = 'cls'
    disjoint: bool = False


ROWS = {
    'lstp-3': Row('lstp', SEVERAL, 3),
    'lstp-1': Row('lstp', SEVERAL, 1),
    'last-3': Row('lstp', (4,), 3),
    'last-1': Row('lstp', (4,), 1),
    'lstp-3, avg readout': Row('lstp', SEVERAL, 3, readout='avg'),
    'lstp-3, disjoint': Row('lstp', SEVERAL, 3, disjoint=True),
    'fwb-3': Row('fwb', (4,), 3),
    'cls': Row('cls'),
    'avg': Row('avg'),
    'max': Row('max'),
    'corners': Row('corners'),
    'actor': Row('actor'),
}
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
# The frozen features, once

class Version(NamedTuple):
    """One augmentation of a video of n frames, half precision."""
    patches: dict           # {layer of SEVERAL: (n, P, C)}
    tokens: dict            # {(one of ONE_TOKEN, layer): (n, C)}
    actor: torch.Tensor     # the actor's share of each patch (n, P)


class Cached(NamedTuple):
    record: EmbeddedVideo
    activity: np.ndarray    # (n,) the pose's distance from the idle pose, in degrees
    heads: torch.Tensor     # attention of the backbone's CLS heads in the clean version (n, H, P)
    versions: list          # the clean one first


def cover(masks, seed, backbone):
    """Masks bool (n, H, W), cropped and flipped as the frames of a seed (None: as they are), their
    edges sometimes blurred with them -> the share of each patch (n, P)."""
    size = backbone.grid * backbone.patch_size
    white = masks[:, None].expand(-1, 3, -1, -1).byte() * 255
    if seed is None:
        white = F.interpolate(white.float() / 255, (size, size), mode='bilinear')
    else:
        white = denormalise(data.augment(white, seed, size, jitter=0, hue=0))
    return F.avg_pool2d(white[:, :1], backbone.patch_size).flatten(1)


def pool_once(patches, cls, actor, side):
    """patches (n, P, C) of one layer -> {name: (n, C)}, what the rows with one token get."""
    weights = actor + 1e-6                                            # (n, P)
    weights = weights / weights.sum(-1, keepdim=True)
    corners = [0, side - 1, -side, -1]
    return {
        'cls': cls,
        'avg': patches.mean(1),
        'max': patches.amax(1),
        'corners': patches[:, corners].mean(1),
        'actor': einsum(weights, patches, 'n p, n p c -> n c'),
    }


@torch.no_grad()
def version_of(backbone, images, actor):
    """Normalised images (n, 3, S, S) -> Version."""
    parts = [backbone(part) for part in images.split(32)]
    cls = torch.cat([part.cls for part in parts])                     # (n, C)
    patches = torch.cat([part.patches for part in parts])             # (n, P, 4*C)
    tokens = {}
    kept = {}
    for layer, each in zip(ALL_LAYERS, patches.chunk(4, -1)):
        for name, token in pool_once(each, cls, actor, backbone.grid).items():
            tokens[name, layer] = token.half()
        if layer in SEVERAL:
            kept[layer] = each.half()
    return Version(kept, tokens, actor.half())


def cache(backbone, videos, versions, seed):
    """[Video] -> [Cached], each with a clean version and `versions` augmented ones."""
    settings = train.preset('garden')
    found = []
    for number, video in enumerate(videos):
        every = np.arange(video.frames)
        frames = video.read(every)                                    # (n, 3, H, W)
        masks = video.actor(every)                                    # (n, H, W)
        clean = data.center(frames, backbone.image_size)
        with torch.no_grad():
            heads = backbone.attention_map(clean)                     # (n, H, P)
        kept = [version_of(backbone, clean, cover(masks, None, backbone))]
        for version in range(versions):
            drawn = np.random.SeedSequence([seed, number, version]).generate_state(1)[0]
            images = data.augment(frames, drawn, backbone.image_size, jitter=settings.jitter,
                                  hue=settings.hue)
            kept.append(version_of(backbone, images, cover(masks, drawn, backbone)))
        _, idle, _ = ACTIONS[video.action]
        poses = video.decode.__self__.poses                           # (n, 9)
        activity = np.linalg.norm(poses - idle, axis=1)
        record = EmbeddedVideo(video, video.frames, every, video.labels)
        found.append(Cached(record, activity, heads, kept))
    return found


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
            x = {}
            for split in cached:
                tokens = [video.versions[0].tokens[name, layer] for video in cached[split]]
                x[split] = relative([each.float().numpy() for each in tokens])
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

class Model(torch.nn.Module):
    """Pooler, MTF and head on cached features; `settings` of train.py."""

    def __init__(self, row, width, settings):
        super().__init__()
        self.row = row
        channels = width * len(row.layers)
        self.pool = None
        if row.pool not in ONE_TOKEN:
            self.pool = POOLERS[row.pool](channels, width, entities=row.entities,
                                          width=settings.entity_width, disjoint=row.disjoint)
            channels = self.pool.width
        self.mtf = MTF(channels, row.entities, frames=settings.frames,
                       append_ids=self.pool is not None, fc_width=settings.fc_width,
                       depth=settings.depth, readout=row.readout, dropout=settings.dropout)
        self.head = OBJECTIVES['scl'].head(settings.embedding)

    def entities(self, version, frames):
        """Frames (n,) of a cached video -> entities (n, N, d), attention (n, N, P) or None."""
        layers = self.row.layers
        if self.pool is None:
            tokens = [version.tokens[self.row.pool, layer][frames] for layer in layers]
            return torch.cat(tokens, -1).float()[:, None], None
        patches = [version.patches[layer][frames] for layer in layers]
        cls = version.tokens['cls', 4][frames].float()
        return self.pool(torch.cat(patches, -1).float(), cls)


def two_views_of(model, videos, rng, frames):
    """-> entities (2B, T, N, d), times (B, 2, T), lengths (B, 2), valid (B, 2, T)."""
    entities = []
    times = []
    lengths = []
    valid = []
    for video in videos:
        length = video.record.frames
        time = data.two_views(rng, length, frames)                    # (2, T)
        clamped = np.minimum(time, length - 1)
        chosen = 1 + rng.permutation(len(video.versions) - 1)[:2]     # two different versions
        for view, version in zip(clamped, chosen):
            entities.append(model.entities(video.versions[version], view)[0])
        times.append(clamped)
        lengths.append([length, length])
        valid.append(time < length)
    times = torch.from_numpy(np.stack(times))
    valid = torch.from_numpy(np.stack(valid))
    return torch.stack(entities), times, torch.tensor(lengths), valid


def train_row(row, width, videos, settings):
    """-> a trained Model in eval mode, the mean loss of the last fifth of the steps."""
    torch.manual_seed(settings.seed)
    model = Model(row, width, settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr,
                                 weight_decay=settings.weight_decay)
    losses = []
    for epoch in range(settings.epochs):
        rng = np.random.default_rng([settings.seed, epoch])
        for group in optimizer.param_groups:
            group['lr'] = train.learning_rate(settings, epoch)
        order = rng.permutation(len(videos))
        for start in range(0, len(videos) - settings.batch + 1, settings.batch):
            batch = [videos[i] for i in order[start:start + settings.batch]]
            entities, times, lengths, valid = two_views_of(model, batch, rng, settings.frames)
            z = model.mtf(entities, rearrange(valid, 'b v t -> (b v) t'))         # (2B, T, D)
            z = F.normalize(model.head(rearrange(z, 'b t d -> (b t) d')), dim=-1)
            z = rearrange(z, '(b v t) d -> b v t d', v=2, t=settings.frames)
            loss = OBJECTIVES['scl'].loss(z, times, lengths, valid)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
            optimizer.step()
            losses.append(loss.item())
    return model.eval(), float(np.mean(losses[-len(losses) // 5:]))


@torch.no_grad()
def embed(model, videos):
    """-> unit-length embeddings (n, D) of each video; mass and IoU of entities (2, N) or None."""
    embeddings = []
    attention = []
    for video in videos:
        entities, seen = model.entities(video.versions[0], video.record.kept)
        z = model.mtf(entities[None])[0]
        embeddings.append(F.normalize(z, dim=-1).numpy())
        attention.append(seen)
    return embeddings, None if attention[0] is None else focus_of(attention, videos)


def focus_of(attention, videos):
    """[(n, N, P)], a video each -> mass and IoU (2, N), as in evaluation/focus.py."""
    found = []
    for seen, video in zip(attention, videos):
        measures = focus(seen, video.versions[0].actor.float())
        found.append(torch.stack([measures['mass'].mean(0), measures['iou'].mean(0)]))
    return torch.stack(found).mean(0)


def best(train, val):
    """(2, N) each -> mass and IoU in val of the entity or head of the largest mass in train."""
    mass, iou = val[:, train[0].argmax()].tolist()
    return dict(best_mass=mass, best_iou=iou)


def best_head(cached):
    """The same of the backbone's own CLS heads, which need no training."""
    found = []
    for split in ('train', 'val'):
        found.append(focus_of([video.heads for video in cached[split]], cached[split]))
    return best(*found)


def score(embeddings, cached):
    """{split: [(n, D)]} -> {metric: mean over the actions}."""
    records = {}
    for split in cached:
        records[split] = [video.record for video in cached[split]]
    values = evaluate.score('synthetic', records, embeddings)['mean']
    return {metric: values[metric] for metric in METRICS}


def run(name, width, cached, settings):
    """Train and score one row with one seed -> a dict, one line of the results' file."""
    model, loss = train_row(ROWS[name], width, cached['train'], settings)
    embeddings = {}
    looks = {}
    for split in cached:
        embeddings[split], looks[split] = embed(model, cached[split])
    found = dict(row=name, seed=settings.seed, loss=loss, **score(embeddings, cached))
    if looks['val'] is not None:
        found |= dict(mass=looks['val'][0].tolist(), **best(looks['train'], looks['val']))
    return found


def controls(cached):
    """What needs no training: the metrics of the clock, and how the best CLS head looks."""
    embeddings = {}
    for split, videos in cached.items():
        embeddings[split] = [evaluate.clock(video.record.frames) for video in videos]
    return dict(clock=score(embeddings, cached), head=best_head(cached))


# ----------------------------------------------------------------------------------------------
# The table

def print_table(results):
    """Mean, standard deviation over the seeds; then the claims as paired differences."""
    runs = {}
    for result in results:
        runs.setdefault(result['row'], {})[result['seed']] = result
        runs.setdefault('clock', {})[result['seed']] = result['clock']
        runs.setdefault('head', {})[result['seed']] = result['head']
    print(f'{"row":26}seeds' + ''.join(f'{metric:>18}' for metric in METRICS) + '  best mass')
    for name in ['clock', *ROWS]:
        if name not in runs:
            continue
        line = f'{name:26}{len(runs[name]):5}'
        for metric in METRICS:
            values = [each[metric] for each in runs[name].values()]
            line += f'{np.mean(values):.3f} +- {np.std(values):.3f}'.rjust(18)
        print(line, *(f'{max(each["mass"]):.2f}' for each in runs[name].values() if 'mass' in each))
    print('\npaired differences, mean +- standard error over the seeds that both rows have')
    for better, worse, claim in CLAIMS:
        print_difference(claim, runs.get(better, {}), runs.get(worse, {}), METRICS)
    for name in ('last-3', 'lstp-3'):
        claim = f'Figure 1: best entity of {name} over best CLS head'
        print_difference(claim, runs.get(name, {}), runs['head'], ['best_mass', 'best_iou'])


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
    parser.add_argument('--table', type=Path, nargs='+', help='of such files: no run')
    parser.add_argument('--out', type=Path, default='runs/experiment.jsonl', help='a line a run')
    return parser.parse_args()


def main():
    args = parse()
    if args.table:
        lines = ''.join(path.read_text() for path in args.table).splitlines()
        return print_table([json.loads(line) for line in lines])
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
    area = np.mean([video.versions[0].actor.float().mean() for video in cached['val']])
    print(f'{args.scene}: features in {time.time() - begun:.0f} s; the actor covers {area:.3f}')
    print('what one token tells of the pose, R^2 at layers 1, 2, 3, 4')
    for name, values in probe(cached).items():
        print(f'  {name:8}' + ''.join(f'{value:8.3f}' for value in values), flush=True)
    if args.probe:
        return

    args.out.parent.mkdir(parents=True, exist_ok=True)
    alike = vars(args) | controls(cached)
    results = []
    for settings.seed in args.seeds:
        for name in args.rows.split(';'):
            result = run(name, backbone.width, cached, settings)
            print(json.dumps(result), flush=True)
            results.append(alike | result)
            with open(args.out, 'a') as file:
                file.write(json.dumps(results[-1], default=str) + '\n')
    print_table(results)


if __name__ == '__main__':
    main()
