"""Kinetics-400, as the CVD Foundation hosts it and as its mirrors have it. To pre-train: no labels.

    annotations/train.csv           label, youtube_id, time_start, time_end
    train/<id>_<start>_<end>.mp4    or .mkv, .webm; in whatever folders
    replacement*/                   whole files in place of broken ones
Mirrors have other names: tables are all that end in train.csv or val.csv. Without a table, the
folder in which a clip lies is its class, as in train/<class>/.
"""
import csv
import os
import re
from pathlib import Path

from datasets.layout import NOTE, DataSet, readable, shortened
from datasets.video import VIDEO_FILES, one_line, video_file
from running.errors import UserError

SOURCE = 'Kinetics-400: github.com/cvdfoundation/kinetics-dataset'


def k400(data, _size):
    """-> videos, [missing, notes]. Videos keep their size; val, on which nobody pre-trains, may be
    absent."""
    clips, tables, strange = contents(data)
    videos = {'train': [], 'val': []}
    missing = []
    for split in videos:
        own = [table for table in tables if table.stem.endswith(split)]
        listed = clips_listed(own[0]) if own else clips_by_folder(data, clips, split)
        if split == 'train' and not listed:
            raise UserError(f'{data} lacks annotations/train.csv, or clips in train/<class>/. '
                            f'{SOURCE}')
        absent = []
        for clip, label in listed.items():
            name = '{}_{:06d}_{:06d}'.format(*clip)
            if clip in clips:
                videos[split].append(video_file(name, clips.pop(clip), action=label))
            else:
                absent.append(f'{split}/{name}.mp4')
        if videos[split]:
            missing += absent
    strange += clips.values()
    if strange:
        names = shortened(readable(path, data) for path in strange)
        missing.append(f'{NOTE}not used, in no table or no video named <id>_<start>_<end>: '
                       f'{len(strange)} ({names})')
    return videos, missing


def contents(data):
    """Files at any depth -> clips {(id, start, end): path}, tables, other videos."""
    clips = {}
    tables = []
    strange = []
    for folder, folders, files in os.walk(data, followlinks=True):
        folders.sort()
        for file in sorted(files):
            path = Path(folder, file)
            stem = path.stem.removesuffix('.mp4')  # some mirrors have .mp4.mkv
            match = re.fullmatch(r'(.+)_(\d+)_(\d+)', stem)
            if path.suffix == '.csv':
                tables.append(path)
            elif path.suffix.lower() not in VIDEO_FILES:
                continue
            elif not match:
                strange.append(path)
            else:
                clip = match[1], int(match[2]), int(match[3])
                if clip not in clips or '/replacement' in f'/{path.relative_to(data).as_posix()}':
                    clips[clip] = path
    return clips, tables, strange


def clips_by_folder(data, clips, split):
    """The clips in .../train/<class>/ -> {(id, start, end): label}."""
    listed = {}
    for clip, path in clips.items():
        folders = path.relative_to(data).parent.parts
        if len(folders) > 1 and split in folders[-2]:
            listed[clip] = folders[-1].replace('_', ' ')
    return listed


def clips_listed(table):
    """A table with a header -> {(id, start, end): label}."""
    listed = {}
    with open(table, newline='', encoding='utf-8-sig', errors='replace') as file:
        rows = csv.DictReader(file)
        try:
            for row in rows:
                clip = row['youtube_id'], int(row['time_start']), int(row['time_end'])
                listed[clip] = row['label']
        except (KeyError, ValueError, TypeError, csv.Error) as error:
            raise UserError(
                f'{table}, line {rows.line_num}: not label, youtube_id, time_start, time_end '
                f'({one_line(error)})') from None
    return listed


ROW = DataSet(k400, SOURCE, metrics='none')
