"""Evaluate MV-Former (paper, section 4 "Tasks and Metrics"): embed every frame, score, compare.

    python evaluate.py runs/penn/checkpoint.pt      the four metrics beside the controls
    python evaluate.py runs/seed*/checkpoint.pt     several seeds: mean +- 2 standard deviations
    python evaluate.py CKPT --align A.mp4 B.mp4     a film: the same moment of one's own videos
    python evaluate.py CKPT --predict DIR           their phases (pictures/align.py, predict.py)

A whole video is one sequence for MTF; above 1,000 frames (FineGym: 2,000) it is cut into equal
ones, but one's own thinned out. Its frames go through backbone and LSTP in parts, their entities
through MTF together (evaluation/embedding.py).
Embeddings: an (n, D) array a video, of unit length but for the clock's; labels: int (n,), -1: none.

ours: controls. The `clock` sees no pixel, only how far into its video a frame is; `untrained` has
fresh random weights (seed 0) on the same backbone; `frozen` is that backbone's features, without
MV-Former. A metric in which a model is not above all of them does not show that it has learned.
"""
import math

import numpy as np
import torch

import data
import model as models
from evaluation.embedding import embed_splits, frozen
from evaluation.labels import by_action, labelled_only, only_measured
from evaluation.linear import linear_classifier
from evaluation.table import mean, mean_row, print_result, remarks
from pictures import figures
from running.processes import is_rank0
from running.record import attempt

BLOCK = 2 ** 22  # similarities that tau and retrieval compute at once


# --------------------------------------------------------------------------------------------------
# The four metrics: lists of embeddings (n_i, D) and labels (n_i,) -> a number, or NaN. Of a video
# with labels these are its labelled frames; tau and retrieval take every stride-th of them.

def classification(train, train_labels, val, val_labels):
    """Phase classification: accuracy (0..1) of softmax regression on val frames."""
    x, y = labelled_only(train, train_labels)              # drops the videos without labels
    val_x, val_y = labelled_only(val, val_labels)
    if not x or not val_x:
        return math.nan
    y = np.concatenate(y)
    predicted = y[0]                                       # where there is one class alone
    if len(np.unique(y)) > 1:
        predicted = fit_classifier(np.concatenate(x), y).predict(np.concatenate(val_x))
    return float(np.mean(predicted == np.concatenate(val_y)))


def fit_classifier(x, y):
    """Softmax regression: the least sum of cross-entropies + half the squared norm of the weights.

    By Newton's method, in 5 to 10 steps, to a gradient of 1e-6 a frame: closer changed no frame's
    class where it was tried. The usual L-BFGS, at its default tolerance, stops too early.
    """
    from sklearn.linear_model import LogisticRegression    # here: slow to import
    # Of two classes it fits the difference of the weights, w = w1 - w2, for which
    # |w1|^2 + |w2|^2 = |w|^2 / 2: then C = 2 is what C = 1 is to more classes.
    C = 2 if len(np.unique(y)) == 2 else 1
    classifier = LogisticRegression(C=C, solver='newton-cg', tol=1e-6, max_iter=1000)
    return classifier.fit(x.astype(np.float64), y)


def progression(train, train_labels, val, val_labels):
    """Phase progression: for each phase but that of the highest number a linear regression of
    `time_since_end`; the mean of their R^2 on val. This is TCC's protocol; the paper has it
    shorter, "how much time is left until the next action phase boundary"."""
    from sklearn.linear_model import LinearRegression
    x, y = labelled_only(train, train_labels)
    val_x, val_y = labelled_only(val, val_labels)
    if not x or not val_x:
        return math.nan
    x = np.concatenate(x).astype(np.float64)
    val_x = np.concatenate(val_x).astype(np.float64)
    scores = []
    for k in np.unique(np.concatenate(y + val_y))[:-1]:    # the last ends with the video
        target = np.concatenate([time_since_end(labels, k) for labels in y])        # (n,)
        truth = np.concatenate([time_since_end(labels, k) for labels in val_y])     # (m,)
        known = np.isfinite(target)
        asked = np.isfinite(truth)
        if known.any() and asked.sum() > 1:
            regression = LinearRegression().fit(x[known], target[known])
            scores.append(regression.score(val_x[asked], truth[asked]))
    return mean(scores)


