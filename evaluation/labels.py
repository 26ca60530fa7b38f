"""Which frames have labels, and what few of them are worth."""
import argparse
import math

import numpy as np

from evaluation.table import mean, print_table


def labelled_only(embeddings, labels):
    """The labelled frames of the videos that have any: lists of (n_i, D) and int (n_i,), -1 = none ->
    the same lists, shorter."""
    kept = []
    kept_labels = []
    for x, y in zip(embeddings, labels, strict=True):
        known = np.asarray(y) >= 0
        if known.any():
            kept.append(np.asarray(x)[known])
            kept_labels.append(np.asarray(y)[known])
    return kept, kept_labels


def few_labels(actions, fraction, classify):
    """The field's few-label protocol: classification where only the first videos of each action's
    training list have labels (so large a fraction of them, at least one); mean over the actions.

    actions: [(train, train labels, val, val labels)], each a list of videos; classify: a function of
    these four -> accuracy.
    """
    scores = []
    for train, train_labels, val, val_labels in actions:
        count = max(1, int(fraction * len(train)))
        scores.append(classify(train[:count], train_labels[:count], val, val_labels))
    return mean(scores)


def few_labels_table(models, names, fractions, classify):
    """Print and return rows {model: {'mean': {'10%': accuracy, ...}}}. models: {name: its actions}."""
    rows = {}
    for name, actions in models.items():
        rows[name] = {'mean': {}}
        for fraction in fractions:
            rows[name]['mean'][f'{fraction:.3g}'] = few_labels(actions, fraction, classify)
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
        raise argparse.ArgumentTypeError(f'{text}: must be numbers above 0, at most 1, as 0.1,0.5,1')
    return numbers
