"""Evaluate MV-Former (paper, section 4 "Tasks and Metrics" and section 5): embed every frame, score, compare, draw.

    python evaluate.py runs/penn/checkpoint.pt          the four metrics, per action and mean, beside two controls
    python evaluate.py runs/seed*/checkpoint.pt         several checkpoints: mean +- 2 standard deviations

The metrics are pure functions of lists of per-video embeddings (n_i, D), unit length, and labels int (n_i,), -1 where
a frame has none. The two controls: the `clock` knows how far into its video a frame is and sees no pixel; `untrained`
is the model before training. What does not beat both has learned nothing that the metric could see.
"""
import argparse
import json
import math
import os
import re
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

import data
import model as models

METRICS = {'classification': 'class.', 'progression': 'progress', 'tau': 'tau', 'ap5': 'AP@5'}
BLOCK = 2 ** 24                                           # numbers in a metric's largest temporary array


# ---------------------------------------------------------------------------------------------------------------------
# The four metrics

def only_labelled(embeddings, labels):
    """The labelled frames of each video that has any -> lists of (n_i, D) float64 and (n_i,)."""
    pairs = [(np.asarray(x), np.asarray(y)) for x, y in zip(embeddings, labels, strict=True)]
    pairs = [(x[y >= 0].astype(np.float64), y[y >= 0]) for x, y in pairs if (y >= 0).any()]
    return [x for x, _ in pairs], [y for _, y in pairs]


def fit_classifier(x, y):
    """Softmax regression to convergence: sum of cross-entropies + half the squared norm of the weights.

    For two classes scikit-learn fits the binary form, whose C = 2 is the two-class softmax at C = 1.
    """
    return LogisticRegression(C=2 if len(np.unique(y)) == 2 else 1, tol=1e-8, max_iter=100_000).fit(x, y)


def classification(train, train_labels, val, val_labels):
    """Phase classification: accuracy (0..1) on val frames of softmax regression on train frames (paper, section 4).

    train, val: lists of (n_i, D); labels: lists of (n_i,). With a single class in train, that class is the answer to
    every frame. NaN without labelled frames in both.
    """
    (x, y), (val_x, val_y) = only_labelled(train, train_labels), only_labelled(val, val_labels)
    if not x or not val_x:
        return math.nan
    x, y, val_x, val_y = map(np.concatenate, (x, y, val_x, val_y))
    predicted = fit_classifier(x, y).predict(val_x) if len(np.unique(y)) > 1 else y[0]
    return float((predicted == val_y).mean())


def progression_targets(labels, classes):
    """(t - last frame of class k) / n for every frame t and every class but the last: (n, K-1).

    NaN in the columns of classes that never occur in this video: it has nothing to say about them.
    """
    targets = np.full((len(labels), len(classes) - 1), np.nan)
    for column, k in enumerate(classes[:-1]):
        if (where := np.flatnonzero(labels == k)).size:
            targets[:, column] = (np.arange(len(labels)) - where[-1]) / len(labels)
    return targets


def progression(train, train_labels, val, val_labels):
    """Phase progression: R^2 on val of a linear regression of the time since each phase's end (paper, section 4).

    train, val: lists of (n_i, D); labels: lists of (n_i,). One regression for each class but the last, without the
    videos in which that class never occurs; their mean. NaN where no regression has frames of both train and val.
    """
    (x, y), (val_x, val_y) = only_labelled(train, train_labels), only_labelled(val, val_labels)
    if not x or not val_x:
        return math.nan
    classes = np.unique(np.concatenate(y + val_y))
    target, val_target = (np.concatenate([progression_targets(one, classes) for one in part]) for part in (y, val_y))
    x, val_x, scores = np.concatenate(x), np.concatenate(val_x), []
    for t, val_t in zip(target.T, val_target.T):
        rows, val_rows = np.isfinite(t), np.isfinite(val_t)
        if rows.any() and val_rows.sum() > 1:
            scores.append(LinearRegression().fit(x[rows], t[rows]).score(val_x[val_rows], val_t[val_rows]))
    return float(np.mean(scores)) if scores else math.nan


def rank_correlation(sequences):
    """Kendall's tau-b of each row of integers (V, n) with 0..n-1 -> (V,); NaN for constant rows.

    Pairs are compared by their distance in time, one distance at once, in memory that stays linear in n.
    """
    n = sequences.shape[1]
    balance, untied = np.zeros(len(sequences)), np.zeros(len(sequences))      # concordant - discordant, their sum
    for step in range(1, n):
        sign = np.sign(sequences[:, step:] - sequences[:, :-step])
        balance += sign.sum(1)
        untied += np.abs(sign).sum(1)
    with np.errstate(invalid='ignore'):
        return balance / np.sqrt(n * (n - 1) / 2 * untied)


