"""Labels as people write them -> one integer a frame, int64 (frames,), -1 where there is none.

A file has an integer or a class name a frame (one a line, all in one line, or in a column beside
frame numbers), or segments: rows of start, end (or duration) and class. In frames, counted from 0,
a segment's last frame belongs to it, unless segments touch: where one starts at the very frame at
which another ends, an end is the first frame outside. In seconds, a frame belongs to the segment in
which it is first shown. What cannot be read, or does not fit its video, is a UserError.

Class names are numbered by classes.txt or mapping.txt beside the videos, else by the alphabet.
"""
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from datasets.layout import NOTE, say, shortened
from datasets.tables import (LABELS, NONE, are_numbers, decoded, find_column, is_number, number,
                             read_table)
from datasets.video import one_line
from running.errors import UserError

LABEL_FILES = ('.npy', '.txt', '.csv', '.tsv')
CLASS_FILES = ('classes.txt', 'mapping.txt')
UNITS = ('seconds', 'frames')
SLACK = 5e-4  # of a second: people write three decimals at best


class Annotation(NamedTuple):
    """What a label file says, before it is spread over the frames of its video."""
    form: str                         # what was taken for what, in words
    words: list                       # numbers or class names: a row each
    spans: np.ndarray | None = None   # (rows, 2), start and first end outside, in `unit`
    unit: str = ''


def read_labels(path, frames, *, classes=None, names=None, unit=None, times=None):
    """The labels in a file, for a video with so many frames.

    classes: how many there are, where that is known. names: the class names, by number. unit:
    'seconds' or 'frames', where no header says it. times(frames) -> seconds of each frame.
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
    if values.ndim != 1 or not len(values) or values.dtype.kind not in 'iuf':
        raise UserError(f'{name}: not one integer label a frame')
    wrong = values[values != np.floor(values)]    # NaN, too
    if len(wrong):
        raise UserError(f'{name}: not one integer label a frame ({wrong[0]:g})')
    if values.min() < -1 or classes and values.max() >= classes:
        known = f'0 to {classes - 1}' if classes else '0, 1, 2 ...'
        found = f'labels from {values.min():g} to {values.max():g}'
        raise UserError(f'{name}: {found}, not {known} or -1 for none')
    return values.astype(np.int64)


def numbered(words, names):
    """Words -> float (n,): numbers as they are, a class name's position among all names."""
    numeric = are_numbers(words)
    values = []
    for word in words:
        if word.lower() in NONE:
            values.append(-1.)
        elif numeric:
            values.append(number(word))
        elif names and word in names:
            values.append(float(names.index(word)))
        elif names or not is_number(word):
            known = f' of {shortened(filter(None, names), 20)}' if names else ''
            raise ValueError(f'not one integer label a frame, nor one class name{known} ("{word}")')
    return np.array(values)


# --------------------------------------------------------------------------------------------------
# From a table to what it says

def read_annotation(path, unit=None):
    """-> Annotation. An exception: the table cannot be read, and why."""
    header, rows = read_table(path)
    if not header:
        words = [word for word, in rows]
        return Annotation(f'one {"number" if are_numbers(words) else "name"} a frame', words)
    label = find_column(header, *LABELS)
    if label is None:
        raise ValueError(f'no column named label, but {", ".join(header)}')
    start = find_column(header, 'start', 'begin', 'onset', 'first')
    end = find_column(header, 'end', 'stop', 'offset', 'last')
    lasting = end is None
    if lasting:
        end = find_column(header, 'duration')
    if start is None or end is None:
        return by_frame(header, rows, label)
    return segments(header, rows, start, end, label, unit, lasting)


def by_frame(header, rows, label):
    """A label a row; frame numbers must say so, if there are any."""
    form = f'a row a frame, {header[label]}'
    column = find_column(header, 'frame', 'index', 'idx')
    if column is not None:
        numbers = [number(row[column], row) for row in rows]
        first = min(numbers)
        if first not in (0, 1) or numbers != list(np.arange(len(rows)) + first):
            raise ValueError(f'{header[column]} is not every frame once, counted from 0 or from 1')
        form += f' by {header[column]} from {first:g}'
    return Annotation(form, [row[label] for row in rows])


def segments(header, rows, start, end, label, unit, lasting):
    """Rows -> Annotation. Those without a label are left out, and so are point events, which last
    no time. lasting: the column `end` is a duration."""
    stated, scale = unit_of(header, rows, start, end)
    unit = stated or unit
    if not unit:
        raise ValueError(
            'seconds or frames? Name columns start_seconds,end_seconds,label or start_frame,... '
            'or add --label-unit seconds or --label-unit frames')
    rows = [row for row in rows if row[label].lower() not in NONE]
    segments = [row for row in rows if not lasting or row[end].lower() not in NONE]
    spans = [[number(row[start], row), number(row[end], row)] for row in segments]
    spans = np.array(spans).reshape(-1, 2) * scale                        # (segments, 2)
    if lasting:
        spans[:, 1] += spans[:, 0]
    order = np.argsort(spans[:, 0], kind='stable')
    spans = spans[order]
    touch = np.any(spans[1:, 0] == spans[:-1, 1])
    if unit == 'frames' and not lasting and not touch:
        spans[:, 1] += 1
    real = spans[:, 0] != spans[:, 1]
    form = f'segments in {unit}, {header[start]}, {header[end]}, {header[label]}'
    points = len(rows) - int(np.sum(real))
    if points:
        form += f', {points} point events left out'
    return Annotation(form, [segments[i][label] for i in order[real]], spans[real], unit)


