"""Evaluate MV-Former (paper, section 4 "Tasks and Metrics"): embed every frame, score, compare.

    python evaluate.py runs/penn/checkpoint.pt      the four metrics beside two controls
    python evaluate.py runs/seed*/checkpoint.pt     several: mean +- 2 standard deviations
    python evaluate.py CKPT --align A.mp4 B.mp4     a film: the same moment of one's own videos
    python evaluate.py CKPT --predict DIR           their phases (both: evaluation/own_videos.py)

Embeddings: one (n, D) array a video, of unit length; labels: int (n,), -1 = none. ours: two
controls. The `clock` sees no pixel, only how far into its video a frame is; `untrained` has fresh
random weights (seed 0) on the same backbone. What is not above both has learned nothing that a
metric can see. The machinery and what goes beyond the paper's metrics are in evaluation/.
"""
import math
import sys
import warnings
from contextlib import suppress
from functools import partial

import numpy as np
import torch

import data
from pictures import figures
import model as models
from evaluation.checkpoints import load_models
from evaluation.command import check, parse
from evaluation.embedding import embed_splits, folders_of
from evaluation.focus import focus_table
from evaluation.labels import by_action, few_labels_table, labelled_only, lists_of, needed
from evaluation.linear import linear_classifier
from evaluation.own_videos import align_files, predict_folder
from evaluation.predictions import predictions
from evaluation.table import mean, mean_row, print_result, remarks, write_json
from running.errors import UserError
from running.processes import is_rank0, join_processes, leave_processes, wait_for_all
from running.record import attempt

BLOCK = 2 ** 24  # numbers in a metric's largest temporary array


# --------------------------------------------------------------------------------------------------
# The four metrics: lists of embeddings (n_i, D) and labels (n_i,) -> a number, or NaN. The frames
# of a video that has labels are its labelled ones; tau and retrieval take every stride-th of them.

def classification(train, train_labels, val, val_labels):
    """Phase classification: accuracy (0..1) of softmax regression on val frames."""
    x, y = labelled_only(train, train_labels)
    val_x, val_y = labelled_only(val, val_labels)
    if not x or not val_x:
        return math.nan
    predicted = predict_phases(np.concatenate(x), np.concatenate(y), np.concatenate(val_x))
    return float(np.mean(predicted == np.concatenate(val_y)))


def predict_phases(x, y, queries):
    """Classes of the queries (m, D) by softmax regression on x (n, D), y (n,) -> (m,)."""
    if len(np.unique(y)) == 1:
        return np.full(len(queries), y[0])
    return fit_classifier(x, y).predict(queries)


def fit_classifier(x, y):
    """Softmax regression: the least sum of cross-entropies + half the squared norm of the weights.

    By Newton's method, in 5 to 10 steps, to a gradient of 1e-6 a frame: closer changed no frame's
    class where it was tried. In float32; where it warns that rounding has stopped it, in float64.
    The usual L-BFGS, at its default tolerance, stops too early.
    """
    from sklearn.linear_model import LogisticRegression
    # Two classes are fitted by one logistic function: its C = 2 is the two-class softmax at C = 1.
    C = 2 if len(np.unique(y)) == 2 else 1
    classifier = LogisticRegression(C=C, solver='newton-cg', tol=1e-6, max_iter=1000)
    with warnings.catch_warnings(action='error'), suppress(Warning):
        return classifier.fit(x.astype(np.float32), y)
    return classifier.fit(x.astype(np.float64), y)