def kendalls_tau(embeddings, stride=1):
    """Kendall's tau: do nearest neighbours in another video come in the same order? -1..1 (paper, section 4).

    embeddings: list of (n_i, D). For every ordered pair of different videos, tau-b between the frames of the first and
    the indices of their nearest neighbours in the second; pairs without a tau (one frame, or one neighbour for all)
    are dropped; the mean of the others, NaN if none is left.
    """
    videos = [torch.from_numpy(np.asarray(x)[::stride].astype(np.float64)) for x in embeddings if len(x)]
    if len(videos) < 2:
        return math.nan
    # nearest: the largest q.f - |f|^2 / 2; the frames f of all videos in one matrix, padded to the longest
    frames = pad_sequence(videos, batch_first=True)                                       # (V, M, D)
    half = pad_sequence([x.square().sum(1) / 2 for x in videos], True, math.inf)          # (V, M)
    taus = []
    for own, queries in enumerate(videos):
        nearest = [torch.addmm(half.flatten(), part, frames.flatten(0, 1).T, beta=-1).view(-1, *half.shape).argmax(-1)
                   for part in queries.split(max(1, BLOCK // half.numel()))]              # of (n_part, V)
        nearest = torch.cat(nearest).T.int().contiguous().numpy()                         # (V, n)
        taus.append(np.delete(rank_correlation(nearest), own))
    taus = np.concatenate(taus)
    return float(np.nanmean(taus)) if np.isfinite(taus).any() else math.nan


def retrieval(embeddings, labels, k=5, stride=1):
    """Fine-grained frame retrieval, AP@k: the share of a frame's k nearest frames of the other videos that have its
    label; mean over frames, then over videos, 0..1 (paper, section 4). NaN with fewer than two labelled videos.

    embeddings: list of (n_i, D); labels: list of (n_i,). k: a number, or several for a list of results.
    """
    embeddings, labels = only_labelled(embeddings, labels)
    if len(embeddings) < 2:
        return math.nan if np.ndim(k) == 0 else [math.nan] * len(k)
    lengths = [len(x[::stride]) for x in embeddings]
    frames = torch.from_numpy(np.concatenate([x[::stride] for x in embeddings]))          # (M, D)
    labels = torch.from_numpy(np.concatenate([y[::stride] for y in labels]))              # (M,)
    half, right, stop = frames.square().sum(1) / 2, [], 0
    many = min(np.max(k), len(frames) - max(lengths))
    for queries, answers in zip(frames.split(lengths), labels.split(lengths)):
        start, stop, found = stop, stop + len(queries), []
        for part, answer in zip(*(each.split(max(1, BLOCK // len(frames))) for each in (queries, answers))):
            near = torch.addmm(half, part, frames.T, beta=-1)                             # q.f - |f|^2 / 2, as above
            near[:, start:stop] = -math.inf                                               # not in the video itself
            found.append(labels[near.topk(many).indices] == answer[:, None])              # nearest first
        right.append(torch.cat(found).double())                                           # (n_i, k)
    scores = [float(np.mean([video[:, :n].mean() for video in right])) for n in np.atleast_1d(k)]
    return scores if np.ndim(k) else scores[0]


def linear_classifier(train, train_labels, val, val_labels, *, epochs=100, lr=50., batch=80, seed=0, device='cpu'):
    """FineGym's classification: accuracy (0..1) on val frames of one linear layer trained by SGD on train frames.

    Momentum 0.9, weight decay 1e-6, cosine by epoch; a step sees the labelled frames of `batch` videos (10 on each of
    the 8 GPUs of the paper's runs; fewer where there are fewer videos), an incomplete batch is dropped. Embeddings are
    fetched batch by batch, so that they may lie on disk. NaN without labelled frames in both.
    """
    train, val = ([(x, y) for x, y in zip(xs, ys, strict=True) if (np.asarray(y) >= 0).any()]
                  for xs, ys in ((train, train_labels), (val, val_labels)))
    if not train or not val:
        return math.nan

    def frames(videos):
        x = np.concatenate([np.asarray(x, np.float32)[np.asarray(y) >= 0] for x, y in videos])
        y = np.concatenate([np.asarray(y, np.int64)[np.asarray(y) >= 0] for _, y in videos])
        return torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)

    generator, batch = torch.Generator().manual_seed(seed), min(batch, len(train))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(train[0][0].shape[1], 1 + max(int(np.max(y)) for _, y in train + val)).to(device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=.9, weight_decay=1e-6)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for chosen in torch.randperm(len(train), generator=generator).split(batch):
            if len(chosen) == batch:
                x, y = frames([train[i] for i in chosen])
                optimizer.zero_grad()
                F.cross_entropy(layer(x), y).backward()
                optimizer.step()
        schedule.step()
    with torch.no_grad():
        right = torch.cat([layer(x).argmax(1) == y for x, y in (frames([video]) for video in val)])
    return right.double().mean().item()


def clock(frames):
    """The control that sees no pixel: cos(pi k t / n) for k = 1..4 and t = 0..n-1, as embeddings (n, 4)."""
    return np.cos(np.pi * np.arange(frames)[:, None] / frames * np.arange(1, 5)).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Embedding: every frame once through the frozen backbone, whatever the number of models

class Seen(NamedTuple):
    """An embedded video: its n frames, which of them are kept (the labelled ones; all if none has a label) and their
    labels (-1 if none has)."""
    video: data.Video
    frames: int
    kept: np.ndarray
    labels: np.ndarray


class Frames(IterableDataset):
    """Decodes whole videos in parts, each video in one worker -> (position, n frames, labels, uint8 part); or
    (position, None, reason, None) where one cannot be read."""
    part = 64

    def __init__(self, videos, positions):
        self.videos, self.positions = videos, positions

    def __iter__(self):
        worker = get_worker_info()
        for position in self.positions[worker.id::worker.num_workers] if worker else self.positions:
            video = self.videos[position]
            try:
                n, labels = video.frames, video.labels
                for part in video.parts(self.part):
                    yield position, n, labels, part
            except data.DataError as error:
                yield position, None, str(error), None


def fuse(network, entities, limit):
    """Entities (n, N, d) of a whole video -> unit-length embeddings (n, D).

    One sequence up to `limit` frames; a longer video is ceil(n / limit) equal ones, each with its own time code.
    """
    parts = entities.tensor_split(math.ceil(len(entities) / limit))
    z = torch.cat([network.mtf(part[None])[0] for part in parts])
    if not z.isfinite().all():
        raise models.ModelError('the embeddings are not finite: this model has diverged; train again with a lower --lr')
    return F.normalize(z.float(), dim=-1)


@torch.no_grad()
def embed(networks, videos, positions, *, limit=1000, device='cpu', workers=0):
    """Embed whole videos by several models -> yields (position, labels or None, one float32 (n, D) a model), or
    (position, reason, None) for a video that cannot be read.

    Models that hold the same backbone object share its pass. Only the entities of a video are kept, never its patches.
    """
    loader = DataLoader(Frames(videos, positions), batch_size=None, collate_fn=tuple, num_workers=workers,
                        worker_init_fn=data.leave_signals,
                        pin_memory=torch.device(device).type == 'cuda', generator=torch.Generator().manual_seed(0))
    begun = {}                                            # position: a list of entities (F, N, d) for each model
    for position, n, labels, frames in loader:
        if n is None:
            begun.pop(position, None)
            yield position, labels, None
            continue
        parts = begun.setdefault(position, [[] for _ in networks])
        images, features = data.center(frames.to(device, non_blocking=True), networks[0].backbone.image_size), {}
        for network, entities in zip(networks, parts):
            if id(network.backbone) not in features:
                features[id(network.backbone)] = in_float32(network.features(images))
            entities.append(network.pool(*features[id(network.backbone)])[0])             # (F, N, d)
        if sum(map(len, parts[0])) == n:
            yield position, labels, [fuse(network, torch.cat(entities), limit).cpu().numpy()
                                     for network, entities in zip(networks, begun.pop(position))]


def in_float32(features):
    """What the backbone computes in bfloat16 on a GPU; everything after it is float32."""
    return models.Features(*(None if each is None else each.float() for each in features))


def from_all(results, count):
    """What every process found out about its share of `count` videos, in rank 0; nothing in the others."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield from results
        return
    own, rank, world = list(results), dist.get_rank(), dist.get_world_size()
    group = dist.new_group(backend='gloo', timeout=timedelta(hours=12))                   # objects go by the CPU
    for turn in range(math.ceil(count / world)):                                          # a few videos at a time
        gathered = [None] * world if rank == 0 else None
        dist.gather_object(own[turn] if turn < len(own) else None, gathered, group=group)
        yield from (result for result in gathered or () if result is not None)
    dist.destroy_process_group(group)


def file_names(videos):
    """A safe file name for each video, no two alike."""
    names = {}
    for video in videos:
        name = re.sub(r'[^\w.-]+', '_', video.name).strip('.') or 'video'
        names[f'{name}~{len(names)}' if name in names else name] = video
    return list(names)


def embed_all(networks, videos, *, folders=None, what='', **options):
    """Embed a list of videos, split over the processes -> [Seen], {model: [(kept, D)]}, {name: why it cannot be read};
    in rank 0, the others get empty ones. What is kept lies in temporary files: memory does not grow with the data set.

    networks: {name: model}; folders: {name: where to save one float32 (n, D) .npy a video}; options: of `embed`.
    """
    folders = folders or {}
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    positions, files = list(range(rank, len(videos), world)), file_names(videos) if folders else None

    def share():
        results = embed(list(networks.values()), videos, positions, **options)
        for position, labels, arrays in tqdm(results, what, len(positions), unit='video', disable=None, leave=False):
            if arrays is None:
                yield position, labels, None, None
                continue
            for name, array in zip(networks, arrays):
                if name in folders:
                    Path(folders[name]).mkdir(parents=True, exist_ok=True)
                    np.save(Path(folders[name], files[position] + '.npy'), array)
            kept = np.arange(len(arrays[0])) if labels is None else np.flatnonzero(labels >= 0)
            labels = np.full(len(kept), -1) if labels is None else labels[kept]
            yield position, (len(arrays[0]), kept), labels, [array[kept] for array in arrays]

    found, skipped, stores = [], {}, {name: tempfile.TemporaryFile() for name in networks}
    for position, frames, labels, arrays in from_all(share(), len(videos)):
        if arrays is None:
            skipped[videos[position].name] = frames
            continue
        found.append((position, Seen(videos[position], *frames, labels)))
        for store, array in zip(stores.values(), arrays):
            store.write(array.data)
    order = sorted(range(len(found)), key=lambda i: found[i][0])                          # not the order of decoding
    cuts, embeddings = np.cumsum([len(one.labels) for _, one in found])[:-1], {}
    for name, store in stores.items():
        store.flush()
        numbers = np.memmap(store, np.float32, 'r') if store.tell() else np.empty(0, np.float32)
        parts = np.split(numbers.reshape(-1, networks[name].mtf.out.out_features), cuts)
        embeddings[name] = [parts[i] for i in order]
    return [found[i][1] for i in order], embeddings, skipped


# ---------------------------------------------------------------------------------------------------------------------
# Tables: the metrics per action, the controls beside the model

def by_action(dataset, seen):
    """{action: {split: positions in seen[split]}}; FineGym is one whole."""
    groups, by_itself = {}, dataset not in data.DATASETS or data.DATASETS[dataset].by_action
    for split in ('train', 'val'):
        for position, one in enumerate(seen[split]):
            action = 'all' if not by_itself or one.video.action is None else one.video.action
            groups.setdefault(action, {'train': [], 'val': []})[split].append(position)
    return groups


def score(dataset, seen, embeddings, device='cpu'):
    """seen {split: [Seen]}, embeddings {split: [(n_i, D)]} -> {action: {metric: value}}, 'mean' the plain mean over the
    actions that have a value. Without labels tau alone; FineGym by its own classifier alone."""
    row = data.DATASETS[dataset]
    rows, stride = {}, row.stride
    for action, where in by_action(dataset, seen).items():
        train, train_labels, val, val_labels = (
            [part[i] for i in where[split]] for split in ('train', 'val')
            for part in (embeddings[split], [one.labels for one in seen[split]]))
        both = train, train_labels, val, val_labels
        if row.metrics == 'linear':
            rows[action] = {'classification': linear_classifier(*both, device=device)}
            continue
        rows[action] = {'tau': kendalls_tau([x for x in val if len(x)], stride)}
        if any((y >= 0).any() for y in train_labels + val_labels):
            rows[action] |= {'classification': classification(*both), 'progression': progression(*both)}
            rows[action] |= zip(('ap5', 'ap10', 'ap15'), retrieval(val, val_labels, (5, 10, 15), stride))
    mean = {}
    for metric in dict.fromkeys(metric for row in rows.values() for metric in row):
        values = [row[metric] for row in rows.values() if math.isfinite(row.get(metric, math.nan))]
        mean[metric] = float(np.mean(values)) if values else math.nan
    return (rows if len(rows) > 1 else {}) | {'mean': mean}


def remarks(dataset, seen, skipped):
    """What a reader of the table must know about the data, one line each."""
    def line(text, names):
        return [f'{text} ({len(names)}): ' + ', '.join(names[:5]) + ', ...' * (len(names) > 5)] if names else []

    everything = seen['train'] + seen['val']
    bare = [one.video.name for one in everything if (one.labels < 0).any()]
    lines = line('left out, cannot be read', list(skipped.values()))
    lines += line('no labelled frame', [one.video.name for one in everything if not len(one.labels)])
    lines += line("no labels, for Kendall's tau only", bare) if len(bare) < len(everything) else [
        "no labels: Kendall's tau only"]
    for action, where in by_action(dataset, seen).items():
        lines += [f'{action}: one val video, which has no other to be compared with'] * (len(where['val']) == 1)
        members = [seen[split][i] for split in where for i in where[split]]
        members = [one for one in members if (one.labels >= 0).any()]
        if members and not all(where.values()):
            lines.append(f'{action}: no {"val" if where["train"] else "train"} video')
        classes = np.unique(np.concatenate([one.labels for one in members] or [[]]))
        for k in () if data.DATASETS[dataset].metrics == 'linear' else classes[:-1]:
            lines += line(f'{action}: without class {k}, left out of its progression',
                          [one.video.name for one in members if k not in one.labels])
    return lines


def has_labels(videos):
    for video in (*videos['train'], *videos['val']):
        try:
            if video.labels is not None:
                return True
        except data.DataError:
            return True                                   # it has some, if not for its frames
    return False


def untrained(settings, network):
    """The control: the same model before training, always the same draw, on the same frozen backbone object."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = models.build_model(settings, None if settings['train_backbone'] else network.backbone)
    return own.to(next(network.mtf.parameters()).device)


def assess(networks, videos, settings, *, controls=True, folders=None, workers=0):
    """Embed and score -> a dict: rows {model: {action: {metric: value}}}, remarks, skipped {video: why}, and for the
    pictures seen {split: [Seen]} and embeddings {model: {split: [(n_i, D)]}}; None in all processes but rank 0.

    networks: {name: MVFormer}; videos: what data.load returns; settings: the first model's; folders: {name: where its
    embeddings are saved}. Frames pass a shared backbone once, whatever the number of models. Kinetics has no phases:
    no metrics, a few videos for the pictures. Errors: DataError, ModelError.
    """
    dataset, first = settings['dataset'], next(iter(networks.values()))
    device = next(first.mtf.parameters()).device
    phases = data.DATASETS[dataset].metrics != 'none'
    if not folders and not (phases and has_labels(videos)):   # then nothing asks for the train videos
        videos = {'train': [], 'val': videos['val'] if phases else (videos['val'] or videos['train'])[:8]}
    if controls and phases:
        networks = networks | {'untrained': untrained(settings, first)}
    modes, precision = [network.training for network in networks.values()], torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('highest')         # embeddings are float32, however the model was trained
    seen, embeddings, skipped = {}, {name: {} for name in networks}, {}
    for network in networks.values():
        network.eval()
    for split in ('train', 'val'):
        seen[split], arrays, broken = embed_all(
            networks, videos[split], limit=data.DATASETS[dataset].limit, device=device, workers=workers, what=split,
            folders={name: Path(folder, split) for name, folder in (folders or {}).items()})
        skipped |= broken
        for name in networks:
            embeddings[name][split] = arrays[name]
    for network, mode in zip(networks.values(), modes):
        network.train(mode)
    torch.set_float32_matmul_precision(precision)
    if dist.is_initialized() and dist.get_rank():
        return None
    for split in seen:
        if videos[split] and not seen[split]:
            raise data.DataError(f'{dataset}: no {split} video can be read; the first: {next(iter(skipped.values()))}')
    if controls and phases:
        embeddings['clock'] = {split: [clock(one.frames)[one.kept] for one in seen[split]] for split in seen}
    rows, notes = {}, ['Kinetics-400 has no phases: nothing to measure']
    if phases:
        rows = {name: score(dataset, seen, embeddings[name], device) for name in embeddings}
        notes = remarks(dataset, seen, skipped)
    return dict(dataset=dataset, videos={split: len(seen[split]) for split in seen}, rows=rows, remarks=notes,
                skipped=skipped, paper=data.DATASETS[dataset].paper, seen=seen, embeddings=embeddings)


def evaluate(model, videos, settings, *, controls=True, picture=None):
    """What train.py calls: prints the table, draws the file `picture` -> the means {metric: value}; {} where there is
    nothing to measure and in all processes but rank 0. settings: train.Settings or its dict."""
    import figures
    settings = settings if isinstance(settings, dict) else vars(settings)
    result = assess({'trained': model}, videos, settings, controls=controls, workers=settings['workers'])
    if result is None:
        return {}
    print_table(result, ['trained'])
    if picture:
        figures.draw_entities(model, result['seen']['val'], picture)
    return result['rows'].get('trained', {}).get('mean', {})


def spread(rows, names):
    """Over the checkpoints `names` -> {action: {metric: (mean, 2 standard deviations of the population)}}."""
    return {action: {metric: (float(np.mean(values)), 2 * float(np.std(values))) for metric, values in
                     ((metric, [rows[name][action][metric] for name in names]) for metric in rows[names[0]][action])}
            for action in rows[names[0]]}


def print_table(result, names):
    """The metrics of the checkpoints `names` per action and their mean, the controls, the paper's values."""
    def line(title, row, several=True):
        cells = ['-' if metric not in row or math.isnan(row[metric][0]) else
                 '{:.4f} ± {:.4f}'.format(*row[metric]) if several else f'{row[metric][0]:.4f}' for metric in metrics]
        print(f'{title:26}' + ''.join(f'{cell:>18}' for cell in cells))

    if rows := result['rows']:
        table, several = spread(rows, names), len(names) > 1
        metrics = [metric for metric in METRICS if metric in table['mean']]
        counts = ', '.join(f'{count} {split}' for split, count in result['videos'].items() if count)
        print(f'\n{result["dataset"]}: {counts} videos'
              + f'; {len(names)} checkpoints: mean ± 2 standard deviations' * several)
        print(' ' * 26 + ''.join(f'{METRICS[metric]:>18}' for metric in metrics))
        for action in table:
            line(action, table[action], several)
        for control, title in (('clock', 'clock (sees no pixel)'), ('untrained', 'untrained model')):
            if control in rows:
                line(title, spread(rows, [control])['mean'], several=False)
        if result['paper']:
            line('paper, Table 1', result['paper'])
    for remark in result['remarks']:
        print('note:', remark)


# ---------------------------------------------------------------------------------------------------------------------
# Actor focus: how much of the attention lies on the actor (what Figures 1 and 3 show, in numbers)

def focus(attention, actor):
    """attention (F, N, P), actor (F, P): the share of each patch that the actor covers -> {measure: (F, N)}.

    mass     share of the attention that lies on the actor: the measure to trust
    area     share of the frame that the actor covers: what attention that sees nothing would score
    peak     1 where the strongest patch is one of the actor's: the best covered ones, as many as its area comes to
    iou      of those patches with as many of the strongest ones
    entropy  of the attention, 1 = uniform; peak and iou flatter attention that is nearly so
    """
    a = attention / attention.sum(-1, keepdim=True).clamp_min(1e-12)
    size = actor.sum(-1).round().clamp_min(1)[:, None]                                    # (F, 1), in patches
    own = actor.argsort(-1, descending=True).argsort(-1) < size                           # (F, P)
    strongest = a.argsort(-1, descending=True).argsort(-1) < size[:, None]                # (F, N, P)
    both = (own[:, None] & strongest).sum(-1)
    return {'mass': (a * actor[:, None]).sum(-1), 'area': actor.mean(-1)[:, None].expand_as(both),
            'peak': own.gather(1, a.argmax(-1)).float(), 'iou': both / (2 * size - both),
            'entropy': torch.special.entr(a).sum(-1) / math.log(a.shape[-1])}


def pictures(images):
    """Undo the normalisation: (F, 3, S, S) in 0..1."""
    mean, std = (torch.tensor(each, device=images.device)[:, None, None] for each in (data.MEAN, data.STD))
    return (images * std + mean).clamp(0, 1)


@torch.no_grad()
def look(network, video, indices):
    """Frames of a video as the model sees them -> images (F, 3, S, S), the attention of the entities (F, N, P) and of
    the CLS token's heads (F, heads, P), the actor's share of each patch (F, P); None for what there is not."""
    device, backbone = next(network.mtf.parameters()).device, network.backbone
    images, actor = data.center(video.read(indices).to(device), backbone.image_size), video.actor(indices)
    features = in_float32(network.features(images))
    if actor is not None:                                 # through the same crop as the frames
        actor = actor.to(device, torch.uint8)[:, None].expand(-1, 3, -1, -1) * 255
        actor = pictures(data.center(actor, backbone.image_size))[:, :1]
        side = math.isqrt(features.patches.shape[1])
        seen = side * backbone.patch_size                 # a ViT leaves out the pixels that fill no patch
        actor = F.interpolate(actor[..., :seen, :seen], side, mode='area').flatten(1)
    entities, heads = network.pool(*features)[1], None
    if hasattr(backbone, 'attention_map'):
        heads = backbone.attention_map(images.to(next(backbone.parameters()).dtype)).float()
    return images, entities, heads, actor


def spaced(n, wanted):
    """Up to `wanted` evenly spaced ones of n indices."""
    return np.unique(np.linspace(0, n - 1, min(n, wanted)).round().astype(int))


def mean_focus(network, seen, frames):
    """Focus of the entities and of the CLS heads, mean over the frames of the videos that show a known actor ->
    [{measure: [N]} or {}, {measure: [heads]} or {}]."""
    found = [], []
    for one in seen:
        _, entities, heads, actor = look(network, one.video, spaced(one.frames, frames))
        if actor is None:
            continue
        there = actor.sum(-1) > 0
        for kind, attention in zip(found, (entities, heads)):
            if attention is not None and there.any():
                kind.append(focus(attention[there], actor[there]))
    return [{measure: torch.cat([each[measure] for each in kind]).mean(0).tolist() for measure in (kind or [{}])[0]}
            for kind in found]


def focus_table(networks, seen, frames=8):
    """Print how much of each entity's attention lies on the actor in val frames, beside the CLS head that is best on
    train frames -> rows [{'model', 'part', measure: value}]. networks: {name: model}, with the untrained one."""
    rows = []
    for number, (name, network) in enumerate(networks.items()):
        entities, heads = mean_focus(network, seen['val'], frames)
        parts = [(name, f'entity {k + 1}', entities, k) for k in range(len(entities.get('mass', ())))]
        if heads and not number:
            train = [seen['train'][i] for i in spaced(len(seen['train']), 50)]
            best = int(np.argmax((mean_focus(network, train, frames)[1] or heads)['mass']))
            parts.append(('backbone', f'CLS head {best + 1}', heads, best))
        for model, part, means, k in parts:
            rows.append(dict(model=model, part=part, ratio=means['mass'][k] / means['area'][k])
                        | {measure: values[k] for measure, values in means.items()})
    if not rows:
        print('note: no focus table: no actor is known (masks, boxes), or the pooler has no attention')
        return rows
    measures = ('mass', 'area', 'ratio', 'peak', 'iou', 'entropy')
    print('\nattention on the actor in val frames; the CLS head is the best of all on train frames')
    print(' ' * 40 + ''.join(f'{measure:>9}' for measure in measures))
    for row in rows:
        model = row['model'].removesuffix('/checkpoint.pt')
        print(f'{model[-26:]:27}{row["part"]:13}' + ''.join(f'{row[measure]:9.3f}' for measure in measures))
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# The command

def parse(argv=None):
    parser = argparse.ArgumentParser(
        description='Embed every frame, print the four metrics beside the controls, draw where the model looks.',
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=110),
        usage='%(prog)s CHECKPOINT [CHECKPOINT ...] [options]', allow_abbrev=False)
    parser.add_argument('checkpoints', nargs='+', metavar='CHECKPOINT', type=Path,
                        help='of train.py; several of one data set: mean ± 2 standard deviations')
    group = parser.add_argument_group('where things are')
    group.add_argument('--dataset', metavar='NAME', help='what to evaluate on [what it was trained on]')
    group.add_argument('--data', metavar='DIR', help='folder of the data set [where it was at training]')
    group.add_argument('--data-seed', type=int, metavar='N', help='draws the synthetic set [as at training]')
    group.add_argument('--weights', metavar='FILE', help='weights of the frozen backbone [as at training]')
    group.add_argument('--workers', type=int, metavar='N', help='processes that decode videos [as at training]')
    group = parser.add_argument_group('what to make')
    group.add_argument('--focus', action='store_true', help='a table: how much attention lies on the actor')
    group.add_argument('--figures', metavar='DIR', type=Path,
                       help='all pictures of the first checkpoint [entities.png beside it alone]')
    group.add_argument('--embeddings', metavar='DIR', type=Path,
                       help='one float32 array (n, D) a video: DIR/train/*.npy, DIR/val/*.npy')
    group.add_argument('--json', metavar='FILE', type=Path, help='all numbers')
    return parser.parse_args(argv)


def join():
    """Join the other processes where torchrun started several -> this process's device."""
    local, world, gpus = int(os.environ.get('LOCAL_RANK', 0)), int(os.environ.get('WORLD_SIZE', 1)), 0
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        if local >= gpus:
            raise models.ModelError(f'process {local} has no GPU of its own; torchrun --nproc_per_node {gpus} at most')
    if world > 1:
        try:
            dist.init_process_group('gloo')
        except ValueError as error:
            raise models.ModelError(f'WORLD_SIZE is {world}, but {error}; torchrun starts several processes') from None
    return torch.device('cuda', local) if gpus else torch.device('cpu')


def load_models(args, device):
    """The checkpoints -> {path: model}, the first one's settings; equal frozen backbones become one object."""
    networks, backbones, first = {}, {}, None
    given = {name: getattr(args, name) for name in ('dataset', 'data', 'data_seed', 'weights', 'workers')}
    given = {name: value for name, value in given.items() if value is not None}
    for path in args.checkpoints:
        checkpoint = models.load_checkpoint(path)
        try:
            settings = checkpoint['settings'] | given
            first = first or settings
            for name in ('dataset', 'data', 'data_seed', 'image_size'):
                if settings[name] != first[name]:
                    raise models.ModelError(f'{path}: {name} is {settings[name]}, of the first checkpoint '
                                            f'{first[name]}; evaluate them one by one')
            key = None if settings['train_backbone'] else str([settings[k] for k in ('backbone', 'weights', 'layers')])
            networks[str(path)] = models.build_model(settings, backbones.get(key)).to(device)
        except KeyError as missing:
            raise models.ModelError(f'{path}: no checkpoint of train.py as it is now: no {missing}; train again')
        models.load_trained(networks[str(path)], checkpoint, path)
        if key:
            backbones[key] = networks[str(path)].backbone
    for backbone in backbones.values() if device.type == 'cuda' else ():
        backbone.bfloat16()
    return networks, first


def run(args):
    """Errors: DataError, ModelError, OSError, each one line."""
    import figures
    for name in ('workers', 'data_seed'):
        if (getattr(args, name) or 0) < 0:
            raise data.DataError(f'--{name.replace("_", "-")} {getattr(args, name)}: must be at least 0')
    if args.json and (args.json.suffix != '.json' or args.json.is_dir()):
        raise OSError(f'{args.json}: --json writes a file; let its name end in .json')
    for folder in filter(None, (args.figures, args.embeddings, args.json and args.json.parent)):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError(f'{folder}: cannot be written to')
    networks, settings = load_models(args, join())
    videos = data.load(settings['dataset'], settings['data'], image_size=settings['image_size'],
                       seed=settings['data_seed'])
    names, path = list(networks), args.checkpoints[0]
    folders = {name: args.embeddings / (re.sub(r'[^\w.-]+', '_', name) if len(names) > 1 else '') for name in names} \
        if args.embeddings else None
    result = assess(networks, videos, settings, folders=folders, workers=settings['workers'])
    if result is None:
        return
    print_table(result, names)
    if args.focus:
        result['focus'] = focus_table(networks | {'untrained': untrained(settings, networks[names[0]])}, result['seen'])
    if args.figures:
        figures.draw_all(networks[names[0]], result, names[0], args.figures, path.parent / 'log.jsonl')
    elif os.access(path.parent, os.W_OK):
        figures.draw_entities(networks[names[0]], result['seen']['val'], path.parent / 'entities.png')
        print(f'picture: {path.parent / "entities.png"}')
    if args.json:
        numbers = {key: value for key, value in result.items() if key not in ('seen', 'embeddings')}
        numbers |= dict(settings=settings, checkpoints=names, spread=result['rows'] and spread(result['rows'], names))
        numbers = json.loads(json.dumps(numbers), parse_constant=lambda _: None)          # JSON has no NaN
        args.json.write_text(json.dumps(numbers, indent=1) + '\n')


def main(argv=None):
    args = parse(argv)
    try:
        run(args)
    except (data.DataError, models.ModelError, OSError) as error:
        print('evaluate.py: error: ' + ' '.join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == '__main__':
    main()
