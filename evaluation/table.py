"""The table of an evaluation, and one plain sentence on what it shows.

rows: {model: {action: {metric: value}}}, 'mean' among the actions; some of the models are controls.
groups: {title: [models that differ in the seed alone]}.
"""
import json
import math

import numpy as np

METRICS = {  # as they are printed
    'classification': 'classification',
    'progression': 'progression',
    'tau': 'tau',
    'ap5': 'AP@5',
}
CONTROLS = {
    'clock': 'clock (sees no pixel)',
    'untrained': 'untrained model',
    'frozen (mean of patches)': 'frozen (mean of patches)',
    'frozen (CLS)': 'frozen (CLS)',
}
MARGIN = 0.03  # for a single run: about what three seeds of the synthetic set spread


def mean(values):
    """The mean of those that are numbers; NaN if none is."""
    values = [value for value in values if math.isfinite(value)]
    return float(np.mean(values)) if values else math.nan


def mean_row(rows):
    """{action: {metric: value}} -> {metric: mean over the actions that have a value}."""
    columns = {}
    for row in rows.values():
        for metric, value in row.items():
            columns.setdefault(metric, []).append(value)
    return {metric: mean(values) for metric, values in columns.items()}


def spread(rows, names):
    """Over the models `names`: {action: {metric: (mean, 2 population standard deviations)}}."""
    table = {}
    for action, row in rows[names[0]].items():
        table[action] = {}
        for metric in row:
            values = [rows[name][action][metric] for name in names]
            table[action][metric] = float(np.mean(values)), 2 * float(np.std(values))
    return table


def print_row(title, row, columns, several, width):
    """row: {metric: (mean, 2 standard deviations)}; `several`: print the deviations too."""
    line = f'{title:{width}}'
    for metric in columns:
        value, deviation = row.get(metric, (math.nan, math.nan))
        cell = '-' if math.isnan(value) else f'{value:.4f}'
        if several and cell != '-':
            cell += f' ± {deviation:.4f}'
        line += f'{cell:>18}'
    print(line)


def print_table(heading, rows, groups, paper=None):
    """Of one group of models each action and their mean, of several their means; then the controls,
    the paper's row {metric: (mean, 2 standard deviations)}, and of each group the verdict."""
    tables = {title: spread(rows, names) for title, names in groups.items()}
    first = next(iter(tables.values()))
    columns = {metric: title for metric, title in METRICS.items() if metric in first['mean']}
    width = max(26, *(len(title) + 2 for title in groups))
    most = max(map(len, groups.values()))
    heading += f'; {most} checkpoints: mean ± 2 standard deviations' if most > 1 else ''
    print(f'\n{heading}')
    print(' ' * width + ''.join(f'{title:>18}' for title in columns.values()))
    if len(groups) == 1:
        for action, row in first.items():
            print_row(action, row, columns, most > 1, width)
    else:
        for title, table in tables.items():
            print_row(title, table['mean'], columns, len(groups[title]) > 1, width)
    controls = [control for control in CONTROLS if control in rows]
    for control in controls:
        print_row(CONTROLS[control], spread(rows, [control])['mean'], columns, False, width)
    if paper:
        print_row('paper, Table 1', paper, columns, True, width)
    if controls:
        for title, names in groups.items():
            about = f'{title}: ' if len(groups) > 1 else ''
            print(about + verdict(rows, names, columns))


def print_result(result, groups):
    """The table of the checkpoints in `groups`, and what its reader must know of the data."""
    counts = [f'{len(videos)} {split}' for split, videos in result['embedded'].items() if videos]
    if result['rows']:
        heading = f'{result["dataset"]}: {", ".join(counts)} videos'
        print_table(heading, result['rows'], groups, paper=result['paper'])
    for remark in result['remarks']:
        print('note:', remark)


def remarks(actions, embedded, skipped):
    """What a reader of the table must know about the data, one line each.

    actions: labels.by_action of the EmbeddedVideos themselves; skipped: {video: why}.
    """
    lines = name_some('left out, cannot be read', skipped.values())
    everything = embedded['train'] + embedded['val']
    bare = names_of(record for record in everything if (record.labels < 0).all())
    if len(bare) == len(everything):
        lines.append("no labels: Kendall's tau only")
    else:
        lines += name_some("no labels, for Kendall's tau only", dict.fromkeys(bare))
        trained = [record.video for record in embedded['train']]
        measured = [record.video for record in embedded['val']]
        if trained and trained == measured:
            lines.append('val holds the videos trained on: the scores say nothing of new videos')
    for action, (train, _, val, val_labels) in actions.items():
        if len(val) == 1:
            lines.append(f'{action}: one val video, which has no other to be compared with')
        if not val:
            lines.append(f'{action}: no val video')
        if not train and any((labels >= 0).any() for labels in val_labels):
            lines.append(f'{action}: no train video')
    return lines


def names_of(records):
    return [record.video.name for record in records]


def name_some(text, names):
    """[one line that counts the names and says the first five], or [] if there are none."""
    names = list(names)
    some = ', '.join(names[:5])
    if len(names) > 5:
        some += ', ...'
    return [f'{text} ({len(names)}): {some}'] if names else []


def verdict(rows, names, columns):
    """One sentence: what is above every control by more than chance, and what is not.

    Chance is 2 standard deviations of several checkpoints. One run has none: a fixed margin stands
    for them, and the sentence says so.
    """
    if list(columns) == ['tau']:
        return ('Without labels nothing can be told: tau asks for the order of the frames alone, '
                'which the clock knows. Label the phases of a few videos.')
    by = f'by more than {MARGIN} (a fixed margin: one run has no spread)'
    if len(names) > 1:
        by = f'by more than the spread of the {len(names)} checkpoints'
    controls = [name for name in CONTROLS if name in rows]
    above, below = [], []
    passed = set()    # the controls that some metric is above
    for metric, title in columns.items():
        value, margin = spread(rows, names)['mean'][metric]
        if len(names) == 1:
            margin = MARGIN
        others = {name: rows[name]['mean'].get(metric, math.nan) for name in controls}
        if not all(map(math.isfinite, [value, *others.values()])):
            continue
        beaten = {name for name in controls if value - margin > others[name]}
        passed |= beaten
        (above if len(beaten) == len(controls) else below).append(title)
    if not above + below:
        return 'Nothing here can be compared with every control.'
    sentence = f'Above every control {by}: {", ".join(above) or "nothing"}'
    if above and below:
        sentence += f'; not {", ".join(below)}'
    if above:
        return sentence + '.'
    if 'clock' not in passed:
        return sentence + '. This model has not learned more than the time in the video.'
    if 'untrained' not in passed:
        return sentence + '. Training has added nothing to what the network shows before it.'
    return sentence + '. The frozen backbone alone does as well.'


def write_json(result, settings, groups, path):
    """All numbers of evaluate.assess, with the spread of each group."""
    numbers = {key: value for key, value in result.items()
               if key not in ('embedded', 'embeddings')}
    numbers['videos'] = {split: len(videos) for split, videos in result['embedded'].items()}
    numbers['settings'] = settings
    numbers['groups'] = groups
    numbers['spread'] = {}
    if result['rows']:
        numbers['spread'] = {title: spread(result['rows'], groups[title]) for title in groups}
    text = json.dumps(numbers)
    numbers = json.loads(text, parse_constant=lambda _: None)  # JSON has no NaN: null
    path.write_text(json.dumps(numbers, indent=1) + '\n', encoding='utf-8')
