"""FineGym99 and 288, or as CARL's authors prepared them."""
import json
import os
import re
from functools import partial

import av
import numpy as np

from datasets.carl import carl
from datasets.layout import DataSet, layout
from datasets.video import DataError, one_line, video_file


SOURCE = ('Annotation and lists: sdolivia.github.io/FineGym. processed_videos/: its events, each cut '
          'from its YouTube video, 640x360, 25 fps, named <video>_E_<start>_<end>.mp4')


def finegym(data, _size, classes):
    """FineGym99 or 288: the clips of the events with a listed element, labelled here; or CARL's."""
    number, found = layout(SOURCE, data,
                           (f'gym{classes}_train_element*.txt', f'gym{classes}_val_element*.txt',
                            'processed_videos', 'finegym_annotation_info*.json'),
                           (f'gym{classes}_train*.pkl', f'gym{classes}_val*.pkl', 'processed_videos'))
    if number == 1:
        return carl(*found, None, [classes], [None])
    *lists, clips, annotation = found
    videos, missing, there = {'train': [], 'val': []}, [], set(os.listdir(clips))
    listed = {split: elements(file, classes) for split, file in zip(videos, lists)}
    try:
        known = json.loads(annotation.read_bytes())
        for split, event, chosen in ((split, *item) for split in videos for item in listed[split].items()):
            youtube, when = event.rsplit('_E_', 1)
            segments = known.get(youtube, {}).get(f'E_{when}', {}).get('segments') or {}
            missing += [f'{event}_{each} in {annotation.name}' for each in chosen if each not in segments]
            spans = [(*map(float, segments[each]['timestamps'][-1]), chosen[each])
                     for each in segments if each in chosen]
            if f'{event}.mp4' not in there:
                missing.append(f'processed_videos/{event}.mp4 ({split})')
            elif spans:
                path = str(clips / f'{event}.mp4')
                videos[split].append(video_file(event, path, annotate=partial(element_labels, path, spans)))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f'{annotation}: not the annotation of FineGym ({one_line(error)})') from None
    return videos, missing


def elements(path, classes):
    """Lines `<video>_E_<start>_<end>_A_<start>_<end> <class>` -> {event: {segment: class}}."""
    listed = {}
    for number, line in enumerate(path.read_text(errors='replace').splitlines(), 1):
        match = re.fullmatch(r'(.+_E_\d+_\d+)_(A_\d+_\d+)\s+(\d+)\s*', line)
        if line.strip() and (not match or int(match[3]) >= classes):
            raise DataError(f'{path}, line {number}: not an element with its class, 0 to {classes - 1}')
        if match:
            listed.setdefault(match[1], {})[match[2]] = int(match[3])
    return listed


def element_labels(path, spans, frames):
    """An event's labels: -1, but for each (start, end in seconds, class), its last frame included."""
    with av.open(path) as file:
        rate = round(float(file.streams.video[0].average_rate or 25), 2)
    labels = np.full(frames, -1)
    for start, end, kind in spans:
        labels[int(start * rate):int(end * rate) + 1] = kind
    return labels


FINEGYM99 = DataSet(partial(finegym, classes=99), SOURCE, published={'all': (3182, 1442)}, metrics='linear',
                    by_action=False, limit=2000, paper=dict(classification=(.4477, .0071)))
FINEGYM288 = DataSet(partial(finegym, classes=288), SOURCE, metrics='linear', by_action=False, limit=2000,
                     paper=dict(classification=(.3830, .0026)))
