"""Kinetics-400, as the CVD Foundation hosts it and as its mirrors have it. To pre-train: no labels.

    annotations/train.csv           label, youtube_id, time_start, time_end
    train/<id>_<start>_<end>.mp4    or .mkv, .webm; in whatever folders
    replacement*/                   whole files in place of broken ones
Mirrors have other names: tables are all that end in train.csv or val.csv; without one, a clip's
folder is its class, as in train/<class>/.
"""
import csv
import re
from glob import escape, glob
from pathlib import Path

from datasets.layout import NOTE, DataSet, readable, refused, shortened
from datasets.video import VIDEO_FILES, video_file

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
    tables = []
    found = map(Path, sorted(glob(f'{escape(str(data))}/**/*.*', recursive=True)))
    places = {readable(path, data): path for path in found}
    # replacements last, to take the place of others
    for place in sorted(places, key=lambda place: '/replacement' in f'/{place}'):
        path = places[place]
        match = re.match(r'(.+)_(\d+)_(\d+)\.', path.name)
        name = clip_name(*match.groups()) if match else place
        if path.suffix == '.csv':
            tables.append(path)
        elif path.suffix.lower() in VIDEO_FILES:
            taken = name in clips and '/replacement' not in f'/{place}'
            clips[place if taken else name] = path    # a second of its name is one by itself
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
    with refused(f'{table}: not a table of label, youtube_id, time_start, time_end'), \
            open(table, newline='', encoding='utf-8-sig', errors='replace') as file:
        for row in csv.DictReader(file):
            name = clip_name(row['youtube_id'], row['time_start'], row['time_end'])
            listed[name] = row['label']
    return listed


ROW = DataSet(k400, SOURCE, metrics='none')
