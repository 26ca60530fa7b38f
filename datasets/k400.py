"""Kinetics-400, as the CVD Foundation hosts it and as its mirrors have it. To pre-train: no labels.

    annotations/train.csv           label, youtube_id, time_start, time_end
    train/<id>_<start>_<end>.mp4    or train_256/, videos_train/; or in sub-folders named by class
    replacement*/                   whole files in place of broken ones
All of it may lie in a folder k400/, and files may be .mkv or .webm. Without a table, sub-folders
named by class do.
"""
import csv
import os
import re
from pathlib import Path

from datasets.layout import NOTE, DataSet, readable, shortened
from datasets.video import VIDEO_FILES, one_line, video_file
from running.errors import UserError

SOURCE = 'Kinetics-400: github.com/cvdfoundation/kinetics-dataset'
TOPS = ('', 'k400', 'kinetics400', 'kinetics-400')
FOLDERS = ('{}', '{}_256', 'videos_{}')
TABLES = ('annotations/{}.csv', 'annotations/k400_{}.csv', 'annotations/kinetics_{}.csv', '{}.csv')


def k400(data, _size):
    """-> videos, [missing, notes]. Videos keep their size; val, on which nobody pre-trains, may be
    absent."""
    tops = [data / name for name in TOPS if first_there(data / name, FOLDERS, 'train')]
    top = tops[0] if tops else data
    replaced = {}
    for folder in sorted(top.glob('replacement*')):
        replaced |= clips_below(folder)[0]
    videos = {'train': [], 'val': []}
    remarks = []
    for split in videos:
        folder = first_there(top, FOLDERS, split)
        table = first_there(top, TABLES, split)
        if folder and (table or any(path.is_dir() for path in folder.iterdir())):
            videos[split], more = videos_of(data, folder, table, replaced)
            remarks += more
        elif split == 'train':
            lacks = 'annotations/train.csv' if folder else 'train'
            raise UserError(f'{data} lacks {lacks}. {SOURCE}')
    return videos, remarks


def first_there(top, names, split):
    paths = [top / name.format(split) for name in names]
    return next((path for path in paths if path.exists()), None)


def videos_of(data, folder, table, replaced):
    """The videos of one split -> [Video], [missing, notes].

    table: a csv that lists them; None: the files do, each in a sub-folder named by its class.
    replaced: {clip: path} of files that stand in for those in `folder`.
    """
    there, strange = clips_below(folder)
    if table:
        listed = clips_listed(table)
    else:
        listed = {clip: path.parent.name.replace('_', ' ') for clip, path in there.items()}
    standing_in = {clip: path for clip, path in replaced.items() if clip in listed}
    files = there | standing_in
    videos = []
    remarks = []
    for clip, label in listed.items():
        name = '{}_{:06d}_{:06d}'.format(*clip)
        if clip in files:
            videos.append(video_file(name, files[clip], action=label))
        else:
            remarks.append(f'{folder.relative_to(data)}/{name}.mp4')
    strange += [path for clip, path in there.items() if clip not in listed]
    if strange:
        names = shortened(readable(path, data) for path in strange)
        remarks.append(f'{NOTE}not used, in no table or no video named <id>_<start>_<end>: '
                       f'{len(strange)} ({names})')
    if standing_in:
        remarks.append(f'{NOTE}{len(standing_in)} files from replacement folders')
    return videos, remarks


def clips_below(folder):
    """Video files at any depth -> {(id, start, end): path}, [paths of everything else]."""
    clips = {}
    strange = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for file in sorted(files):
            stem, ending = os.path.splitext(file)
            stem = stem.removesuffix('.mp4')  # some mirrors have .mp4.mkv
            match = re.fullmatch(r'(.+)_(\d+)_(\d+)', stem)
            if match and ending.lower() in VIDEO_FILES:
                clip = match[1], int(match[2]), int(match[3])
                clips[clip] = Path(parent, file)
            else:
                strange.append(Path(parent, file))
    return clips, strange


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


ROW = DataSet(k400, SOURCE, metrics='none', counted=False)