def time_since_end(labels, k):
    """(t - last frame of class k) / n of each frame t = 0..n-1 -> (n,).

    ours: NaN for a class that never occurs in this video (release: an error).
    """
    n = len(labels)
    frames = np.flatnonzero(labels == k)
    if not len(frames):
        return np.full(n, np.nan)
    return (np.arange(n) - frames[-1]) / n


def kendalls_tau(embeddings, stride=1):
    """Kendall's tau, -1..1: how far nearest neighbours in another video come in the same order.

    tau-b between the frames of a video and the indices of their nearest neighbours in another; mean
    over all ordered pairs of videos, but those without a tau: one frame, or one neighbour for all.
    The paper's "fraction of correct matches" would be (tau + 1) / 2, without ties.
    """
    videos = as_tensors([x[::stride] for x in embeddings if len(x)])
    if len(videos) < 2:
        return math.nan
    lengths = [len(video) for video in videos]
    database = torch.cat(videos)                           # (M, D)
    taus = []
    for own, queries in enumerate(videos):
        nearest = []
        for _, near in closeness(queries, database):
            by_video = near.split(lengths, dim=1)
            nearest.append(torch.stack([part.argmax(1) for part in by_video]))
        nearest = torch.cat(nearest, dim=1).int().numpy()  # (V, n): in each video, to each frame
        taus.extend(np.delete(rank_correlation(nearest), own))
    return mean(taus)                                      # of those that are numbers


def as_tensors(arrays):
    return [torch.from_numpy(np.ascontiguousarray(x, np.float32)) for x in arrays]


