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

import numpy as np

from datasets.layout import one_line, readable, say, shortened
from datasets.tables import decoded, read_annotation
from running.errors import UserError

LABEL_FILES = ('.npy', '.txt', '.csv', '.tsv')
CLASS_FILES = ('classes.txt', 'mapping.txt')
SLACK = 5e-4  # of a second: people write three decimals at best


def read_labels(path, frames, *, classes=None, names=None, unit=None, times=None):
    """The labels in a file, for a video with so many frames.

    classes: how many there are, where that is known. names: the class names, by number. unit:
    'seconds' or 'frames', where no header says it. times() -> seconds of each frame.
    """
    try:
        annotation = read_annotation(path, unit)
        known = {name: i for i, name in enumerate(names or [])}
        values = [known.get(word, word) for word in annotation.words]
        strange = [word for word in values if isinstance(word, str)]
        if strange:
            listed = f' of {shortened(filter(None, known), 20)}' if known else ''
            raise ValueError(
                f'not one integer label a frame, nor one class name{listed} ("{strange[0]}")')
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

    label_files: {Video: path}. UserError: some labels are names and others numbers, and no file
    says which is which.
    """
    understood = {}
    alike = defaultdict(set)
    for video, path in label_files.items():
        with suppress(Exception):    # as above; drop_wrong_labels will say what
            one = read_annotation(path, unit)
            fits = one.spans is not None or len(one.words) == video.frames_on_disk
            kinds = {type(word) for word in one.words if word != -1}
            if fits and len(kinds) == 1:    # all are numbers or none is
                understood[path] = one
                alike[one.form].add(readable(path, folder))
    for form, files in alike.items():
        say(f'labels, {len(files)} files: {form} ({shortened(sorted(files))})')
    named = {path: one.words for path, one in understood.items() if str in map(type, one.words)}
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
        names = sorted(set().union(*named.values()) - {-1})
    numbers = ', '.join(f'{i} {name}' for i, name in enumerate(names) if name)
    say(f'classes, numbered by {source}: {numbers}')
    return names


def names_by_number(path):
    """A file of classes, "0 name" or a name a line -> names by number, '' where there is none."""
    try:
        text = decoded(path.read_bytes()).replace(',', ' ')
    except (ValueError, OSError) as error:
        raise UserError(f'{path}: {one_line(error)}') from None
    lines = [' '.join(line.split()) for line in text.splitlines() if line.strip()]
    by_number = dict(enumerate(lines))
    matches = [re.fullmatch(r'(\d+) (.*)', line) for line in lines]
    if all(matches):
        by_number = {int(match[1]): match[2] for match in matches}
    if not lines or len(set(by_number.values())) < len(lines):
        raise UserError(f'{path}: not each class once, a line "0 name"')
    return [by_number.get(i, '') for i in range(max(by_number) + 1)]


# --------------------------------------------------------------------------------------------------
# Before anything is trained

def drop_wrong_labels(videos):
    """Take away the labels that do not fit their video -> why, a line each."""
    with ThreadPoolExecutor() as pool:    # from a network's disk, one by one would take minutes
        reasons = dict(zip(videos, pool.map(why_wrong, videos)))
    for video in filter(reasons.get, videos):
        video.annotate = None
        video.fit = False
    return list(filter(None, reasons.values()))


def why_wrong(video):
    """Why the labels of a video do not fit; None if they do, or if it cannot be read, which is left
    to who reads it. Frames are counted where there are labels."""
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
