"""Labels as people write them -> one integer a frame, int64 (frames,), -1 where there is none.

A file has an integer or a class name a frame (one a line, one after the other, or in a column
beside frame numbers), or segments: rows of start, end (or duration) and class. In frames, counted
from 0, a segment's last frame belongs to it, unless segments touch: where one starts at the very
frame at which another ends, an end is the first frame outside. In seconds, a frame belongs to the
segment in which it is first shown. What cannot be read, or does not fit its video, is a UserError
that says why; `check_labels` finds all of that before anything is trained.
"""
import copy
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from datasets.layout import NOTE, shortened
from datasets.tables import NONE, all_numbers, is_number, number, read_table
from running.errors import UserError

LABEL_FILES = ('.npy', '.txt', '.csv')
UNITS = ('seconds', 'frames')
SLACK = 5e-4  # of a second: people write three decimals at best
LABEL_COLUMNS = ('label', 'phase', 'class', 'behavior', 'behaviour', 'annotation', 'action',
                 'trial_type', 'event', 'name')


class Annotation(NamedTuple):
    """What a label file says, before it is spread over the frames of its video."""
    form: str                         # what was taken for what, in words
    words: list                       # numbers or class names: a row each
    spans: np.ndarray | None = None   # (rows, 2), start and first end outside, in `unit`
    unit: str = ''


def read_labels(path, frames, *, classes=None, names=None, unit=None, times=None):
    """The labels in a file, for a video with so many frames.

    classes: how many there are, where that is known. names: the class names, by number.
    unit: 'seconds' or 'frames', for segments whose header does not say it.
    times: a function, times(frames) -> seconds of each frame.
    """
    annotation = read_annotation(path, frames, unit)
    try:
        values = numbered(annotation.words, names)
        if annotation.spans is not None:
            values = spread(annotation, values, frames, times)
    except ValueError as error:
        raise UserError(f'{path}: {error}') from None
    return checked(path, values, len(names) if names else classes)


def checked(name, labels, classes, _frames=None):
    """One integer a frame, -1 = unlabelled, below `classes` where that is known -> int64 (n,)."""
    values = np.asarray(labels)
    if values.ndim != 1 or not len(values) or values.dtype.kind not in 'iuf':
        raise UserError(f'{name}: not one integer label a frame')
    with np.errstate(invalid='ignore'):
        whole = values.astype(np.int64)
    wrong = values[whole != values]
    if len(wrong):
        raise UserError(f'{name}: not one integer label a frame ({wrong[0]:g})')
    if values.min() < -1 or classes and values.max() >= classes:
        last = classes - 1 if classes else 'the last class'
        raise UserError(
            f'{name}: labels from {values.min():g} to {values.max():g}; '
            f'they go from 0 to {last}, or -1 for none')
    return whole


def numbered(words, names):
    """Words -> float (n,): numbers as they are, a class name's position among all names."""
    position = {name: float(i) for i, name in enumerate(names or []) if name}
    values = []
    for word in words:
        if word in position:
            values.append(position[word])
        elif word.lower() in NONE:
            values.append(-1.)
        elif names and not all(is_number(word) or word.lower() in NONE for word in words):
            raise ValueError(f'"{word}" is none of the classes {shortened(filter(None, names), 20)}')
        elif is_number(word):
            values.append(number(word))
        else:
            raise ValueError(f'not one integer label a frame, nor one class name ("{word}")')
    return np.array(values)


# --------------------------------------------------------------------------------------------------
# From a table to what it says

def read_annotation(path, frames, unit=None):
    """-> Annotation; frames: of the video, which tell a list of numbers from segments."""
    table = read_table(path)
    try:
        if is_list(table, frames):
            kind = 'number' if all_numbers(table.words) else 'class name'
            return Annotation(f'one {kind} a frame', table.words)
        columns = segment_columns(table)
        if columns:
            return segments(table, *columns, unit)
        return by_frame(table)
    except ValueError as error:
        raise UserError(f'{path}: {error}') from None


def is_list(table, frames):
    """Whether the words simply follow one another: one a line, several, or all in one line."""
    if table.header:
        return len(table.header) == 1
    widths = set(map(len, table.rows))
    if widths == {1}:
        return True
    if all_numbers(table.words):
        return len(widths) > 1 or len(table.rows) == 1 or len(table.words) == frames
    if len(widths) > 1:
        raise ValueError(f'rows of {min(widths)} to {max(widths)} words, not one a frame')
    return len(table.rows) == 1 and not segment_columns(table)


