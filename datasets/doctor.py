"""What of a data set is there, beside what was published, and what is wrong, by name.

    python data.py NAME --data DIR [--decode]
"""
import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.labels import drop_wrong_labels
from datasets.layout import NOTE, say, shortened
from datasets.tables import UNITS
from running.command import end_well
from running.errors import UserError

BATCH = 4    # videos, train.py's default


def read_dataset(dataset, row, data, size, label_unit=None):
    """What row.read finds in a folder, without labels that do not fit -> videos, notes, and faults
    by their kind: lines. A UserError names the data set and where to get it."""
    try:
        if not data:
            raise UserError(f'--data is missing, the folder it lies in. {row.source}')
        if not Path(data).is_dir():
            raise UserError(f'{data} is no folder (--data). {row.source}')
        if label_unit and not row.own:
            raise UserError('its labels are no segments, so leave out --label-unit')
        options = {'unit': label_unit} if label_unit else {}
        videos, remarks = row.read(Path(data), size, **options)
        for split in videos:
            if not videos[split] and (row.metrics, split) != ('none', 'val'):
                why = f' ({shortened(remarks)})' if remarks else ''
                raise UserError(f'no {split} video in {data}{why}. {row.source}')
    except UserError as error:
        raise UserError(f'{dataset}: {error}') from None
    notes = [line.removeprefix(NOTE) for line in remarks if line.startswith(NOTE)]
    listed = list(dict.fromkeys(videos['train'] + videos['val']))
    bare = [video.name for video in listed if not video.annotate]
    if 0 < len(bare) < len(listed):
        notes.append(f'{len(bare)} of {len(listed)} videos have no labels: {shortened(bare)}')
    faults = {
        'missing': [line for line in remarks if not line.startswith(NOTE)],
        'labels left out': drop_wrong_labels(listed),
    }
    return videos, notes, faults


def say_remarks(dataset, data, notes, faults):
    """Notes in a line each, and a line on each kind of fault."""
    for note in notes:
        say(f'{dataset}: note: {note}')
    for kind, lines in faults.items():
        if lines:
            say(f'{dataset}: {len(lines)} {kind}, among them {", ".join(lines[:3])}; '
                f'python data.py {dataset} --data {data} names them all', warning=True)


def doctor(dataset, row, data, decode, label_unit):
    """Print it all; the last line sums up. UserError: no video can be read.

    decode: decode every frame of every video.
    """
    videos, notes, faults = read_dataset(dataset, row, data, 224, label_unit)
    reports = dict.fromkeys(videos['train'] + videos['val'], (0, 0, '', ''))
    if decode or row.metrics != 'none':    # Kinetics has too many, unless asked
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(partial(examine, decode=decode), reports)
            found = tqdm(found, 'videos', len(reports), disable=None)
            reports = dict(zip(reports, found))
    table(row, videos, reports)
    frames, labelled, unreadable, without_actor = zip(*reports.values())
    faults['cannot be read'] = [*filter(None, unreadable)]
    notes += [f'no known actor: {why}' for why in filter(None, without_actor)]
    for kind, lines in [('note', notes), *faults.items()]:
        if lines:
            say(f'{kind}: {len(lines)}')
        for line in lines:
            say(f'    {line}')
    if all(unreadable):
        raise UserError(
            f'{dataset}: none of the {len(reports)} videos in {data} can be read. {row.source}')
    if len(videos['train']) < BATCH:
        say(f'train videos: {len(videos["train"])}, fewer than the batch of {BATCH}')
    if row.own and max(frames) > row.limit:
        say(f'longest video: {max(frames):,} frames; of so many, training takes every k-th '
            f'(--longest)')
    if row.metrics != 'none' and not any(labelled):
        say('no labels: without them nothing tells what is learned beyond the time')
    verdict = 'usable; see the notes above' if notes else 'complete'
    lacks = [f'{len(lines)} {kind}' for kind, lines in faults.items() if lines]
    published = row.published.get('all', (0, 0))
    fewer = sum(max(0, count - len(found)) for count, found in zip(published, videos.values()))
    if fewer:
        lacks.append(f'{fewer} videos fewer than published')
    if lacks:
        verdict = f'usable, but lacking: {", ".join(lacks)}. {row.source}'
    say(f'{dataset}: {verdict}')


def examine(video, decode):
    """-> its number of frames, of labelled ones, why it cannot be read, why its actor is not known.
    """
    try:
        frames = video.frames_on_disk
        if decode:
            for _ in video.decode(np.arange(frames)):
                pass
    except UserError as error:
        return 0, 0, str(error), ''
    without_actor = ''
    try:
        if video.mask:
            video.mask(video.positions([video.frames - 1]))
    except UserError as error:
        without_actor = str(error)
    labelled = 0 if video.labels is None else int(np.sum(video.labels >= 0))
    return video.frames, labelled, '', without_actor


def table(row, videos, reports):
    """A row for each split and action: videos found and published, frames, frames with labels."""
    columns = '{:7}{:20}{:>9}{:>11}{:>13}{:>13}'.format
    say(columns('', 'action', 'videos', 'published', 'frames', 'labelled'))
    actions = [action for action in row.published if action != 'all']
    actions = actions or sorted({video.action for video in reports if video.action})
    for position, (split, found) in enumerate(videos.items()):
        for action in [*actions, 'all']:
            some = [reports[video] for video in found if action in (video.action, 'all')]
            published = row.published.get(action, ('-', '-'))[position]
            frames = sum(report[0] for report in some)
            labelled = sum(report[1] for report in some)
            counts = [f'{count:,}' if count else '-' for count in (frames, labelled)]
            say(columns(split, action, f'{len(some):,}', published, *counts))


def main(datasets):
    """The command of data.py. datasets: data.DATASETS."""
    parser = argparse.ArgumentParser(description='what of a data set is there, and what is not')
    parser.add_argument('dataset', choices=[name for name, row in datasets.items() if row.on_disk])
    parser.add_argument('--data', required=True, help='its folder')
    parser.add_argument('--decode', action='store_true', help='decode every frame of every video')
    parser.add_argument('--label-unit', choices=UNITS, help='of labels that are segments')
    args = parser.parse_args()
    end_well('data.py', doctor, args.dataset, datasets[args.dataset], args.data, args.decode,
             args.label_unit, stopped='stopped')
