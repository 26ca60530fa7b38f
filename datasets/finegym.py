"""FineGym99 and 288 as released, or as CARL's authors prepared them (paper, section 4).

    finegym_annotation_info_v1.0.json    video -> event -> segments, each with times in seconds
    gym99_train_element_v1.0.txt         lines <video>_E_<start>_<end>_A_<start>_<end> <class>
    processed_videos/                    <video>_E_<start>_<end>.mp4: an event, cut from its video
A frame's label is the class of the listed element that it belongs to, or -1.
"""
import json
import re
from functools import partial

import numpy as np

from datasets.carl import carl
from datasets.layout import DataSet, layout, refused
from datasets.packets import open_video
from datasets.video import video_file
from running.errors import UserError

SOURCE = (
    'Annotation and lists: sdolivia.github.io/FineGym. processed_videos/: its events, each cut '
    'from its YouTube video, 640x360, 25 fps, named <video>_E_<start>_<end>.mp4')


def finegym(data, _size, classes):
    """-> videos, [missing]: the events with a listed element of FineGym99 or 288, in their size."""
    number, found = layout(
        SOURCE, data,
        (f'gym{classes}_train_element*.txt', f'gym{classes}_val_element*.txt',
         'processed_videos', 'finegym_annotation_info*.json'),
        (f'gym{classes}_train*.pkl', f'gym{classes}_val*.pkl', 'processed_videos'))
    if number == 1:
        return carl(*found, None, {None: classes})
    train_list, val_list, clips, annotation = found
    videos = {'train': [], 'val': []}
    missing = []
    with refused(f'{annotation}: not the annotation of FineGym'):
        known = json.loads(annotation.read_bytes())
        for split, listed in (('train', train_list), ('val', val_list)):
            for event, chosen in elements(listed, classes).items():
                video, when = event.rsplit('_E_', 1)
                segments = known.get(video, {}).get(f'E_{when}', {}).get('segments') or {}
                # an element of several stages has several times; the field takes the last
                spans = [(*map(float, segments[segment]['timestamps'][-1]), chosen[segment])
                         for segment in segments if segment in chosen]
                path = clips / f'{event}.mp4'
                if not path.exists():
                    missing.append(f'processed_videos/{path.name} ({split})')
                elif not spans:
                    missing.append(f'{event} in {annotation.name} ({split})')
                else:
                    annotate = partial(element_labels, path, spans)
                    videos[split].append(video_file(event, path, annotate=annotate))
    return videos, missing


def elements(path, classes):
    """A list of elements -> {event: {segment: class}}."""
    listed = {}
    for number, line in enumerate(path.read_text(errors='replace').splitlines(), 1):
        match = re.fullmatch(r'(.+_E_\d+_\d+)_(A_\d+_\d+)\s+(\d+)\s*', line)
        if not match or int(match[3]) >= classes:
            raise UserError(
                f'{path}, line {number}: not an element with its class, 0 to {classes - 1}')
        event, segment, kind = match.groups()
        listed.setdefault(event, {})[segment] = int(kind)
    return listed


def element_labels(path, spans, frames):
    """An event's labels, int64 (frames,): -1, but the class within each (start, end, class).

    As the field counts: an element's last frame belongs to it, a later element covers an earlier.
    """
    with open_video(path) as (_, video):
        rate = round(float(video.average_rate or 25), 2)
    labels = np.full(frames, -1)
    for start, end, kind in spans:
        labels[int(start * rate):int(end * rate) + 1] = kind
    return labels


FINEGYM99 = DataSet(
    partial(finegym, classes=99), SOURCE, metrics='linear', by_action=False, limit=2000,
    published={'all': (3182, 1442)},
    paper=dict(classification=(.4477, .0071)))
FINEGYM288 = DataSet(
    partial(finegym, classes=288), SOURCE, metrics='linear', by_action=False, limit=2000,
    paper=dict(classification=(.3830, .0026)))
