"""Labels as segments: rows of start, end and class, in seconds or in frames -> one label a frame.

In frames, counted from 0, a segment's last frame belongs to it, unless segments touch: where one
starts at the very frame at which another ends, an end is the first frame that is outside. In
seconds, a frame belongs to the segment in which it is first shown. Elsewhere the label is -1.
"""
import re

import numpy as np

from datasets.tables import all_numbers, number
from datasets.packets import frame_times  # noqa: F401, for users of this file

UNITS = ('seconds', 'frames')
SLACK = 5e-4  # of a second: people write three decimals at best


def segment_columns(table):
    """The columns of start and end, or None if these are no segments."""
    if table.header:
        start = table.column('start', 'begin', 'onset')
        end = table.column('end', 'stop', 'offset')
        return None if start is None or end is None else (start, end)
    if all(len(row) == 3 and all_numbers(row[:2]) for row in table.rows):
        return 0, 1
    return None


def labels_of_segments(table, values, frames, unit=None, times=None):
    """Spread the segments' labels over the frames -> float (frames,). ValueError: they do not fit.

    values: a label for each row of the table. unit: what its numbers are, if it does not say so.
    times(frames) -> seconds of each frame.
    """
    start, end = segment_columns(table)
    words = [(row[start], row[end]) for row in table.rows]
    if not all(map(all_numbers, words)):
        raise ValueError('a segment without its start or its end')
    unit = unit_of(table) or unit
    if not unit:
        raise ValueError(
            'are its segments in seconds or in frames? Name the columns '
            'start_seconds,end_seconds,label or start_frame,end_frame,label; '
            'or add --label-unit seconds or --label-unit frames')
    bounds = np.array([(number(first), number(last)) for first, last in words])  # (segments, 2)
    order = np.argsort(bounds[:, 0], kind='stable')
    bounds = bounds[order]
    values = np.asarray(values)[order]
    if unit == 'seconds':
        if times is None:
            raise ValueError(
                'segments in seconds, but a folder of images has no clock; give frames')
        moments = times(frames)                                                  # (frames,)
    else:
        moments = np.arange(frames)                                              # (frames,)
        if not np.any(bounds[1:, 0] == bounds[:-1, 1]):
            bounds[:, 1] += 1
    check(bounds, moments, unit)
    labels = np.full(frames, -1.)
    for (first, last), value in zip(bounds, values):
        inside = (moments >= first - SLACK) & (moments < last - SLACK)
        labels[inside] = value
    return labels


def unit_of(table):
    """What the header says: 'seconds', 'frames' or None. A clock, 1:02.5, needs no header."""
    start, end = segment_columns(table)
    if ':' in ''.join(row[start] + row[end] for row in table.rows):
        return 'seconds'
    names = ' '.join(table.header)
    if table.header and 'frame' in table.header[start] + table.header[end]:
        return 'frames'
    if re.search(r'(^|[^a-z])(ms|msec|milli)', names):
        raise ValueError('segments in milliseconds; give seconds or frames')
    if re.search(r'(^|[^a-z])(s|secs?|seconds?|time)($|[^a-z])', names):
        return 'seconds'
    return 'frames' if 'frames' in names else None


def check(bounds, moments, unit):
    """Refuse segments that cannot be meant; bounds (segments, 2), the end outside."""
    last = moments[-1] + 1
    for first, end in bounds:
        if end <= first:
            raise ValueError(f'a segment from {first:g} ends before it begins')
        if first < 0 or end > last:
            raise ValueError(
                f'a segment reaches from {first:g} to {end:g} {unit}, '
                f'but the video from 0 to {moments[-1]:g}')
    for before, after in zip(bounds, bounds[1:]):
        if after[0] < before[1]:
            raise ValueError(f'two segments overlap at {after[0]:g} {unit}')
