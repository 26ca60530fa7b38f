"""The labelled frames, the videos of each action, and what few labels are worth."""
import data
from evaluation.table import mean, print_table
from running.errors import UserError


def labelled_only(embeddings, labels):
    """The labelled frames of the videos that have any.

    embeddings: [(n_i, D)], labels: [int (n_i,)], -1 = none -> the same lists, shorter. A video
    that is labelled throughout is passed on, not copied.
    """
    kept = []
    kept_labels = []
    for x, y in zip(embeddings, labels, strict=True):
        known = y >= 0
        if known.all() and len(y):
            kept.append(x)
            kept_labels.append(y)
        elif known.any():
            kept.append(x[known])
            kept_labels.append(y[known])
    return kept, kept_labels


def has_labels(video):
    try:
        return video.labels is not None
    except UserError:  # labels that do not fit: embedding will skip and name the video
        return True


def needed(videos, phases):
    """Of {split: [Video]} what is measured, or where there are no phases a few to be drawn."""
    if not phases:
        return {'train': [], 'val': (videos['val'] or videos['train'])[:8]}
    if not any(map(has_labels, videos['train'] + videos['val'])):
        return {'train': [], 'val': videos['val']}  # tau asks for no train video
    return videos


def actions_of(dataset, embedded):
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


def few_labels_table(result, groups, fractions, classify):
    """Print and return rows {model: {'mean': {'0.1': accuracy}}} of a result of evaluate.assess."""
    embedded = result['embedded']
    members = actions_of(result['dataset'], embedded).values()
    columns = {f'{fraction:.3g}': f'{fraction:.3g}' for fraction in fractions}
    rows = {}
    for name, embeddings in result['embeddings'].items():
        actions = [lists_of(each, embedded, embeddings) for each in members]
        scores = [few_labels(actions, fraction, classify) for fraction in fractions]
        rows[name] = {'mean': dict(zip(columns, scores))}
    print_table('classification by a fraction of the train videos', rows, groups, columns)
    return rows
