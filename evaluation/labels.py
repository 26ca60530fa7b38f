"""The labelled frames, the videos of each action, and what few labels are worth."""
import argparse
import math

import numpy as np

import data
from evaluation.table import mean, print_table
from running.errors import UserError


def labelled_only(embeddings, labels):
    """The labelled frames of the videos that have any.

    embeddings: [(n_i, D)], labels: [int (n_i,)], -1 = none -> the same lists, shorter.
    """
    kept = []
    kept_labels = []
    for x, y in zip(embeddings, labels, strict=True):
        known = np.asarray(y) >= 0
        if known.any():
            kept.append(np.asarray(x)[known])
            kept_labels.append(np.asarray(y)[known])
    return kept, kept_labels


def has_labels(videos):
    """Whether any of the videos {split: [Video]} has labels."""
    for video in videos['train'] + videos['val']:
        try:
            if video.labels is not None:
                return True
        except UserError:  # labels that do not fit: embedding will skip and name the video
            return True
    return False


def needed(videos, phases):
    """Of {split: [Video]} what is measured, or where there are no phases a few to be drawn."""
    if not phases:
        return {'train': [], 'val': (videos['val'] or videos['train'])[:8]}
    if not has_labels(videos):
        return {'train': [], 'val': videos['val']}  # tau asks for no train video
    return videos


def by_action(dataset, embedded):
    """{action: {split: positions in embedded[split]}}; FineGym is one whole."""
    actions = {}
    for split in ('train', 'val'):
        for position, record in enumerate(embedded[split]):
            action = record.video.action if data.DATASETS[dataset].by_action else None
            members = actions.setdefault(action or 'all', {'train': [], 'val': []})
            members[split].append(position)
    return actions


def lists_of(members, embedded, embeddings):
    """What a metric takes of one action: train, train labels, val, val labels."""
    lists = []
    for split in ('train', 'val'):
        lists.append([embeddings[split][i] for i in members[split]])
        lists.append([embedded[split][i].labels for i in members[split]])
    return lists


def few_labels(actions, fraction, classify):
    """The field's few-label protocol: of each action's training list only the first videos, this
    fraction and at least one, have labels -> classification, mean over the actions.

    actions: [(train, train labels, val, val labels)]; classify: a function of these -> accuracy.
    """
    scores = []
    for train, train_labels, val, val_labels in actions:
        count = max(1, int(fraction * len(train)))
        scores.append(classify(train[:count], train_labels[:count], val, val_labels))
    return mean(scores)


def few_labels_table(result, names, fractions, classify):
    """Print and return rows {model: {'mean': {'0.1': accuracy}}} of a result of evaluate.assess."""
    embedded = result['embedded']
    groups = by_action(result['dataset'], embedded).values()
    rows = {}
    for name, embeddings in result['embeddings'].items():
        actions = [lists_of(members, embedded, embeddings) for members in groups]
        accuracies = {}
        for fraction in fractions:
            accuracies[f'{fraction:.3g}'] = few_labels(actions, fraction, classify)
        rows[name] = {'mean': accuracies}
    columns = {f'{fraction:.3g}': f'{fraction:.3g}' for fraction in fractions}
    print_table('classification by a fraction of the train videos', rows, names, columns)
    return rows


def fractions(text):
    """'0.1,0.5,1' -> [0.1, 0.5, 1.0], for argparse."""
    try:
        numbers = [float(part) for part in text.split(',')]
    except ValueError:
        numbers = [math.nan]
    if not all(0 < number <= 1 for number in numbers):
        raise argparse.ArgumentTypeError(f'{text}: must be numbers above 0, up to 1, as 0.1,0.5,1')
    return numbers