def progression(train, train_labels, val, val_labels):
    """Phase progression: R^2 on val, mean over all phases but the last, of regressions of the
    signed time since the phase's end as a share of the labelled frames. This is TCC's protocol;
    the paper has it shorter, "how much time is left until the next action phase boundary"."""
    from sklearn.metrics import r2_score
    x, y = labelled_only(train, train_labels)
    val_x, val_y = labelled_only(val, val_labels)
    if not x or not val_x:
        return math.nan
    classes = np.unique(np.concatenate(y + val_y))
    targets = np.concatenate([progression_targets(each, classes) for each in y])    # (n, K-1)
    truth = np.concatenate([progression_targets(each, classes) for each in val_y])  # (m, K-1)
    predicted = predict_progress(np.concatenate(x), targets, np.concatenate(val_x))
    scores = []
    for true, guess in zip(truth.T, predicted.T):
        rows = np.isfinite(true) & np.isfinite(guess)
        if rows.sum() > 1:
            scores.append(r2_score(true[rows], guess[rows]))
    return mean(scores)


def progression_targets(labels, classes):
    """(t - last frame of class k) / n, for each frame t and each class k but the last: (n, K-1).

    ours: a column of NaN for a class that never occurs in this video (release: an error).
    """
    n = len(labels)
    targets = np.full((n, len(classes) - 1), np.nan)
    for column, k in enumerate(classes[:-1]):
        frames = np.flatnonzero(labels == k)
        if len(frames):
            targets[:, column] = (np.arange(n) - frames[-1]) / n
    return targets


def predict_progress(x, targets, queries):
    """Linear regressions of the columns of targets (n, K-1) on x (n, D), for queries -> (m, K-1).

    Each leaves out the frames whose target is NaN; its column is NaN where no frame is left.
    """
    predicted = np.full((len(queries), targets.shape[1]), np.nan)
    same_rows = {}  # regressions on the same frames are one solve
    for column, known in enumerate(np.isfinite(targets).T):
        same_rows.setdefault(known.tobytes(), []).append(column)
    for columns in same_rows.values():
        rows = np.isfinite(targets[:, columns[0]])
        if rows.any():
            predict = fit_line(x[rows].astype(np.float64), targets[rows][:, columns])
            predicted[:, columns] = predict(queries)
    return predicted


def fit_line(x, y):
    """Least squares with an intercept, by the normal equations (so x in float64: they square its
    condition number). x (n, D), y (n, K) -> a function of queries (m, D)."""
    middle, height = x.mean(0), y.mean(0)
    x = x - middle
    weights = np.linalg.lstsq(x.T @ x, x.T @ (y - height), rcond=None)[0]     # (D, K)
    return lambda queries: (queries - middle) @ weights + height


def kendalls_tau(embeddings, stride=1):
    """Kendall's tau, -1..1: how far nearest neighbours in another video come in the same order.

    tau-b between the frames of a video and the indices of their nearest neighbours in another; mean
    over all ordered pairs of videos, but those without a tau: one frame, or one neighbour for all.
    The paper's "fraction of correct matches" would be (tau + 1) / 2.
    """
    videos = [torch.from_numpy(np.asarray(x[::stride], np.float64)) for x in embeddings if len(x)]
    if len(videos) < 2:
        return math.nan
    lengths = [len(video) for video in videos]
    frames = torch.cat(videos)                             # (M, D)
    taus = []
    for own, queries in enumerate(videos):
        nearest = []
        for near in closeness(queries, frames):
            by_video = near.split(lengths, dim=1)
            nearest.append(torch.stack([part.argmax(1) for part in by_video]))
        nearest = torch.cat(nearest, dim=1).int().numpy()  # (V, n): of each frame, in each video
        taus.extend(np.delete(rank_correlation(nearest), own))
    return mean(taus)


