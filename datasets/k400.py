"""Kinetics-400 as the CVD Foundation hosts it."""
import csv
import os

from datasets.layout import DataSet, layout
from datasets.video import DataError, one_line, video_file


SOURCE = 'Kinetics-400: github.com/cvdfoundation/kinetics-dataset'


def k400(data, _size, scan=False):
    """Kinetics-400 as the CVD Foundation hosts it. Its 240,000 files are looked for only to `scan` it."""
    layout(SOURCE, data, ('annotations/train.csv', 'train'))
    videos, missing = {'train': [], 'val': []}, []
    for split in videos:
        table = data / 'annotations' / f'{split}.csv'
        if not table.exists() or not (data / split).is_dir():
            continue  # val: nobody pre-trains on it
        there = set(os.listdir(data / split)) if scan else None
        with open(table, newline='', encoding='utf-8-sig', errors='replace') as file:
            rows = csv.DictReader(file)
            try:
                for row in rows:
                    name = f'{row["youtube_id"]}_{int(row["time_start"]):06d}_{int(row["time_end"]):06d}'
                    path = f'{split}/{name}.mp4'
                    if scan and f'{name}.mp4' not in there:
                        missing.append(path)
                    else:
                        videos[split].append(video_file(name, f'{data}/{path}', action=row['label']))
            except (KeyError, ValueError, TypeError, csv.Error) as error:
                raise DataError(f'{table}, line {rows.line_num}: not label, youtube_id, time_start, time_end '
                                f'({one_line(error)})') from None
    return videos, missing


ROW = DataSet(k400, SOURCE, metrics='none', counted=False)
