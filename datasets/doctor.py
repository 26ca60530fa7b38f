"""The doctor: what of a data set is there, beside what was published, and what is wrong, by name.

    python data.py NAME --data DIR [--decode]
"""
import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from tqdm import tqdm

from datasets.labels import UNITS, check_labels
from datasets.layout import NOTE, printable, read_dataset, say
from running.errors import UserError

BATCH = 4    # videos, train.py's default


def doctor(dataset, row, data, videos, remarks, decode):
    """Print it all; the last line sums up. UserError: no video can be read.

    videos, remarks: what row.read returned. decode: decode every frame of every video.
    """
    counted = decode or row.metrics != 'none'    # Kinetics has too many, unless asked
    problems = []
    if counted:
        videos, problems = check_labels(videos)
    listed = list(dict.fromkeys(videos['train'] + videos['val']))
    reports = dict.fromkeys(listed, (0, 0, '', ''))
    if counted:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(partial(examine, decode=decode), listed)
            reports = dict(zip(listed, tqdm(found, 'videos', len(listed), disable=None)))
    table(row, videos, reports, counted)
    frames, labelled, unreadable, without_actor = zip(*reports.values())
    notes = [line.removeprefix(NOTE) for line in remarks + problems if line.startswith(NOTE)]
    notes += [f'no known actor: {why}' for why in filter(None, without_actor)]
    faults = {
        'missing': [line for line in remarks if not line.startswith(NOTE)],
        'cannot be read': list(filter(None, unreadable)),
        'labels do not fit': [line for line in problems if not line.startswith(NOTE)],
    }
    for kind, lines in [('note', notes), *faults.items()]:
        if lines:
            say(f'{kind}: {len(lines)}')
        for line in lines:
            say(f'    {line}')
    if len(faults['cannot be read']) == len(listed):
        raise UserError(
            f'{dataset}: none of the {len(listed)} videos in {data} can be read. {row.source}')
    if len(videos['train']) < BATCH:
        say(f'train videos: {len(videos["train"])}, fewer than the batch of {BATCH}')
    if row.own and max(frames) > row.limit:
        say(f'longest video: {max(frames):,} frames; of so many, training takes every k-th '
            f'(--longest)')
    if row.metrics != 'none' and not any(labelled):
        say('no labels: without them nothing tells what is learned beyond the time')
    lacks = [f'{len(lines)} {kind}' for kind, lines in faults.items() if lines]
    published = row.published.get('all', (0, 0))
    fewer = sum(max(0, count - len(found)) for count, found in zip(published, videos.values()))
    if fewer:
        lacks.append(f'{fewer} videos fewer than published')
    verdict = 'usable; see the notes above' if notes else 'complete'
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
    labels = np.array([]) if video.labels is None else video.labels
    return video.frames, int(np.sum(labels >= 0)), '', without_actor


def table(row, videos, reports, counted):
    """A row for each split and action: videos found and published, frames, frames with labels."""
    columns = '{:7}{:20}{:>9}{:>11}{:>13}{:>13}'.format
    say(columns('', 'action', 'videos', 'published', 'frames', 'labelled'))
    actions = [action for action in row.published if action != 'all']
    actions = actions or sorted({video.action for video in reports if video.action})
    for position, (split, found) in enumerate(videos.items()):
        for action in [*actions, 'all']:
            some = [reports[video] for video in found if action in (video.action, 'all')]
            published = row.published.get(action, ('-', '-'))[position]
            frames = f'{sum(report[0] for report in some):,}' if counted else '?'
            labelled = f'{sum(report[1] for report in some):,}' if counted else '?'
            say(columns(split, action, f'{len(some):,}', published, frames, labelled))


def main(datasets):
    """The command of data.py. datasets: data.DATASETS."""
    parser = argparse.ArgumentParser(description='what of a data set is there, and what is not')
    parser.add_argument('dataset', choices=[name for name, row in datasets.items() if row.on_disk])
    parser.add_argument('--data', required=True, help='its folder')
    parser.add_argument('--decode', action='store_true', help='decode every frame of every video')
    parser.add_argument('--label-unit', choices=UNITS, help='of labels that are segments')
    args = parser.parse_args()
    row = datasets[args.dataset]
    try:
        videos, remarks = read_dataset(args.dataset, row, args.data, 224, args.label_unit)
        doctor(args.dataset, row, args.data, videos, remarks, args.decode)
    except (UserError, OSError) as error:
        print(printable(f'data.py: error: {error}'), file=sys.stderr)
        sys.exit(2)
