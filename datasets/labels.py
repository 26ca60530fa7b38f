"""Labels as people write them -> one integer a frame, int64 (frames,), -1 where there is none.

A file has an integer or a class name a frame (one a line, all in one line, or in a column beside
frame numbers), or segments: rows of start, end (or duration) and class. In frames, counted from 0,
a segment's last frame belongs to it, unless segments touch: where one starts at the very frame at
which another ends, an end is the first frame outside. In seconds, a frame belongs to the segment in
which it is first shown. Class names are numbered by classes.txt or mapping.txt beside the videos,
else by the alphabet. What cannot be read, or does not fit its video, is a UserError.
"""
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from datasets.layout import NOTE, one_line, readable, say, shortened
from datasets.tables import LABELS, are_numbers, decoded, find_column, number, read_table, said
from running.errors import UserError

LABEL_FILES = ('.npy', '.txt', '.csv', '.tsv')
CLASS_FILES = ('classes.txt', 'mapping.txt')
UNITS = ('seconds', 'frames')
SLACK = 5e-4  # of a second: people write three decimals at best


class Annotation(NamedTuple):
    """What a label file says, before it is spread over the frames of its video."""
    form: str                         # what was taken for what, in words
    words: list                       # numbers or class names: a row each, '' for none
    spans: np.ndarray | None = None   # (rows, 2), start and first end outside, in `unit`
    unit: str = ''


def read_labels(path, frames, *, classes=None, names=None, unit=None, times=None):
    """The labels in a file, for a video with so many frames.

    classes: how many there are, where that is known. names: the class names, by number. unit:
    'seconds' or 'frames', where no header says it. times() -> seconds of each frame.
    """
    try:
        annotation = read_annotation(path, unit)
        values = numbered(annotation.words, names)
        if annotation.spans is not None:
            values = spread(annotation, values, frames, times)
    except Exception as error:  # NumPy raises half a dozen types on a broken file
        raise UserError(f'{path}: {one_line(error)}') from None
    return checked(path, values, len(names) if names else classes)


def checked(name, labels, classes, _frames=None):
    """One integer a frame, -1 = unlabelled, below `classes` where that is known -> int64 (n,)."""
    values = np.asarray(labels)
    one_each = values.ndim == 1 and len(values) and values.dtype.kind in 'iuf'
    if not one_each or np.any(values != np.floor(values)):    # NaN, too
        raise UserError(f'{name}: not one integer label a frame')
    if values.min() < -1 or classes and values.max() >= classes:
        known = f'0 to {classes - 1}' if classes else '0, 1, 2 ...'
        raise UserError(f'{name}: labels from {values.min():g} to {values.max():g}, not {known} '
                        f'or -1 for none')
    return values.astype(np.int64)


def numbered(words, names):
    """Words -> float (n,): numbers as they are, a class name's position among all names."""
    known = {name: i for i, name in enumerate(names or [])}
    if are_numbers(words):
        known = {word: number(word) for word in words if word}
    known[''] = -1
    strange = [word for word in words if word not in known]
    if strange:
        listed = f' of {shortened(filter(None, names), 20)}' if names else ''
        word = next((word for word in strange if not are_numbers([word])), strange[0])
        raise ValueError(f'not one integer label a frame, nor one class name{listed} ("{word}")')
    return np.array([known[word] for word in words], float)


# --------------------------------------------------------------------------------------------------
# From a table to what it says

def read_annotation(path, unit=None):
    """-> Annotation. An exception: the table cannot be read, and why."""
    table = read_table(path)
    label = find_column(table, *LABELS)
    if label is None:
        raise ValueError(f'no column named label, but {", ".join(table)}')
    table[label] = said(table[label])
    start = find_column(table, 'start', 'begin', 'onset', 'first')
    end = find_column(table, 'end', 'stop', 'offset', 'last')
    duration = None if end else find_column(table, 'duration')
    if start and (end or duration):
        return segments(table, start, end or duration, label, unit, lasting=not end)
    form = f'one {"number" if are_numbers(table[label]) else "name"} a frame, {label}'
    frame = find_column(table, 'frame', 'index', 'idx')
    if frame:
        numbers = [number(word, [frame]) for word in table[frame]]
        if numbers != [numbers[0] + i for i in range(len(numbers))]:
            raise ValueError(f'{frame} is not every frame once, in order')
        form += f' by {frame}'
    return Annotation(form, table[label])