def unit_of(header, rows, start, end):
    """What the columns say: 'seconds', 'frames' or None, and what to multiply their numbers by."""
    if any(':' in row[start] + row[end] for row in rows):    # a clock, 1:02.5
        return 'seconds', 1
    titles = f'{header[start]} {header[end]}'.lower()
    for words, unit, scale in (
            (r'ms|msecs?|milli\w*', 'seconds', 0.001),
            ('frames?', 'frames', 1),
            ('s|secs?|seconds?|time|onset', 'seconds', 1)):    # BIDS: an onset is in seconds
        if re.search(rf'(^|[^a-z])({words})($|[^a-z])', titles):
            return unit, scale
    return None, 1


def spread(annotation, values, frames, times):
    """The segments' values over the frames -> float (frames,), -1 between. ValueError: they do not
    fit. times(frames) -> seconds of each frame."""
    moments = np.arange(frames)                                            # (frames,)
    if annotation.unit == 'seconds':
        if times is None:
            raise ValueError('in seconds, but a folder of images has no clock; give frames')
        moments = times(frames)                                            # (frames,)
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
        understood = list(pool.map(partial(understand, unit), label_files, label_files.values()))
    alike = defaultdict(list)
    names = set()
    first = {}    # a file of numbers, True, and one of names, False
    for path, annotation in zip(label_files, understood):
        if annotation:
            alike[annotation.form].append(path.relative_to(folder).as_posix())
            first.setdefault(are_numbers(annotation.words), path)
            names.update(annotation.words)
    for form, files in alike.items():
        say(f'labels, {len(files)} files: {form} ({shortened(files)})')
    source = next((file for file in CLASS_FILES if (folder / file).is_file()), 'the alphabet')
    if source in CLASS_FILES:
        names = names_by_number(folder / source)
    elif len(first) == 2:
        raise UserError(
            f'{first[False]} has class names, {first[True]} one integer label a frame; say which '
            f'number is which name in {folder}/classes.txt, a line "0 name" for each')
    elif False not in first:
        return None
    else:
        names = sorted(name for name in names if name.lower() not in NONE)
    numbers = ', '.join(f'{i} {name}' for i, name in enumerate(names) if name)
    say(f'classes, numbered by {source}: {numbers}')
    return names


def understand(unit, path, video):
    """-> Annotation; None if it does not fit the video: check_labels will say why."""
    try:
        annotation = read_annotation(path, unit)
        fits = annotation.spans is not None or len(annotation.words) == video.frames_on_disk
    except Exception:  # as above
        return None
    words = [word for word in annotation.words if word.lower() not in NONE]
    mixed = any(map(is_number, words)) and not are_numbers(words)
    return annotation if fits and words and not mixed else None


def names_by_number(path):
    """A file of classes -> names by number, '' for a number that has none."""
    try:
        text = decoded(path.read_bytes()).replace(',', ' ')
    except (ValueError, OSError) as error:
        raise UserError(f'{path}: {error}') from None
    lines = [line.split() for line in text.splitlines() if line.strip()]
    by_number = dict(enumerate(map(' '.join, lines)))
    if all(len(words) > 1 and words[0].isdecimal() for words in lines):
        by_number = {int(words[0]): ' '.join(words[1:]) for words in lines}
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
    problems = [reason for reason in reasons.values() if reason]
    bare = [video.name for video in listed if not video.annotate]
    if 0 < len(bare) < len(listed):
        share = f'{len(bare)} of {len(listed)} videos have no labels'
        problems.append(f'{NOTE}{share}: {shortened(bare)}')
    kept = {video: replace(video, annotate=None, fit=False) if reason else video
            for video, reason in reasons.items()}
    return {split: list(map(kept.get, some)) for split, some in videos.items()}, problems


def why_wrong(video):
    """Why the labels of a video do not fit; '' if they do, or if it cannot be read."""
    if not video.annotate:
        return ''
    try:
        video.frames_on_disk
    except UserError:
        return ''
    try:
        video.labels
    except UserError as error:
        return str(error)
    return ''


def number_phases(videos):
    """{action: the class of its phase 0}, and how many classes there are: actions share none."""
    phases = dict.fromkeys((video.action for video in videos), 0)
    for video in videos:
        try:
            if video.labels is not None:
                phases[video.action] = max(phases[video.action], int(video.labels.max()) + 1)
        except UserError:    # whoever reads it will say why
            continue
    first = {}
    classes = 0
    for action, count in phases.items():
        first[action] = classes
        classes += count
    return first, classes
