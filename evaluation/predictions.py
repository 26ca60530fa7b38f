"""The phases and the progress that the table's two regressions predict, frame by frame."""
from operator import itemgetter

import numpy as np

from evaluation.labels import by_action, labelled_only, lists_of


def predictions(result, name, regressions, wanted=3):
    """What figures.draw_phases draws: phases and progress of some val videos, the actions in turn.

    result: of evaluate.assess; name: the model's in it; regressions: evaluate.py's functions
    predict_phases, progression_targets, predict_progress
    -> [{'video': EmbeddedVideo, 'predicted': (n,), 'progress': {k: (true (n,), predicted (n,))}}],
    without actions of one class or more than 20.
    """
    embedded = result['embedded']
    embeddings = result['embeddings'][name]
    candidates = []
    for members in by_action(result['dataset'], embedded).values():
        known = [embedded['train'][i].labels for i in members['train']]
        classes = np.unique(np.concatenate([[], *known]))
        if not 2 <= np.sum(classes >= 0) <= 20:
            continue
        for turn, i in enumerate(members['val']):
            if (embedded['val'][i].labels >= 0).any():
                candidates.append((turn, i, members))
    candidates.sort(key=itemgetter(0))
    found = []
    for _, i, members in candidates[:wanted]:
        train, labels, _, _ = lists_of(members, embedded, embeddings)
        record, z = embedded['val'][i], embeddings['val'][i]
        found.append(predict_one(record, z, train, labels, *regressions))
    return found


def predict_one(record, z, train, labels, predict_phases, progression_targets, predict_progress):
    """An EmbeddedVideo, its embeddings (n, D), those of its action's train videos -> its dict."""
    x, y = labelled_only(train, labels)
    x = np.concatenate(x)
    classes = np.unique(np.concatenate([record.labels, *y]))
    targets = [progression_targets(labels, classes) for labels in y]
    guesses = predict_progress(x, np.concatenate(targets), z)    # (n, K-1)
    truth = progression_targets(record.labels, classes)             # (n, K-1)
    progress = {}
    for k, true, guess in zip(classes.tolist(), truth.T, guesses.T):
        if np.isfinite(true).all() and np.isfinite(guess).all():
            progress[k] = true, guess
    predicted = predict_phases(x, np.concatenate(y), z)
    return {'video': record, 'predicted': predicted, 'progress': progress}
