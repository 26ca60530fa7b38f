"""Evaluate MV-Former (paper, section 4 "Tasks and Metrics"): embed every frame, score, compare.

    python evaluate.py runs/penn/checkpoint.pt      the four metrics beside two controls
    python evaluate.py runs/seed*/checkpoint.pt     several: mean +- 2 standard deviations
    python evaluate.py CKPT --align A.mp4 B.mp4     a film: the same moment of one's own videos
    python evaluate.py CKPT --predict DIR           their phases (both: evaluation/own_videos.py)

Embeddings: one (n, D) array a video, of unit length; labels: int (n,), -1 = none. Two controls: the
`clock` knows how far into its video a frame is and sees no pixel; `untrained` is the model before
training. What is not above both has learned nothing that a metric can see. The machinery (decoding,
processes, flags, printing) and what goes beyond the paper's metrics are in evaluation/.
"""
import math
import re
import sys
import warnings
from functools import partial

import numpy as np
import torch
import torch.distributed as dist

import data
import figures
import model as models
from evaluation.checkpoints import load_models
from evaluation.command import check, parse
from evaluation.embedding import embed_splits
from evaluation.focus import focus_table
from evaluation.labels import by_action, has_labels, labelled_only, lists_of
from evaluation.labels import few_labels_table
from evaluation.linear import linear_classifier
from evaluation.own_videos import align_files, predict_folder
from evaluation.predictions import predictions
from evaluation.table import mean, mean_row, print_result, remarks, write_json
from running.processes import RunError, is_rank0, join_processes

BLOCK = 2 ** 24  # numbers in a metric's largest temporary array


# --------------------------------------------------------------------------------------------------
# The four metrics: lists of embeddings (n_i, D) and labels (n_i,) -> a number, or NaN

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
    return fit_classifier(x, y).predict(queries.astype(np.float32))


def fit_classifier(x, y):
    """Softmax regression: the least sum of cross-entropies + half the squared norm of the weights.

    By Newton's method, in the embeddings' own precision: 7 to 9 steps to the optimum. The usual
    L-BFGS takes a hundred and, at its default tolerance, stops too early.
    """
    from sklearn.linear_model import LogisticRegression
    # Two classes are fitted by one logistic function: its C = 2 is the two-class softmax at C = 1.
    C = 2 if len(np.unique(y)) == 2 else 1
    classifier = LogisticRegression(C=C, solver='newton-cg', tol=3e-7, max_iter=1000)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', '.*line search')  # at the optimum, rounding stops it
        return classifier.fit(x.astype(np.float32), y)


def progression(train, train_labels, val, val_labels):
    """Phase progression: R^2 on val of the time since each phase's end, mean over the phases."""
    from sklearn.metrics import r2_score
    x, y = labelled_only(train, train_labels)
    val_x, val_y = labelled_only(val, val_labels)
    if not x or not val_x:
        return math.nan
    classes = np.unique(np.concatenate(y + val_y))
    targets = np.concatenate([progression_targets(one, classes) for one in y])    # (n, K-1)
    truth = np.concatenate([progression_targets(one, classes) for one in val_y])  # (m, K-1)
    predicted = predict_progress(np.concatenate(x), targets, np.concatenate(val_x))
    scores = []
    for true, guess in zip(truth.T, predicted.T):
        rows = np.isfinite(true) & np.isfinite(guess)
        if rows.sum() > 1:
            scores.append(r2_score(true[rows], guess[rows]))
    return mean(scores)


def progression_targets(labels, classes):
    """(t - last frame of class k) / n, for each frame t and each class k but the last: (n, K-1).

    A column of NaN for a class that never occurs in this video, which has nothing to say about it.
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
    from sklearn.linear_model import LinearRegression
    x = x.astype(np.float64)
    queries = queries.astype(np.float64)
    predicted = np.full((len(queries), targets.shape[1]), np.nan)
    same_rows = {}  # regressions on the same frames are one solve
    for column, known in enumerate(np.isfinite(targets).T):
        same_rows.setdefault(known.tobytes(), []).append(column)
    for columns in same_rows.values():
        rows = np.isfinite(targets[:, columns[0]])
        if rows.any():
            line = LinearRegression().fit(x[rows], targets[rows][:, columns])
            predicted[:, columns] = line.predict(queries)
    return predicted


def kendalls_tau(embeddings, stride=1):
    """Kendall's tau, -1..1: do nearest neighbours in another video come in the same order?

    tau-b between the frames of a video and the indices of their nearest neighbours in another; mean
    over all ordered pairs of videos, but those without a tau: one frame, or one neighbour for all.
    """
    videos = [torch.from_numpy(np.asarray(x[::stride], np.float64)) for x in embeddings if len(x)]
    if len(videos) < 2:
        return math.nan
    lengths = [len(video) for video in videos]
    frames = torch.cat(videos)                             # (M, D)
    half = frames.square().sum(1) / 2
    taus = []
    for own, queries in enumerate(videos):
        nearest = []
        for near in closeness(queries, frames, half):
            by_video = near.split(lengths, dim=1)
            nearest.append(torch.stack([one.argmax(1) for one in by_video]))
        nearest = torch.cat(nearest, dim=1).int().numpy()  # (V, n): of each frame, in each video
        taus.extend(np.delete(rank_correlation(nearest), own))
    return mean(taus)


def closeness(queries, frames, half):
    """queries (n, D), frames (M, D), half of their squared norms (M,) -> parts of (n, M) that fit
    in memory, larger = nearer: q.f - |f|^2 / 2 falls as the distance |q - f| grows."""
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
    """Have a frame's k nearest frames its label? -> [bool (n_i, k)], nearest first."""
    embeddings, labels = labelled_only(embeddings, labels)
    if len(embeddings) < 2:
        return []
    videos = [torch.from_numpy(np.asarray(x[::stride], np.float64)) for x in embeddings]
    frames = torch.cat(videos)                                                # (M, D)
    labels = torch.from_numpy(np.concatenate([y[::stride] for y in labels]))  # (M,)
    half = frames.square().sum(1) / 2
    k = min(k, len(frames) - max(len(video) for video in videos))
    found = []
    start = 0
    for queries in videos:
        stop = start + len(queries)
        nearest = []
        for near in closeness(queries, frames, half):
            near[:, start:stop] = -math.inf  # a video is not searched for its own frames
            nearest.append(near.topk(k).indices)
        found.append(labels[torch.cat(nearest)] == labels[start:stop, None])
        start = stop
    return found