def segment_columns(table):
    """The columns of start, end, label, and whether `end` is a duration; None: no segments.

    Without a header, the first two columns of nothing but numbers or times (ELAN's export has a
    third, the duration), and the last of the others."""
    if table.header:
        start = table.column('start', 'begin', 'onset')
        end = table.column('end', 'stop', 'offset')
        duration = table.column('duration')
        if start is None or end is None and duration is None:
            return None
        return start, duration if end is None else end, label_column(table), end is None
    numeric = [i for i, cells in enumerate(zip(*table.rows)) if all_numbers(cells)]
    others = [i for i in range(len(table.rows[0])) if i not in numeric]
    if len(numeric) in (2, 3) and len(table.rows[0]) > 2:
        return numeric[0], numeric[1], others[-1] if others else numeric[2], False


def label_column(table):
    """The column of labels."""
    if not table.header:
        return len(table.rows[0]) - 1
    column = table.column(*LABEL_COLUMNS)
    if column is None:
        raise ValueError(f'no column named label, but {", ".join(table.header)}')
    return column


def title(table, column):
    return f'"{table.header[column]}"' if table.header else f'column {column + 1}'


def by_frame(table):
    """A label a row, in the order of frame numbers if there are such."""
    label = label_column(table)
    words = [row[label] for row in table.rows]
    form = f'a row a frame, {title(table, label)}'
    column = 0
    if table.header:
        column = table.column('frame', 'index', 'idx')
        if column is None and '' in table.header:  # pandas gives its index no name
            column = table.header.index('')
    elif len(table.rows[0]) != 2:
        raise ValueError('its columns have no names; begin with a line such as frame,label')
    if column is None:
        return Annotation(form, words)
    cells = [row[column] for row in table.rows]
    if not all_numbers(cells):
        raise ValueError('a row without the number of its frame')
    numbers = np.array([number(cell) for cell in cells])
    order = np.argsort(numbers)
    from_zero = numbers[order] - np.arange(len(numbers))
    if np.ptp(from_zero) or from_zero[0] not in (0, 1):
        raise ValueError('its frame numbers are not every frame once, counted from 0 or from 1')
    form += f' by {title(table, column)} from {from_zero[0]:g}'
    return Annotation(form, [words[i] for i in order])


def segments(table, start, end, label, is_duration, unit):
    """Rows of start, end and label -> Annotation. A point event, which has no duration, is left
    out, and so is a row without a label."""
    stated, scale = unit_of(table, start, end)
    unit = stated or unit
    if not unit:
        raise ValueError(
            'are its segments in seconds or in frames? Name the columns '
            'start_seconds,end_seconds,label or start_frame,end_frame,label; '
            'or add --label-unit seconds or --label-unit frames')
    form = (f'segments in {unit} from {title(table, start)}, '
            f'{"duration" if is_duration else "to"} {title(table, end)}, {title(table, label)}')
    rows = []
    points = 0
    for row in table.rows:
        if row[label].lower() in NONE - {'-1'}:
            continue
        if is_duration and row[end].lower() in NONE:
            points += 1
            continue
        if '' in (row[start], row[end]):
            raise ValueError(f'a segment without its start or its end: "{" ".join(row)}"')
        first = number(row[start]) * scale
        last = number(row[end]) * scale + (first if is_duration else 0)
        rows.append((first, last, row[label]))
    rows.sort(key=lambda row: row[0])
    spans = np.array([row[:2] for row in rows]).reshape(-1, 2)            # (segments, 2)
    words = [row[2] for row in rows]
    if table.from_one:
        spans[:, 0] -= 1
        form += ', counted from 1'
    elif unit == 'frames' and not is_duration and not np.any(spans[1:, 0] == spans[:-1, 1]):
        spans[:, 1] += 1
    real = spans[:, 0] != spans[:, 1]
    points += int(np.sum(~real))
    if points:
        form += f', {points} point events left out'
    return Annotation(form, [words[i] for i in np.flatnonzero(real)], spans[real], unit)