def segments(table, start, end, label, unit, lasting):
    """-> Annotation, by the titles of the columns. Rows without a label are left out, and so are
    point events, which last no time. lasting: the column `end` is a duration."""
    rows = [row for row in zip(table[start], table[end], table[label]) if row[2]]
    unit, scale = unit_of(f'{start} {end}', rows, unit)
    # a point event may have no duration at all
    timed = [row for row in rows if not lasting or said(row)[1]]
    timed.sort(key=lambda row: number(row[0], row))
    spans = [[number(row[0], row), number(row[1], row)] for row in timed]
    spans = np.array(spans).reshape(-1, 2) * scale                        # (segments, 2)
    if lasting:
        spans[:, 1] += spans[:, 0]
    elif unit == 'frames' and not np.any(spans[1:, 0] == spans[:-1, 1]):
        spans[:, 1] += 1
    real = spans[:, 0] != spans[:, 1]
    words = [word for (_, _, word), lasts in zip(timed, real) if lasts]
    form = f'segments in {unit}, {start}, {end}, {label}'
    if len(words) < len(rows):
        form += f', {len(rows) - len(words)} point events left out'
    return Annotation(form, words, spans[real], unit)


def unit_of(titles, rows, unit):
    """'seconds' or 'frames', and what to multiply numbers by: what the columns say, or `unit`."""
    words = set(re.findall('[a-z]+', titles.lower()))
    # a clock, 1:02.5; ELAN's ss.msec
    if 'ss' in words or any(':' in start + end for start, end, _ in rows):
        return 'seconds', 1
    if words & {'min', 'mins', 'minute', 'minutes'}:
        return 'seconds', 60
    if any(word.startswith(('ms', 'milli')) for word in words):
        return 'seconds', 0.001
    if words & {'frame', 'frames'}:
        return 'frames', 1
    if words & {'s', 'sec', 'secs', 'second', 'seconds', 'time', 'onset'}:    # of BIDS
        return 'seconds', 1
    if not unit:
        raise ValueError(
            'seconds or frames? Name columns start_seconds,end_seconds,label or start_frame,... '
            'or add --label-unit seconds or --label-unit frames')
    return unit, 1


def spread(annotation, values, frames, times):
    """The segments' values over the frames -> float (frames,), -1 between."""
    moments = np.arange(frames)                                            # (frames,)
    if annotation.unit == 'seconds':
        if times is None:
            raise ValueError('in seconds, but a folder of images has no clock; give frames')
        moments = times()                                                  # (frames,)
    labels = np.full(frames, -1.)
    before = -np.inf
    for (first, end), value in zip(annotation.spans, values):
        segment = f'a segment from {first:g} to {end:g} {annotation.unit}'
        if end < first:
            raise ValueError(f'{segment} ends before it begins')
        if first < 0 or end > moments[-1] + 1:
            raise ValueError(f'{segment}, but the video is from 0 to {moments[-1]:g}')
        if first < before - SLACK:
            raise ValueError(f'{segment} overlaps the one before')
        labels[(moments >= first - SLACK) & (moments < end - SLACK)] = value
        before = end
    return labels


# --------------------------------------------------------------------------------------------------
# Class names of a set

