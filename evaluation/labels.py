"""Which videos and frames a metric is measured on."""
import data


def labelled_only(embeddings, labels):
    """The labelled frames of the videos that have any: [(n_i, D)], [int (n_i,), -1 = none] -> the
    same lists, shorter. A video that is labelled throughout is passed on, not copied."""
    kept, kept_labels = [], []
    for x, y in zip(embeddings, labels, strict=True):
        known = y >= 0
        if known.any():
            kept.append(x if known.all() else x[known])
            kept_labels.append(y[known])
    return kept, kept_labels


def only_measured(videos, phases):
    """Of {split: [Video]} what is measured, or where there are no phases a few to be drawn."""
    if not phases:
        return {'train': [], 'val': (videos['val'] or videos['train'])[:8]}
    if not any(video.annotate for video in videos['train'] + videos['val']):
        return {'train': [], 'val': videos['val']}  # tau asks for no train video
    return videos


def by_action(dataset, embedded, embeddings):
    """{action: (train, train labels, val, val labels)}, lists as a metric takes them, of
    {split: [EmbeddedVideo]} and {split: [one of each video]}. FineGym is one whole."""
    actions = {}
    for place, split in enumerate(('train', 'val')):
        for record, z in zip(embedded[split], embeddings[split]):
            action = record.video.action if data.DATASETS[dataset].by_action else None
            lists = actions.setdefault(action or 'all', ([], [], [], []))
            lists[2 * place].append(z)
            lists[2 * place + 1].append(record.labels)
    return actions
