"""The table of an evaluation, and one plain sentence on what it shows.

rows: {model: {action: {metric: value}}}, 'mean' among the actions; some of the models are controls.
groups: {title: [models that differ in the seed alone]}; names: those of a group.
"""
import json
import math

import numpy as np

from datasets.layout import shortened

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
    """{action: {metric: (mean, 2 population standard deviations)}} over the models `names`."""
    table = {}
    for action, row in rows[names[0]].items():
        table[action] = {}
        for metric in row:
            values = [rows[name][action][metric] for name in names]
            table[action][metric] = float(np.mean(values)), 2 * float(np.std(values))
    return table


def print_row(title, row, columns, several=False, width=26):
    """row: {metric: (mean, 2 standard deviations)}; `several`: print the deviations too."""
    line = f'{title:{width}}'
    for metric in columns:
        value, deviation = row.get(metric, (math.nan, math.nan))
        cell = '-' if math.isnan(value) else f'{value:.4f}'
        if several and cell != '-':
            cell += f' ± {deviation:.4f}'
        line += f'{cell:>18}'
    print(line)


def print_result(result, groups):
    """Of evaluate.assess: of one group of models each action and their mean, of several their
    means; the controls, the paper's row, the verdicts, and what a reader must know of the data."""
    rows = result['rows']
    if rows:
        counts = [f'{len(some)} {split}' for split, some in result['embedded'].items() if some]
        heading = f'\n{result["dataset"]}: {", ".join(counts)} videos'
        most = max(map(len, groups.values()))
        if most > 1:
            heading += f'; {most} checkpoints: mean ± 2 standard deviations'
        tables = {title: spread(rows, names) for title, names in groups.items()}
        first = next(iter(tables.values()))
        columns = [metric for metric in METRICS if metric in first['mean']]
        width = max(26, *(len(title) + 2 for title in groups))
        print(heading)
        print(' ' * width + ''.join(f'{METRICS[metric]:>18}' for metric in columns))
        shown = first
        if len(groups) > 1:
            shown = {title: table['mean'] for title, table in tables.items()}
        for title, row in shown.items():
            print_row(title, row, columns, most > 1, width)
        controls = [name for name in CONTROLS if name in rows]
        for name in controls:
            print_row(CONTROLS[name], spread(rows, [name])['mean'], columns, width=width)
        if result['paper']:
            print_row('paper, Table 1', result['paper'], columns, True, width)
        if controls:
            for title, names in groups.items():
                about = f'{title}: ' if len(groups) > 1 else ''
                print(about + verdict(rows, names, columns))
    for remark in result['remarks']:
        print('note:', remark)


def remarks(actions, embedded, skipped):
    """What a reader of the table must know about the data, one line each. actions: by_action of the
    EmbeddedVideos themselves; skipped: {video: why}."""
    lines = name_some('left out, cannot be read', skipped.values())
    everything = embedded['train'] + embedded['val']
    bare = dict.fromkeys(one.video.name for one in everything if (one.labels < 0).all())
    if all((one.labels < 0).all() for one in everything):
        lines.append("no labels: Kendall's tau only")
    else:
        lines += name_some("no labels, for Kendall's tau only", bare)
        trained = [one.video for one in embedded['train']]
        if trained and trained == [one.video for one in embedded['val']]:
            lines.append('val holds the videos trained on: the scores say nothing of new videos')
    for action, (train, _, val, val_labels) in actions.items():
        if len(val) < 2:
            lines.append(f'{action}: {len(val) or "no"} val video; tau and AP@5 compare two')
        if not train and any((labels >= 0).any() for labels in val_labels):
            lines.append(f'{action}: no train video')
    return lines


def name_some(text, names):
    """[one line that counts the names and says the first five], or [] if there are none."""
    return [f'{text} ({len(names)}): {shortened(names, 5)}'] if names else []


def verdict(rows, names, columns):
    """One sentence: what is above every control by more than chance, and what is not. Chance is 2
    standard deviations of several checkpoints; for one run, a fixed margin, as the sentence says.
    """
    if columns == ['tau']:
        return ('Without labels nothing can be told: tau asks for the order of the frames alone, '
                'which the clock knows. Label the phases of a few videos.')
    by = f'by more than {MARGIN} (a fixed margin: one run has no spread)'
    if len(names) > 1:
        by = f'by more than the spread of the {len(names)} checkpoints'
    means = spread(rows, names)['mean']
    controls = [name for name in CONTROLS if name in rows]
    beaten = {}    # {metric: the controls that it is above}
    for metric in columns:
        value, margin = means[metric]
        if len(names) == 1:
            margin = MARGIN
        others = {name: rows[name]['mean'].get(metric, math.nan) for name in controls}
        if all(map(math.isfinite, [value, *others.values()])):
            beaten[metric] = {name for name in controls if value - margin > others[name]}
    if not beaten:
        return 'Nothing here can be compared with every control.'
    above = [METRICS[metric] for metric in beaten if len(beaten[metric]) == len(controls)]
    below = [METRICS[metric] for metric in beaten if len(beaten[metric]) < len(controls)]
    sentence = f'Above every control {by}: {", ".join(above) or "nothing"}'
    if above:
        return sentence + (f'; not {", ".join(below)}.' if below else '.')
    passed = set.union(*beaten.values())
    if 'clock' not in passed:
        return sentence + '. This model has not learned more than the time in the video.'
    if 'untrained' not in passed:
        return sentence + '. Training has added nothing to what the network shows before it.'
    return sentence + '. The frozen backbone alone does as well.'


def write_json(result, settings, groups, path):
    """All numbers of evaluate.assess, with the spread of each group."""
    numbers = {name: result[name] for name in ('dataset', 'paper', 'rows', 'remarks', 'skipped')}
    numbers['videos'] = {split: len(videos) for split, videos in result['embedded'].items()}
    numbers['settings'] = settings
    numbers['spread'] = {}
    if result['rows']:
        numbers['spread'] = {title: spread(result['rows'], groups[title]) for title in groups}
    text = json.dumps(numbers)
    numbers = json.loads(text, parse_constant=lambda _: None)  # JSON has no NaN: null
    path.write_text(json.dumps(numbers, indent=1) + '\n', encoding='utf-8')
