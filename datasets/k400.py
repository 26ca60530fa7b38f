"""Kinetics-400, as the CVD Foundation hosts it and as its mirrors have it. To pre-train: no labels.

    annotations/train.csv           label, youtube_id, time_start, time_end
    train/<id>_<start>_<end>.mp4    or .mkv, .webm; in whatever folders
    replacement*/                   whole files in place of broken ones
Mirrors have other names: tables are all that end in train.csv or val.csv; without one, a clip's
folder is its class, as in train/<class>/.
"""
import csv
import os
import re
from pathlib import Path

from datasets.layout import NOTE, DataSet, one_line, readable, shortened
from datasets.video import VIDEO_FILES, video_file
from running.errors import UserError

SOURCE = ('annotations/train.csv and train/*.mp4, or train/<class>/*.mp4: '
          'github.com/cvdfoundation/kinetics-dataset')


def k400(data, _size):
    """-> videos, [missing, notes]. Videos keep their size; val, on which nobody pre-trains, may be
    absent."""
    clips, tables = contents(data)
    videos = {'train': [], 'val': []}
    missing = []
    for split in videos:
        own = [table for table in tables if table.stem.endswith(split)]
        listed = clips_listed(own[0]) if own else clips_by_folder(data, clips, split)
        absent = [f'{split}/{name}.mp4' for name in listed if name not in clips]
        for name, label in listed.items():
            if name in clips:
                videos[split].append(video_file(name, clips.pop(name), action=label))
        if videos[split]:
            missing += absent
    if clips:
        names = shortened(readable(path, data) for path in clips.values())
        missing.append(f'{NOTE}not used, in no table and no train/<class>/: {len(clips)} ({names})')
    return videos, missing


def clip_name(video, start, end):
    return f'{video}_{int(start):06d}_{int(end):06d}'


def contents(data):
    """Files at any depth -> videos {name: path}, tables."""
    clips = {}
    replaced = set()
    tables = []
    for folder, folders, files in os.walk(data, followlinks=True):
        folders.sort()
        for file in sorted(files):
            path = Path(folder, file)
            stem = path.stem.removesuffix('.mp4')  # some mirrors have .mp4.mkv
            match = re.fullmatch(r'(.+)_(\d+)_(\d+)', stem)
            name = clip_name(*match.groups()) if match else readable(path, data)
            if path.suffix == '.csv':
                tables.append(path)
            elif path.suffix.lower() not in VIDEO_FILES:
                continue
            elif '/replacement' in f'/{readable(path, data)}':
                clips[name] = path
                replaced.add(name)
            elif name not in clips:
                clips[name] = path
            elif name not in replaced:
                clips[readable(path, data)] = path    # a second of its name is one by itself
    return clips, tables


def clips_by_folder(data, clips, split):
    """The clips in .../train/<class>/ -> {name: label}."""
    listed = {}
    for name, path in clips.items():
        folders = path.relative_to(data).parent.parts
        if len(folders) > 1 and split in folders[-2]:
            listed[name] = folders[-1].replace('_', ' ')
    return listed


def clips_listed(table):
    """A table with a header -> {name: label}."""
    listed = {}
    with open(table, newline='', encoding='utf-8-sig', errors='replace') as file:
        rows = csv.DictReader(file)
        try:
            for row in rows:
                name = clip_name(row['youtube_id'], row['time_start'], row['time_end'])
                listed[name] = row['label']
        except (KeyError, ValueError, TypeError, csv.Error) as error:
            raise UserError(
                f'{table}, line {rows.line_num}: not label, youtube_id, time_start, time_end '
                f'({one_line(error)})') from None
    return listed


ROW = DataSet(k400, SOURCE, metrics='none')