def closeness(queries, database):
    """queries (n, D), database (M, D) -> parts of the queries (Q, D) and their closeness (Q, M):
    of rows q and f, q.f - |f|^2 / 2 falls as |q - f| grows, also where lengths differ."""
    half = database.square().sum(1) / 2                    # (M,)
    for part in queries.split(max(1, BLOCK // len(database))):
        yield part, (part @ database.T).sub_(half)


def rank_correlation(sequences):
    """Kendall's tau-b of each row of integers (V, n) with 0..n-1 -> (V,); NaN for constant rows.

    Of all pairs of places, those that lie `step` apart are compared at once: memory is linear in n.
    """
    n = sequences.shape[1]
    balance = np.zeros(len(sequences))  # concordant - discordant pairs
    untied = np.zeros(len(sequences))   # concordant + discordant pairs
    for step in range(1, n):
        sign = np.sign(sequences[:, step:] - sequences[:, :-step])
        balance += sign.sum(1)
        untied += np.abs(sign).sum(1)
    with np.errstate(invalid='ignore'):
        return balance / np.sqrt(n * (n - 1) / 2 * untied)


def retrieval(embeddings, labels, k=5, stride=1):
    """Fine-grained frame retrieval, AP@k (0..1): of a frame's k nearest frames in other videos,
    what share has its label; mean over frames, then over videos.

    float32 finds a few more, k + 3 candidates, which float64 ranks anew, for rounding may swap near
    ties; of equal candidates the earlier frame comes first.
    """
    embeddings, labels = labelled_only(embeddings, labels)
    if len(embeddings) < 2:
        return math.nan
    videos = as_tensors([x[::stride] for x in embeddings])
    database = torch.cat(videos)                                              # (M, D)
    labels = torch.from_numpy(np.concatenate([y[::stride] for y in labels]))  # (M,)
    scores = []
    start = 0
    for video in videos:
        stop = start + len(video)
        nearest = []
        for queries, near in closeness(video, database):
            near[:, start:stop] = -math.inf  # a video is not searched for its own frames
            several = min(k + 3, len(database) - len(video))
            candidates = near.topk(several).indices.sort(dim=1).values        # (Q, k + 3)
            away = queries[:, None].double() - database[candidates].double()
            rank = away.square().sum(-1).argsort(dim=1, stable=True)[:, :k]
            nearest.append(candidates.gather(1, rank))
        right = labels[torch.cat(nearest)] == labels[start:stop, None]        # (n, k)
        scores.append(right.double().mean().item())
        start = stop
    return mean(scores)


def clock(frames):
    """The control that sees no pixel: cos(pi k t / n) for k = 1..4 and t = 0..n-1 -> (n, 4)."""
    time = np.arange(frames) / frames
    return np.cos(np.pi * np.outer(time, [1, 2, 3, 4])).astype(np.float32)


# --------------------------------------------------------------------------------------------------
# From videos to numbers: embed, then each metric for each action, the controls beside the model

def score(dataset, embedded, embeddings, device='cpu'):
    """{split: [EmbeddedVideo]}, {split: [(n_i, D)]} -> {action: {metric: value}}, and their mean:

    {'bowl': {'tau': 0.99, 'ap5': 0.93, ...}, 'squat': {...}, ..., 'mean': {...}}, of one action
    'mean' alone. TCC, CARL: by action; FineGym is one whole.
    Without labels there is tau alone; FineGym has a classifier of its own alone.
    """
    kind = data.DATASETS[dataset]       # a datasets.layout.DataSet
    rows = {}
    for action, lists in by_action(dataset, embedded, embeddings).items():
        _, train_labels, val, val_labels = lists    # the arguments of `classification`
        if kind.metrics == 'linear':
            rows[action] = {'classification': linear_classifier(*lists, device=device)}
            continue
        rows[action] = {'tau': kendalls_tau(val, kind.stride)}
        if any((y >= 0).any() for y in train_labels + val_labels):
            rows[action]['classification'] = classification(*lists)
            rows[action]['progression'] = progression(*lists)
            rows[action]['ap5'] = retrieval(val, val_labels, 5, kind.stride)
    if len(rows) == 1:
        return {'mean': mean_row(rows)}
    return rows | {'mean': mean_row(rows)}


def untrained(settings, network):
    """The control: pooler and MTF drawn anew from seed 0, whatever the run's seed, on the network's
    own backbone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = models.build_model(settings, network.backbone)
    return fresh.to(next(network.mtf.parameters()).device)


def assess(networks, videos, settings, *, controls=True, folder=None):
    """Embed and score -> a dict, or None in all processes but rank 0. Errors: UserError.

    rows        {model: {action: {metric: value}}}: what `score` returns of each model and control
    embedded    {split: [EmbeddedVideo]}: the videos that could be read, each with `frames` (how
                many), `kept` (those that have embeddings) and their `labels`
    embeddings  {model: {split: [(n_i, D)]}}: of the same videos in the same order
    skipped     why a video cannot be read, a line each; remarks: lines about the data
    dataset     its name
    paper       the values of the paper's Table 1, {metric: (mean, 2 standard deviations)}, or {}

    networks: {name: MVFormer}; videos: of data.load; settings: the first model's; folder: where its
    embeddings are saved.
    """
    dataset = settings['dataset']
    kind = data.DATASETS[dataset]
    phases = kind.metrics != 'none'
    first = next(iter(networks.values()))
    device = next(first.mtf.parameters()).device
    if not folder:                      # --embeddings saves those of all videos
        videos = only_measured(videos, phases)
    if controls and phases:
        networks = networks | {'untrained': untrained(settings, first)}
        networks['frozen (mean of patches)'] = frozen(first.backbone, 'avg')
        if models.backbones()[settings['backbone']].cls:
            networks['frozen (CLS)'] = frozen(first.backbone, 'cls')

    # one's own long videos are thinned out, published ones cut
    embedded, embeddings, skipped = embed_splits(
        networks, videos, settings, thin=kind.own, folder=folder)
    if not is_rank0():
        return None
    if controls and phases:
        embeddings['clock'] = {}
        for split, records in embedded.items():
            embeddings['clock'][split] = [clock(each.frames)[each.kept] for each in records]

    rows = {}
    notes = [f'{dataset} has no phases: nothing to measure']
    if phases:
        rows = {name: score(dataset, embedded, embeddings[name], device) for name in embeddings}
        notes = remarks(next(iter(rows.values())), embedded)
    return {'dataset': dataset, 'paper': kind.paper, 'rows': rows, 'remarks': notes,
            'skipped': skipped, 'embedded': embedded, 'embeddings': embeddings}


def evaluate(model, videos, settings, *, controls=True, picture=None, log=None):
    """What train.py calls: prints the table -> the means {metric: value}, {} where nothing can be
    measured and in all processes but rank 0. log(**means) is called before `picture` is drawn."""
    result = assess({'trained': model}, videos, settings, controls=controls)
    if result is None:
        return {}
    print_result(result, {'trained': ['trained']})    # one group, of one model
    means = result['rows'].get('trained', {}).get('mean', {})
    if log:
        log(**means)
    if picture:
        attempt(picture, figures.draw_entities, model, result['embedded']['val'], picture)
    return means


def main(argv=None):
    from evaluation.command import main as command    # late: it imports this file
    command(argv)


if __name__ == '__main__':
    main()