def closeness(queries, frames):
    """queries (n, D), frames (M, D) -> parts of (n, M) that fit in memory, larger = nearer:
    q.f - |f|^2 / 2 falls as the distance |q - f| grows."""
    half = frames.square().sum(1) / 2                      # (M,)
    for part in queries.split(max(1, BLOCK // len(frames))):
        yield torch.addmm(half, part, frames.T, beta=-1)


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
    """Fine-grained frame retrieval, AP@k (0..1): of a frame's k nearest frames in other videos, how
    many have its label; mean over frames, then over videos."""
    return precision(same_label(embeddings, labels, k, stride), k)


def same_label(embeddings, labels, k, stride=1):
    """Whether a frame's k nearest frames in other videos have its label -> [bool (n_i, k)], nearest
    first; k is less where the others of some video have fewer frames together."""
    embeddings, labels = labelled_only(embeddings, labels)
    if len(embeddings) < 2:
        return []
    videos = [torch.from_numpy(np.asarray(x[::stride], np.float64)) for x in embeddings]
    frames = torch.cat(videos)                                                # (M, D)
    labels = torch.from_numpy(np.concatenate([y[::stride] for y in labels]))  # (M,)
    k = min(k, len(frames) - max(len(video) for video in videos))
    found = []
    start = 0
    for queries in videos:
        stop = start + len(queries)
        nearest = []
        for near in closeness(queries, frames):
            near[:, start:stop] = -math.inf  # a video is not searched for its own frames
            nearest.append(near.topk(k).indices)
        found.append(labels[torch.cat(nearest)] == labels[start:stop, None])
        start = stop
    return found


def precision(found, k):
    """AP@k of what same_label found; of all that it found, where that is fewer than k."""
    return mean([video[:, :k].double().mean().item() for video in found])


def clock(frames):
    """The control that sees no pixel: cos(pi k t / n) for k = 1..4 and t = 0..n-1 -> (n, 4)."""
    time = np.arange(frames) / frames
    return np.cos(np.pi * np.outer(time, [1, 2, 3, 4])).astype(np.float32)


# --------------------------------------------------------------------------------------------------
# From embeddings to numbers: each metric for each action, the controls beside the model

def classifier_for(dataset, device):
    """The classification that the field uses on this data set."""
    if data.DATASETS[dataset].metrics == 'linear':
        return partial(linear_classifier, device=device)
    return classification


def score(dataset, embedded, embeddings, device='cpu'):
    """{split: [EmbeddedVideo]}, {split: [(n_i, D)]} -> {action: {metric: value}}, and their mean:

    {'bowl': {'tau': 0.99, 'ap5': 0.93, ...}, 'squat': {...}, ..., 'mean': {...}}, or 'mean' alone.
    Without labels there is tau alone; FineGym has its own classifier alone.
    """
    row = data.DATASETS[dataset]
    classify = classifier_for(dataset, device)
    rows = {}
    for action, members in by_action(dataset, embedded).items():
        lists = lists_of(members, embedded, embeddings)
        _, train_labels, val, val_labels = lists
        if row.metrics == 'linear':
            rows[action] = {'classification': classify(*lists)}
            continue
        rows[action] = {'tau': kendalls_tau(val, row.stride)}
        if any((y >= 0).any() for y in train_labels + val_labels):
            rows[action]['classification'] = classify(*lists)
            rows[action]['progression'] = progression(*lists)
            found = same_label(val, val_labels, 15, row.stride)
            for k in (5, 10, 15):
                rows[action][f'ap{k}'] = precision(found, k)
    if len(rows) == 1:
        return {'mean': mean_row(rows)}
    return rows | {'mean': mean_row(rows)}


def untrained(settings, network):
    """The control: a new draw from seed 0, not the weights that this run began with, on the same
    backbone; where that was trained too, on one made anew."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = models.build_model(settings, None if settings['train_backbone'] else network.backbone)
    return own.to(next(network.mtf.parameters()).device)


def assess(networks, videos, settings, *, controls=True, folders=None, workers=0):
    """Embed and score -> a dict, or None in all processes but rank 0:

    dataset     its name
    paper       the values of the paper's Table 1, {metric: (mean, 2 standard deviations)}, or None
    rows        {model: {action: {metric: value}}}: what `score` returns of each model and control
    remarks     lines about the data
    skipped     {video: why it cannot be read}
    embedded    {split: [EmbeddedVideo]}: the videos that could be read, with the labels
    embeddings  {model: {split: [(n_i, D)]}}: of the same videos in the same order

    networks: {name: MVFormer}; videos: of data.load; settings: the first model's; folders: {name:
    where its embeddings are saved}. Errors: UserError.
    """
    dataset = settings['dataset']
    row = data.DATASETS[dataset]
    phases = row.metrics != 'none'
    first = next(iter(networks.values()))
    device = next(first.mtf.parameters()).device
    if not folders:
        videos = needed(videos, phases)
    if controls and phases:
        networks = networks | {'untrained': untrained(settings, first)}

    embedded, embeddings, skipped = embed_splits(
        networks, videos, folders or {}, limit=settings.get('limit') or row.limit,
        whole=row.whole, device=device, workers=workers)
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
        notes = remarks(by_action(dataset, embedded), embedded, skipped, row.metrics == 'phases')
    return {'dataset': dataset, 'paper': row.paper, 'rows': rows, 'remarks': notes,
            'skipped': skipped, 'embedded': embedded, 'embeddings': embeddings}


def evaluate(model, videos, settings, *, controls=True, picture=None, log=None):
    """What train.py calls: prints the table -> the means {metric: value}, {} where nothing can be
    measured and in all processes but rank 0. log(**means) is called before `picture` is drawn."""
    result = assess({'trained': model}, videos, settings,
                    controls=controls, workers=settings['workers'])
    if result is None:
        return {}
    print_result(result, ['trained'])
    means = result['rows'].get('trained', {}).get('mean', {})
    if log:
        log(**means)
    if picture:
        attempt(picture, figures.draw_entities, model, result['embedded']['val'], picture)
    return means


# --------------------------------------------------------------------------------------------------
# The command

def run(args):
    """Errors: UserError, OSError, each one line."""
    check(args)
    _, _, device = join_processes(args.device)
    networks, settings = load_models(
        args.checkpoints, device, dataset=args.dataset, data=args.data, weights=args.weights,
        data_seed=args.data_seed, label_unit=args.label_unit, workers=args.workers)
    first = next(iter(networks.values()))
    if args.align:
        return align_files(first, settings, args.align, args.out, args.method)
    videos = data.load(settings['dataset'], settings['data'],
                       image_size=settings['image_size'], seed=settings['data_seed'],
                       label_unit=settings['label_unit'])
    if args.predict:
        return predict_folder(first, settings, videos['train'], args.predict, args.out,
                              fit_classifier)
    folders = folders_of(list(networks), args.embeddings)
    result = assess(networks, videos, settings, folders=folders, workers=settings['workers'])
    if result is not None:
        print_result(result, list(networks))
        make_more(args, networks, settings, result)


def make_more(args, networks, settings, result):
    """What the flags ask for beyond the table."""
    names = list(networks)
    first = networks[names[0]]
    if args.fractions and result['rows']:
        device = next(first.mtf.parameters()).device
        classify = classifier_for(result['dataset'], device)
        result['fractions'] = few_labels_table(result, names, args.fractions, classify)
    if args.focus:
        both = networks | {'untrained': untrained(settings, first)}
        result['focus'] = attempt('focus table', focus_table, both, result['embedded'])
    if args.json:
        attempt(args.json, write_json, result, settings, names, args.json)
    folder = args.checkpoints[0].parent
    if args.figures:
        print(f'drawing {args.figures}')
        result['predictions'] = attempt('predictions', predictions, result, names[0],
                                        (predict_phases, progression_targets, predict_progress))
        notes = attempt('pictures', figures.draw_all,
                        first, result, names[0], args.figures, folder / 'log.jsonl')
        for note in notes or []:
            print('note:', note)
    else:
        path = folder / 'entities.png'
        print(f'drawing {path}')
        attempt(path, figures.draw_entities, first, result['embedded']['val'], path)


def main(argv=None):
    args = parse(argv)
    try:
        run(args)
        wait_for_all()
    except (UserError, OSError) as error:
        print('evaluate.py: error: ' + ' '.join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    finally:
        leave_processes()


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='backslashreplace')  # a screen that lacks a letter shows its code
    main()
