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
    """{action: {metric: (mean, 2 population standard deviations)}} over the models `names`; NaN for
    the second of one model. {} where nothing was measured."""
    table = {}
    for action, row in rows.get(names[0], {}).items():
        table[action] = {}
        for metric in row:
            values = [rows[name][action][metric] for name in names]
            deviation = 2 * float(np.std(values)) if len(names) > 1 else math.nan
            table[action][metric] = float(np.mean(values)), deviation
    return table


def print_result(result, groups):
    """Of evaluate.assess: the table, and what a reader must know of the data."""
    if result['rows']:
        print_table(result, groups)
    for remark in result['remarks']:
        print('note:', remark)


def print_table(result, groups):
    """Of one group of models each action and their mean, of several their means; the controls, the
    paper's row; the verdicts."""
    rows = result['rows']
    lines = {title: spread(rows, names)['mean'] for title, names in groups.items()}
    columns = [metric for metric in METRICS if metric in next(iter(lines.values()))]
    if len(groups) == 1:
        lines = spread(rows, *groups.values())
    controls = {CONTROLS[name]: spread(rows, [name])['mean'] for name in CONTROLS if name in rows}
    lines = lines | controls
    if result['paper']:
        lines['paper, Table 1'] = result['paper']
    width = max(26, *(len(title) + 2 for title in lines))

    counts = [f'{len(some)} {split}' for split, some in result['embedded'].items() if some]
    most = max(map(len, groups.values()))
    several = f'; {most} checkpoints: mean ± 2 standard deviations' if most > 1 else ''
    print(f'\n{result["dataset"]}: {", ".join(counts)} videos{several}')
    print(' ' * width + ''.join(f'{METRICS[metric]:>18}' for metric in columns))
    for title, row in lines.items():
        print(f'{title:{width}}' + ''.join(f'{cell(row.get(metric)):>18}' for metric in columns))
    if len(controls) > 1 and len(groups) > 1:
        print(f'(untrained and frozen: as the first is built, {next(iter(groups))})')
    if controls:
        for title, names in groups.items():
            about = f'{title}: ' if len(groups) > 1 else ''
            print(about + verdict(rows, names, columns))


def cell(numbers):
    """(mean, deviation), whose deviation may be NaN, or None -> as it is printed."""
    if not numbers or math.isnan(numbers[0]):
        return '-'
    return ' ± '.join(f'{number:.4f}' for number in numbers if math.isfinite(number))


def remarks(rows, embedded):
    """What a reader of the table must know about the data, one line each. rows: of one model,
    {action: {metric: value}}."""
    lines = []
    trained = [one.video for one in embedded['train']]
    if trained and trained == [one.video for one in embedded['val']]:
        lines.append('val holds the videos trained on: the scores say nothing of new videos')
    for action, row in rows.items():
        without = ', '.join(METRICS[metric] for metric in row if math.isnan(row[metric]))
        if without:
            lines.append(f'{action}: no {without}; it takes two val videos, labels in both splits')
    return lines


def name_some(text, names):
    """[one line that counts the names and says the first five], or [] if there are none."""
    return [f'{text} ({len(names)}): {shortened(names, 5)}'] if names else []


def verdict(rows, names, columns):
    """One sentence: what is above every control by more than chance, and what is not. Chance is 2
    standard deviations of several checkpoints; for one run, a fixed margin, as the sentence says.
    """
    means = spread(rows, names)['mean']
    measured = [metric for metric in columns if math.isfinite(means[metric][0])]
    if measured == ['tau']:
        return ('Without labels nothing can be told: tau asks for the order of the frames alone, '
                'which the clock knows. Label the phases of a few videos, of train and val.')
    if not measured:
        return 'Nothing here can be compared with the controls.'
    by = f'{MARGIN} (a fixed margin: one run has no spread)'
    if len(names) > 1:
        by = f'the spread of the {len(names)} checkpoints'
    better = {}    # {metric: controls that are not below the models}
    for metric in measured:
        value, deviation = means[metric]
        least = value - (deviation if len(names) > 1 else MARGIN)
        better[metric] = {name for name in CONTROLS.keys() & rows.keys()
                          if not rows[name]['mean'][metric] < least}
    best = ', '.join(METRICS[metric] for metric in measured if not better[metric])
    rest = ', '.join(METRICS[metric] for metric in measured if better[metric])
    sentence = f'Above every control by more than {by}: {best or "nothing"}'
    if best:
        return f'{sentence}; not {rest}.' if rest else f'{sentence}.'
    always = set.intersection(*better.values())
    if 'clock' in always:
        return f'{sentence}. This model has not learned more than the time in the video.'
    if 'untrained' in always:
        return f'{sentence}. Training has added nothing to what the network shows before it.'
    return f'{sentence}. The frozen backbone alone does as well.'


def write_json(result, settings, groups, path):
    """All numbers of evaluate.assess, with the spread of each group."""
    numbers = {name: result[name] for name in ('dataset', 'paper', 'rows', 'remarks', 'skipped')}
    numbers['videos'] = {split: len(videos) for split, videos in result['embedded'].items()}
    numbers['settings'] = settings
    numbers['spread'] = {title: spread(result['rows'], names) for title, names in groups.items()}
    text = json.dumps(numbers)
    numbers = json.loads(text, parse_constant=lambda _: None)  # JSON has no NaN: null
    path.write_text(json.dumps(numbers, indent=1) + '\n', encoding='utf-8')