def unit_of(table, start, end):
    """What the table says: 'seconds', 'frames' or None, and what to multiply its numbers by.
    A clock, 1:02.5, needs no header."""
    if ':' in ''.join(row[start] + row[end] for row in table.rows):
        return 'seconds', 1
    if not table.header:
        return None, 1
    titles = f'{table.header[start]} {table.header[end]}'.lower()
    whole = ' '.join(table.header).lower()
    for names in (titles, whole):
        if re.search(r'(^|[^a-z])(ms|msecs?|milli\w*)($|[^a-z])', names):
            return 'seconds', 0.001
        if re.search(r'(^|[^a-z])frames?($|[^a-z])', names):
            return 'frames', 1
        if re.search(r'(^|[^a-z])(s|secs?|seconds?|time)($|[^a-z])', names):
            return 'seconds', 1
    return None, 1


def spread(annotation, values, frames, times):
    """The segments' values over the frames -> float (frames,), -1 between. ValueError: they do not
    fit. times(frames) -> seconds of each frame."""
    moments = np.arange(frames)                                            # (frames,)
    if annotation.unit == 'seconds':
        if times is None:
            raise ValueError(
                'segments in seconds, but a folder of images has no clock; give frames')
        moments = times(frames)                                            # (frames,)
    labels = np.full(frames, -1.)
    before = -np.inf
    for (first, end), value in zip(annotation.spans, values):
        if end < first:
            raise ValueError(f'a segment from {first:g} ends before it begins')
        if first < 0 or end > moments[-1] + 1:
            raise ValueError(
                f'a segment reaches from {first:g} to {end:g} {annotation.unit}, '
                f'but the video from 0 to {moments[-1]:g}')
        if first < before - SLACK:
            raise ValueError(f'two segments overlap at {first:g} {annotation.unit}')
        labels[(moments >= first - SLACK) & (moments < end - SLACK)] = value
        before = end
    return labels


# --------------------------------------------------------------------------------------------------
# Before anything is trained

def check_labels(videos):
    """-> the videos, those whose labels do not fit without any; and what is wrong: a line for each
    of these, and lines that begin with NOTE of what else should be known.

    videos: {'train': [Video], 'val': [Video]}. Frames are counted where there are labels; a video
    that cannot be read is left to who reads it.
    """
    listed = list(dict.fromkeys(videos['train'] + videos['val']))
    labelled = [video for video in listed if video.annotate]
    if not labelled:
        return videos, []
    with ThreadPoolExecutor() as pool:
        reasons = dict(zip(labelled, pool.map(why_wrong, labelled)))
    problems = [why for why in reasons.values() if why]
    kept = {video: without_labels(video) if reasons.get(video) else video for video in listed}
    videos = {split: [kept[video] for video in videos[split]] for split in videos}
    bare = [video.name for video in listed if not video.annotate]
    if bare:
        share = f'{len(bare)} of {len(listed)} videos have no labels'
        problems.append(f'{NOTE}{share}: {shortened(bare)}')
    return videos, problems + classes_without_training(videos)


def why_wrong(video):
    try:
        video.frames_on_disk
    except UserError:
        return None
    try:
        video.labels
    except UserError as error:
        return str(error)


def without_labels(video):
    bare = copy.copy(video)
    bare.annotate = None
    bare.fit = False
    bare.__dict__.pop('frames', None)    # it was counted with the labels
    return bare


def classes_without_training(videos):
    """Labels that occur in val videos of an action, but in none of its train videos."""
    trained = defaultdict(set)
    for video in videos['train']:
        trained[video.action] |= classes_of(video)
    problems = []
    for video in videos['val']:
        alien = classes_of(video) - trained[video.action]
        if trained[video.action] and alien:
            named = [video.classes[k] if video.classes else str(k) for k in sorted(alien)]
            kinds = ', '.join(named)
            problems.append(f'{NOTE}{video.name}: no train video has its label {kinds}')
    return problems


def classes_of(video):
    try:
        labels = video.labels
    except UserError:
        return set()
    return set() if labels is None else set(labels[labels >= 0].tolist())


def count_phases(videos):
    """How many phases the videos of one action have: they are numbered from 0."""
    return 1 + max((label for video in videos for label in classes_of(video)), default=-1)
