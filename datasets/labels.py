"""Labels as people write them -> one integer a frame, int64 (frames,), -1 where there is none.

A file has an integer or a class name a frame (one a line, one after the other, or in a column
beside frame numbers), or segments (segments.py). What cannot be read, or does not fit its video, is
a UserError that says why; `check_labels` finds all of that before anything is trained.
"""
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from datasets.layout import NOTE, shortened
from datasets.segments import labels_of_segments, segment_columns
from datasets.tables import all_numbers, number, read_table
from running.errors import UserError

LABEL_FILES = ('.npy', '.txt', '.csv')


def read_labels(path, frames, *, classes=None, names=None, unit=None, times=None):
    """The labels in a file, for a video with so many frames.

    classes: how many there are, where that is known. names: the class names, by number.
    unit: 'seconds' or 'frames', for segments whose header does not say it.
    times: a function, times(frames) -> seconds of each frame.
    """
    if names:
        classes = len(names)
    table = read_table(path)
    try:
        if is_list(table, frames):
            labels = numbered(table.words, names)
        elif segment_columns(table):
            values = numbered(words_of(table), names)
            labels = labels_of_segments(table, values, frames, unit, times)
        else:
            labels = numbered(words_by_frame(table), names)
    except ValueError as error:
        raise UserError(f'{path}: {error}') from None
    return checked(path, labels, classes)


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


# ----------------------------------------------------------------------------------------
# From the words of a table to one a frame

def is_list(table, frames):
    """Whether the words simply follow one another: one a line, several, or all in one line."""
    widths = set(map(len, table.rows))
    if table.header:
        return widths == {1}
    if widths == {1} or len(widths) > 1:
        return True
    if len(table.rows) == 1:
        return all_numbers(table.words) or not segment_columns(table)
    return all_numbers(table.words) and len(table.words) == frames


def words_of(table):
    """The words in the column of labels."""
    column = len(table.rows[0]) - 1
    if table.header:
        column = table.column('label', 'phase', 'class', 'name', 'action')
    if column is None:
        raise ValueError(f'no column named label, but {", ".join(table.header)}')
    return [row[column] for row in table.rows]


def words_by_frame(table):
    """The words in the column of labels, in the order of frame numbers if there are such."""
    words = words_of(table)
    if table.header:
        column = table.column('frame', 'index', 'idx')
        if column is None and '' in table.header:  # pandas gives its index no name
            column = table.header.index('')
    elif len(table.rows[0]) == 2:
        column = 0
    else:
        raise ValueError('its columns have no names; begin with a line such as frame,label')
    if column is None:
        return words
    frames = [row[column] for row in table.rows]
    if not all_numbers(frames):
        raise ValueError('a row without the number of its frame')
    frames = np.array([number(frame) for frame in frames])
    order = np.argsort(frames)
    from_zero = frames[order] - np.arange(len(frames))
    if np.ptp(from_zero) or from_zero[0] not in (0, 1):
        raise ValueError('its frame numbers are not every frame once, counted from 0 or from 1')
    return [words[i] for i in order]


def numbered(words, names):
    """Words -> float (n,): numbers as they are, a class name's position among all names."""
    if all_numbers(words):
        return np.array([number(word) for word in words])
    if not names:
        strange = next(word for word in words if not all_numbers([word]))
        raise ValueError(f'not one integer label a frame, nor one class name ("{strange}")')
    position = {name: float(i) for i, name in enumerate(names) if name}
    position['-1'] = -1.
    for word in words:
        if word not in position:
            raise ValueError(f'"{word}" is none of the classes {shortened(names, 20)}')
    return np.array([position[word] for word in words])


# ----------------------------------------------------------------------------------------
# Before anything is trained

def check_labels(videos):
    """All that is wrong with the labels of a data set -> a line for each video whose labels do not
    fit, and lines that begin with NOTE of what else should be known.

    videos: {'train': [Video], 'val': [Video]}. A video whose labels do not fit goes on without any.
    Frames are counted where there are labels; a video that cannot be read is left to who reads it.
    """
    listed = list(dict.fromkeys(videos['train'] + videos['val']))
    labelled = [video for video in listed if video.annotate]
    if not labelled:
        return []
    with ThreadPoolExecutor() as pool:
        wrong = dict(zip(labelled, pool.map(why_wrong, labelled)))
    problems = []
    for video, why in wrong.items():
        if why:
            problems.append(why)
            video.annotate = None
            video.fit = False
    bare = [video.name for video in listed if video not in wrong]
    if bare:
        share = f'{len(bare)} of {len(listed)} videos have no labels'
        problems.append(f'{NOTE}{share}: {shortened(bare)}')
    return problems + classes_without_training(videos)


def why_wrong(video):
    try:
        video.frames_on_disk
    except UserError:
        return None
    try:
        video.labels
    except UserError as error:
        return str(error)


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
    most = 0
    for video in videos:
        try:
            labels = video.labels
        except UserError:    # the video is skipped and named when it is drawn
            continue
        if labels is not None:
            most = max(most, int(labels.max()) + 1)
    return most