def precision(found, k):
    """AP@k of what same_label found."""
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
    """{split: [EmbeddedVideo]}, {split: [(n_i, D)]} -> {action: {metric: value}}, and their mean.

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
    """The control: the model before training, always the same draw, on the same frozen backbone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = models.build_model(settings, None if settings['train_backbone'] else network.backbone)
    return own.to(next(network.mtf.parameters()).device)


def assess(networks, videos, settings, *, controls=True, folders=None, workers=0):
    """Embed and score -> a dict, or None in all processes but rank 0:

    rows        {model: {action: {metric: value}}}
    remarks     lines about the data; skipped: {video: why}; dataset; paper: its values
    embedded    {split: [EmbeddedVideo]}
    embeddings  {model: {split: [(n_i, D)]}}

    networks: {name: MVFormer}; videos: of data.load; settings: the first model's; folders: {name:
    where its embeddings are saved}. Where there are no phases nothing is measured, and a few videos
    are embedded for the pictures. Errors: DataError, ModelError.
    """
    dataset = settings['dataset']
    row = data.DATASETS[dataset]
    phases = row.metrics != 'none'
    first = next(iter(networks.values()))
    device = next(first.mtf.parameters()).device
    if not phases and not folders:
        videos = {'train': [], 'val': (videos['val'] or videos['train'])[:8]}
    elif not folders and not has_labels(videos):
        videos = {'train': [], 'val': videos['val']}  # tau asks for no train video
    if controls and phases:
        networks = networks | {'untrained': untrained(settings, first)}

    embedded, embeddings, skipped = embed_splits(
        networks, videos, folders or {}, limit=settings.get('limit') or row.limit,
        device=device, workers=workers)
    if not is_rank0():
        return None
    for split in embedded:
        if videos[split] and not embedded[split]:
            reason = next(iter(skipped.values()))
            raise data.DataError(f'{dataset}: no {split} video can be read; the first: {reason}')
    if controls and phases:
        embeddings['clock'] = {}
        for split in embedded:
            embeddings['clock'][split] = [clock(one.frames)[one.kept] for one in embedded[split]]

    rows = {}
    notes = [f'{dataset} has no phases: nothing to measure']
    if phases:
        rows = {name: score(dataset, embedded, embeddings[name], device) for name in embeddings}
        notes = remarks(by_action(dataset, embedded), embedded, skipped, row.metrics == 'phases')
    return {'dataset': dataset, 'paper': row.paper, 'rows': rows, 'remarks': notes,
            'skipped': skipped, 'embedded': embedded, 'embeddings': embeddings}


def evaluate(model, videos, settings, *, controls=True, picture=None, log=None):
    """What train.py calls: prints the table -> the means {metric: value}, {} where nothing can be
    measured and in all processes but rank 0.

    settings: train.Settings or its dict. log(**means) is called before the file `picture` is drawn.
    """
    settings = settings if isinstance(settings, dict) else vars(settings)
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


def attempt(what, function, *arguments):
    """Optional output: what fails becomes a printed note. No picture is worth a result."""
    try:
        return function(*arguments)
    except Exception as error:
        print(f'note: no {what}: {" ".join(str(error).split()) or type(error).__name__}')


# --------------------------------------------------------------------------------------------------
# The command

def run(args):
    """Errors: DataError, ModelError, RunError, OSError, each one line."""
    check(args)
    _, _, device = join_processes(args.device)
    networks, settings = load_models(
        args.checkpoints, device, dataset=args.dataset, data=args.data, weights=args.weights,
        data_seed=args.data_seed, label_unit=args.label_unit, workers=args.workers)
    names = list(networks)
    first = networks[names[0]]
    if args.align:
        return align_files(first, settings, args.align, args.out, args.method)
    videos = data.load(settings['dataset'], settings['data'],
                       image_size=settings['image_size'], seed=settings['data_seed'],
                       label_unit=settings['label_unit'])
    if args.predict:
        return predict_folder(first, settings, videos['train'], args.predict, args.out,
                              fit_classifier)
    folders = {}
    for name in names if args.embeddings else []:
        inner = re.sub(r'[^\w.-]+', '_', name) if len(names) > 1 else ''
        folders[name] = args.embeddings / inner
    result = assess(networks, videos, settings, folders=folders, workers=settings['workers'])
    if result is not None:
        print_result(result, names)
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
    except (data.DataError, models.ModelError, RunError, OSError) as error:
        print('evaluate.py: error: ' + ' '.join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='backslashreplace')  # a screen that lacks a letter shows its code
    main()
