"""The table of an evaluation, and one plain sentence on what it shows.

rows: {model: {action: {metric: value}}}, 'mean' among the actions; two of the models are controls.
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
CONTROLS = {'clock': 'clock (sees no pixel)', 'untrained': 'untrained model'}
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


def print_row(title, row, columns, several):
    """row: {metric: (mean, 2 standard deviations)}; `several`: print the deviations too."""
    cells = []
    for metric in columns:
        value, deviation = row.get(metric, (math.nan, math.nan))
        if math.isnan(value):
            cells.append('-')
        elif several:
            cells.append(f'{value:.4f} ± {deviation:.4f}')
        else:
            cells.append(f'{value:.4f}')
    print(f'{title:26}' + ''.join(f'{cell:>18}' for cell in cells))


def print_table(heading, rows, names, columns=METRICS, paper=None):
    """The models `names` per action and their mean, the controls, the paper's row, and the verdict.

    columns: {metric: its printed name}; paper: {metric: (mean, 2 standard deviations)}.
    """
    table = spread(rows, names)
    there = [metric for metric in columns if metric in table['mean']]
    several = len(names) > 1
    if several:
        heading += f'; {len(names)} checkpoints: mean ± 2 standard deviations'
    print(f'\n{heading}')
    print(' ' * 26 + ''.join(f'{columns[metric]:>18}' for metric in there))
    for action, row in table.items():
        print_row(action, row, there, several)
    for control, title in CONTROLS.items():
        if control in rows:
            print_row(title, spread(rows, [control])['mean'], there, several=False)
    if paper:
        print_row('paper, Table 1', paper, there, several=True)
    if all(control in rows for control in CONTROLS):
        print(verdict(rows, names, {metric: columns[metric] for metric in there}))


def print_result(result, names):
    """The table of the checkpoints `names`, and what its reader must know of the data."""
    counts = [f'{len(videos)} {split}' for split, videos in result['embedded'].items() if videos]
    if result['rows']:
        heading = f'{result["dataset"]}: {", ".join(counts)} videos'
        print_table(heading, result['rows'], names, paper=result['paper'])
    for remark in result['remarks']:
        print('note:', remark)


def remarks(actions, embedded, skipped, progress=True):
    """What a reader of the table must know about the data, one line each.

    actions: {action: {split: positions in embedded[split]}}; skipped: {video: why}; progress:
    whether progression is among the metrics.
    """
    everything = embedded['train'] + embedded['val']
    lines = name_some('left out, cannot be read', skipped.values())
    empty = names_of(record for record in everything if not len(record.labels))
    lines += name_some('no labelled frame', empty)
    bare = names_of(record for record in everything if (record.labels < 0).any())
    if bare and len(bare) == len(everything):
        lines.append("no labels: Kendall's tau only")
    else:
        lines += name_some("no labels, for Kendall's tau only", bare)
    for action, members in actions.items():
        labelled = {}
        for split, positions in members.items():
            videos = [embedded[split][i] for i in positions]
            labelled[split] = [record for record in videos if (record.labels >= 0).any()]
        if len(members['val']) == 1:
            lines.append(f'{action}: one val video, which has no other to be compared with')
        both = labelled['train'] + labelled['val']
        if not both:
            continue
        for split in members:
            if not members[split]:
                lines.append(f'{action}: no {split} video')
        classes = np.unique(np.concatenate([record.labels for record in both]))
        if progress:
            for k in classes[:-1]:
                lacking = names_of(record for record in both if k not in record.labels)
                text = f'{action}: without class {k}, left out of its progression'
                lines += name_some(text, lacking)
    return lines


def names_of(embedded):
    return [record.video.name for record in embedded]


def name_some(text, names):
    """[one line that counts the names and says the first five], or [] if there are none."""
    names = list(names)
    some = ', '.join(names[:5])
    if len(names) > 5:
        some += ', ...'
    return [f'{text} ({len(names)}): {some}'] if names else []


def verdict(rows, names, columns):
    """One sentence: what is above both controls by more than chance, and what is not.

    Chance is 2 standard deviations of several checkpoints. One run has none: a fixed margin stands
    for them, and the sentence says so.
    """
    above, below = [], []
    beats_the_clock = False
    for metric, title in columns.items():
        value, margin = spread(rows, names)['mean'][metric]
        if len(names) == 1:
            margin = MARGIN
        controls = [rows[control]['mean'].get(metric, math.nan) for control in CONTROLS]
        if not all(map(math.isfinite, [value, *controls])):
            continue
        beats_the_clock = beats_the_clock or value - margin > controls[0]
        if value - margin > max(controls):
            above.append(title)
        else:
            below.append(title)
    if not above + below:
        return 'Nothing here can be compared with both controls.'
    if len(names) == 1:
        by = f'by more than {MARGIN} (a fixed margin: one run has no spread)'
    else:
        by = f'by more than the spread of the {len(names)} checkpoints'
    sentence = f'Above both controls {by}: {", ".join(above) or "nothing"}'
    if above and below:
        return sentence + f'; not {", ".join(below)}.'
    if above:
        return sentence + '.'
    if beats_the_clock:
        return sentence + '. Training has added nothing to what the network shows before it.'
    return sentence + '. This model has not learned more than the time in the video.'


def write_json(result, settings, names, path):
    """All numbers of evaluate.assess, with the spread of the models `names`."""
    numbers = {key: value for key, value in result.items()
               if key not in ('embedded', 'embeddings', 'predictions')}
    numbers['videos'] = {split: len(videos) for split, videos in result['embedded'].items()}
    numbers['settings'] = settings
    numbers['checkpoints'] = names
    numbers['spread'] = spread(result['rows'], names) if result['rows'] else {}
    text = json.dumps(numbers)
    numbers = json.loads(text, parse_constant=lambda _: None)  # JSON has no NaN: null
    path.write_text(json.dumps(numbers, indent=1) + '\n', encoding='utf-8')
