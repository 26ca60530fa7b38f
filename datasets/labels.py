"""Labels as people write them -> one integer a frame, int64 (frames,), -1 where there is none.

A file has an integer or a class name a frame (one a line, one after the other, or in a column beside frame
numbers), or segments. Class names get their numbers from classes.txt or mapping.txt beside the videos, else
by the alphabet. What cannot be read, or does not fit its video, is a DataError that says why;
`check_labels` finds all of that before anything is trained.
"""
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from datasets.layout import NOTE, shortened
from datasets.segments import labels_of_segments, segment_columns
from datasets.tables import all_numbers, decoded, number, read_table
from datasets.video import DataError, one_line

LABEL_FILES = ('.npy', '.txt', '.csv')
CLASS_FILES = ('classes.txt', 'mapping.txt')


def read_labels(path, frames, *, classes=None, names=None, unit=None, times=None):
    """The labels in a file, for a video with so many frames.

    classes: how many there are, where that is known. names: the class names, by number.
    unit: 'seconds' or 'frames', for segments whose header does not say it.
    times: a function, times(frames) -> seconds of each frame.
    """
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
        raise DataError(f'{path}: {error}') from None
    return checked(path, labels, classes)


def checked(name, labels, classes, _frames=None):
    """One integer a frame, -1 = unlabelled, below `classes` where that is known -> int64 (n,)."""
    values = np.asarray(labels)
    if values.ndim != 1 or not len(values) or values.dtype.kind not in 'iuf':
        raise DataError(f'{name}: not one integer label a frame')
    with np.errstate(invalid='ignore'):
        whole = values.astype(np.int64)
    wrong = values[whole != values]
    if len(wrong):
        raise DataError(f'{name}: not one integer label a frame ({wrong[0]:g})')
    if values.min() < -1 or classes and values.max() >= classes:
        last = classes - 1 if classes else 'the last class'
        raise DataError(
            f'{name}: labels from {values.min():g} to {values.max():g}; '
            f'they go from 0 to {last}, or -1 for none')
    return whole


# ---------------------------------------------------------------------------------------------------
# From the words of a table to one a frame

def is_list(table, frames):
    """Whether the words simply follow one another: one a line, all in one line, or in several lines."""
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
    """The words in the column of labels, in the order of the column of frame numbers if there is one."""
    words = words_of(table)
    if table.header:
        column = table.column('frame', 'index', 'idx', '$')  # pandas gives its index no name
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


# ---------------------------------------------------------------------------------------------------
# Class names

def class_names(folder, label_files):
    """The class names of a data set, by number, and where the numbers come from; None if it has only numbers.

    A file that says it ("0 name", "name 0" or one name a line), else the alphabet. DataError: no such
    file, and some of the labels are names, others numbers.
    """
    for file in CLASS_FILES:
        if (folder / file).is_file():
            return names_by_number(folder / file), file
    found = {file: names_in(file) for file in label_files}
    named = [file for file, names in found.items() if names]
    numbered = [file for file, names in found.items() if names == set()]
    if not named:
        return None, ''
    if numbered:
        raise DataError(
            f'{named[0]} has class names, {numbered[0]} one integer label a frame; say which number is '
            f'which name in a file {folder}/classes.txt, with a line "0 name" for each class')
    return sorted(set.union(*(found[file] for file in named))), 'the alphabet'


def names_in(path):
    """The class names in a label file: a set, empty if it has numbers; None if it cannot be read."""
    try:
        table = read_table(path)
        words = table.words if is_list(table, None) else words_of(table)
    except (DataError, ValueError):
        return None  # check_labels will name it
    names = {word for word in words if not all_numbers([word])}
    mixed = any(all_numbers([word]) and word != '-1' for word in words)
    return None if names and mixed else names


def names_by_number(path):
    """classes.txt: "0 name", "name 0" or one name a line -> names by number, '' for a number without one."""
    try:
        lines = [line.replace(',', ' ').split() for line in decoded(path.read_bytes()).splitlines()]
        lines = [words for words in lines if words]
        if all(len(words) > 1 and words[0].isdecimal() for words in lines):
            pairs = [(int(words[0]), ' '.join(words[1:])) for words in lines]
        elif all(len(words) > 1 and words[-1].isdecimal() for words in lines):
            pairs = [(int(words[-1]), ' '.join(words[:-1])) for words in lines]
        else:
            pairs = list(enumerate(' '.join(words) for words in lines))
        if not pairs or len(dict(pairs)) < len(pairs) or len(set(dict(pairs).values())) < len(pairs):
            raise ValueError('not each class once')
        if max(dict(pairs)) > 9999:
            raise ValueError('a number above 9999')
    except (ValueError, OSError) as error:
        raise DataError(f'{path}: no list of classes, "0 name" a line ({one_line(error)})') from None
    names = [''] * (max(dict(pairs)) + 1)
    for number, name in pairs:
        names[number] = name
    return names


# ---------------------------------------------------------------------------------------------------
# Before anything is trained

def check_labels(videos):
    """All that is wrong with the labels of a data set, a line each; a line that begins with NOTE is none
    of a video whose labels do not fit.

    videos: {'train': [Video], 'val': [Video]}. A video whose labels do not fit goes on without labels.
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
        problems.append(f'{NOTE}{len(bare)} of {len(listed)} videos have no labels: {shortened(bare)}')
    return problems + classes_without_training(videos)


def why_wrong(video):
    try:
        video.on_disk
    except DataError:
        return None
    try:
        video.labels
    except DataError as error:
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
            kinds = ', '.join(video.classes[k] if video.classes else str(k) for k in sorted(alien))
            problems.append(f'{NOTE}{video.name}: no train video has its label {kinds}')
    return problems


def classes_of(video):
    try:
        labels = video.labels
    except DataError:
        return set()
    return set() if labels is None else set(labels[labels >= 0].tolist())
