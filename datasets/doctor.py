"""The doctor: what of a data set is there, beside what was published, and what is wrong, by name.

    python data.py NAME --data DIR [--decode]
"""
import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.labels import check_labels
from datasets.layout import NOTE, printable, read_dataset
from datasets.segments import UNITS
from datasets.video import one_line
from running.errors import UserError


class Report(NamedTuple):
    """What was found out about a video."""
    frames: int = 0
    labelled: int = 0
    unreadable: str = ''     # why it cannot be read
    sampled_down: str = ''   # its frames and labels differ in number, as some of Penn Action's do


def doctor(dataset, row, data, videos, remarks, decode=False):
    """Print it all; the last line sums up. UserError: no video can be read.

    videos, remarks: what row.read returned. decode: decode every frame of every video.
    """
    listed = list(dict.fromkeys(videos['train'] + videos['val']))
    reports = {video: Report() for video in listed}
    problems = []
    counted = decode or row.counted
    if counted:
        problems = check_labels(videos)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(partial(examine, decode=decode), listed)
            reports = dict(zip(listed, tqdm(found, 'videos', len(listed), disable=None)))

    table(row, videos, reports, counted)
    notes = [line for line in remarks + problems if line.startswith(NOTE)]
    wrong = {
        'note': [line.removeprefix(NOTE) for line in notes],
        'missing': [line for line in remarks if line not in notes],
        'cannot be read': [report.unreadable for report in reports.values() if report.unreadable],
        'labels do not fit': [line for line in problems if line not in notes],
        'sampled down': [report.sampled_down for report in reports.values() if report.sampled_down]}
    for kind, lines in wrong.items():
        if lines:
            show(f'{kind}: {len(lines)}')
        for line in lines:
            show(f'    {line}')
    if len(wrong['cannot be read']) == len(listed):
        raise UserError(
            f'{dataset}: none of the {len(listed)} videos in {data} can be read. {row.source}')
    show(f'{dataset}: {verdict(row, videos, wrong)}')


def show(line):
    print(printable(line))


def examine(video, decode):
    """-> Report"""
    frames = 0
    try:
        frames = video.frames_on_disk
        if decode:
            for _ in video.decode(np.arange(frames)):
                pass
    except UserError as error:
        return Report(frames, unreadable=str(error))
    labels = video.labels
    labelled = 0 if labels is None else int(np.sum(labels >= 0))
    if not video.fit or len(video.annotate(frames)) == frames:
        return Report(frames, labelled)
    given = len(video.annotate(frames))
    differ = f'{video.name}: {frames} frames, {given} labels'
    return Report(video.frames, labelled, sampled_down=differ)


def table(row, videos, reports, counted):
    """A row for each split and action: videos found and published, frames, frames with labels."""
    show(f'{"":7}{"action":20}{"videos":>9}{"published":>11}{"frames":>13}{"labelled":>13}')
    actions = [action for action in row.published if action != 'all']
    if not actions:
        present = {video.action for video in reports if video.action}
        actions = sorted(present)
    for split, position in (('train', 0), ('val', 1)):
        for action in [*actions, 'all']:
            members = [video for video in videos[split] if action in (video.action, 'all')]
            published = row.published[action][position] if action in row.published else '-'
            frames = labelled = '?'
            if counted:
                frames = f'{sum(reports[video].frames for video in members):,}'
                labelled = f'{sum(reports[video].labelled for video in members):,}'
            show(f'{split:7}{action:20}{len(members):9,}{published:>11}{frames:>13}{labelled:>13}')


def verdict(row, videos, wrong):
    """One line: whether it is complete, usable, or lacks something; and then where to get it."""
    lacks = [f'{len(wrong[kind])} {kind}'
             for kind in ('missing', 'cannot be read', 'labels do not fit') if wrong[kind]]
    if 'all' in row.published:
        train, val = row.published['all']
        fewer = max(0, train - len(videos['train'])) + max(0, val - len(videos['val']))
        if fewer:
            lacks.append(f'{fewer} videos fewer than published')
    if lacks:
        return f'usable, but lacking: {", ".join(lacks)}. {row.source}'
    return 'usable; see the notes above' if wrong['note'] else 'complete'


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
        print(printable(f'data.py: error: {one_line(error)}'), file=sys.stderr)
        sys.exit(2)