def class_names(folder, label_files, unit=None):
    """-> the class names by number, None if there are only numbers. Says how each label file was
    understood. A text that does not fit its video is no label file: its words are no classes.

    label_files: {path: Video}. UserError: some labels are names and others numbers, and no file
    says which is which.
    """
    with ThreadPoolExecutor() as pool:
        understood = pool.map(partial(understand, unit), label_files, label_files.values())
        understood = {path: found for path, found in zip(label_files, understood) if found}
    alike = defaultdict(list)
    for path, annotation in understood.items():
        alike[annotation.form].append(readable(path, folder))
    for form, files in alike.items():
        say(f'labels, {len(files)} files: {form} ({shortened(files)})')
    named = {path: one.words for path, one in understood.items() if not are_numbers(one.words)}
    source = next((name for name in CLASS_FILES if (folder / name).is_file()), 'the alphabet')
    if source in CLASS_FILES:
        names = names_by_number(folder / source)
    elif not named:
        return None
    elif len(named) < len(understood):
        other = next(path for path in understood if path not in named)
        raise UserError(
            f'{min(named)} has class names, {other} one integer label a frame; say which '
            f'number is which name in {folder}/classes.txt, a line "0 name" for each')
    else:
        names = sorted(set().union(*named.values()) - {''})
    numbers = ', '.join(f'{i} {name}' for i, name in enumerate(names) if name)
    say(f'classes, numbered by {source}: {numbers}')
    return names


def understand(unit, path, video):
    """-> Annotation; None if it does not fit the video: check_labels will say why."""
    with suppress(Exception):  # as above
        annotation = read_annotation(path, unit)
        fits = annotation.spans is not None or len(annotation.words) == video.frames_on_disk
        kinds = {are_numbers([word]) for word in annotation.words if word}
        return annotation if fits and len(kinds) == 1 else None    # all are numbers or none is


def names_by_number(path):
    """A file of classes, "0 name" or a name a line -> names by number, '' where there is none."""
    try:
        text = decoded(path.read_bytes()).replace(',', ' ')
    except (ValueError, OSError) as error:
        raise UserError(f'{path}: {error}') from None
    lines = [' '.join(line.split()) for line in text.splitlines() if line.strip()]
    by_number = dict(enumerate(lines))
    matches = [re.fullmatch(r'(\d+) (.*)', line) for line in lines]
    if all(matches):
        by_number = {int(match[1]): match[2] for match in matches}
    if not lines or len(set(by_number.values())) < len(lines):
        raise UserError(f'{path}: not each class once, a line "0 name"')
    return [by_number.get(number, '') for number in range(max(by_number) + 1)]


# --------------------------------------------------------------------------------------------------
# Before anything is trained

def check_labels(videos):
    """-> the videos, those whose labels do not fit without any; and what is wrong, a line each.

    videos: {'train': [Video], 'val': [Video]}. Frames are counted where there are labels; a video
    that cannot be read is left to who reads it.
    """
    listed = list(dict.fromkeys(videos['train'] + videos['val']))
    with ThreadPoolExecutor() as pool:
        reasons = dict(zip(listed, pool.map(why_wrong, listed)))
    problems = list(filter(None, reasons.values()))
    bare = [video.name for video in listed if not video.annotate]
    if 0 < len(bare) < len(listed):
        share = f'{len(bare)} of {len(listed)} videos have no labels'
        problems.append(f'{NOTE}{share}: {shortened(bare)}')
    kept = {video: replace(video, annotate=None, fit=False) if reason else video
            for video, reason in reasons.items()}
    return {split: list(map(kept.get, some)) for split, some in videos.items()}, problems


def why_wrong(video):
    """Why the labels of a video do not fit; None if they do, or if it cannot be read."""
    frames = 0
    try:
        if video.annotate:
            frames = video.frames_on_disk
            video.labels
    except UserError as error:
        return str(error) if frames else None


def number_phases(videos):
    """{action: the class of its phase 0}, and how many classes there are: actions share none."""
    phases = {video.action: 0 for video in videos}
    for video in videos:
        with suppress(UserError):    # whoever reads it will say why
            if video.labels is not None:
                phases[video.action] = max(phases[video.action], int(video.labels.max()) + 1)
    first = np.cumsum([0, *phases.values()]).tolist()
    return dict(zip(phases, first)), first[-1]
