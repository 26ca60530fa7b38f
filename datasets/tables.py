"""What a label file says, .npy or text: a word a frame, or segments.

Text may be UTF-8, with or without a byte order mark, or UTF-16 with one. Words are separated by
semicolons, tabs or commas, whichever the first line has; where it has none, by blanks. What cannot
be read is an exception that says why.
"""
import csv
import re
from itertools import chain, takewhile
from typing import NamedTuple

import numpy as np

NUMBER = re.compile(      # 1.5, 1,5, 1e-3; or by the clock: 1:02.5 is 62.5 seconds
    r'[+-]?\d+([.,]\d*)?([eE][+-]?\d+)?|(\d+:){1,2}\d+([.,]\d*)?')
RANGE = re.compile(r'(\d+)-(\d+)\s+(\S.*)')        # 31-70 pour_milk, as Breakfast has it
NONE = {'na', 'n/a', 'nan', 'null'}                # cells that say nothing, in lower case
LABELS = ('label', 'labels', 'phase', 'class', 'behavior', 'behaviour', 'annotation', 'action',
          'trial_type', 'event', 'name')           # titles of their column
UNITS = ('seconds', 'frames')
SCALES = [                # a word of a title, its unit, and what its numbers are multiplied by
    ('ss', 'seconds', 1),                                                # ELAN's ss.msec
    ('min|mins|minutes?', 'seconds', 60),
    ('ms[a-z]*|milli[a-z]*', 'seconds', 0.001),
    ('frames?', 'frames', 1),
    ('s|secs?|seconds?|time|onset', 'seconds', 1)]                       # onset: BIDS


class Annotation(NamedTuple):
    """What a label file says, before it is spread over the frames of its video."""
    form: str                         # what was taken for what, in words
    words: list                       # a number or a class name for each row, -1 for none
    spans: np.ndarray | None = None   # (rows, 2), start and first end outside, in `unit`
    unit: str = ''


def read_annotation(path, unit=None):
    """-> Annotation. unit: 'seconds' or 'frames', of segments whose titles do not say it."""
    if path.suffix.lower() == '.npy':
        array = np.load(path, allow_pickle=False)
        if array.ndim != 1 or array.dtype.kind not in 'iufU':
            raise ValueError(f'not one integer label a frame, but {array.shape} of {array.dtype}')
        table = {'label': [*map(bare, map(str, array.tolist()))]}
    else:
        titles, rows = with_titles(rows_of_text(path.read_bytes()))
        table = dict(zip(titles, zip(*rows)))
    label = find_column(table, *LABELS)
    start = find_column(table, 'start', 'begin', 'onset', 'first')
    end = find_column(table, 'end', 'stop', 'offset', 'last')
    duration = find_column(table, 'duration')
    frame = find_column(table, 'frame', 'index', 'idx')
    if label is None:
        raise ValueError(f'no column named label, but {", ".join(table)}')
    if start and (end or duration):
        return segments(table, start, end or duration, label, unit, lasting=not end)
    form = f'one {"number" if are_numbers(table[label]) else "name"} a frame, {label}'
    if frame:
        numbers = [number(word, [frame]) for word in table[frame]]
        if numbers != [numbers[0] + i for i in range(len(numbers))]:
            raise ValueError(f'{frame} is not every frame once, in order')
        form += f' by {frame}'
    return Annotation(form, [*map(meaning, table[label])])


def segments(table, start, end, label, unit, lasting):
    """-> Annotation, by the titles of the columns. Rows without a label are left out, and so are
    point events, which last no time. lasting: the column `end` is a duration."""
    rows = [*zip(table[start], table[end], map(meaning, table[label]))]
    rows = [row for row in rows if row[2] != -1]
    titles = f'{start} {end}'.lower()
    known = [row[1:] for row in SCALES if re.search(rf'(?<![a-z])({row[0]})(?![a-z])', titles)]
    if any(':' in first + last for first, last, _ in rows):    # a clock, 1:02.5
        known = [('seconds', 1)]
    unit, scale = [*known, (unit, 1)][0]
    if not unit:
        raise ValueError(
            'seconds or frames? Name columns start_seconds,end_seconds,label or start_frame,... '
            'or add --label-unit seconds or --label-unit frames')
    timed = [row for row in rows if row[1] or not lasting]    # a point event may have no duration
    timed.sort(key=lambda row: number(row[0], row))
    spans = [[number(row[0], row), number(row[1], row)] for row in timed]
    spans = np.array(spans).reshape(-1, 2) * scale                        # (segments, 2)
    if lasting:
        spans[:, 1] += spans[:, 0]
    elif unit == 'frames' and not np.any(spans[1:, 0] == spans[:-1, 1]):
        spans[:, 1] += 1
    real = spans[:, 0] != spans[:, 1]
    words = [row[2] for row, lasts in zip(timed, real) if lasts]
    form = f'segments in {unit}, {start}, {end}, {label}'
    if len(words) < len(rows):
        form += f', {len(rows) - len(words)} point events left out'
    return Annotation(form, words, spans[real], unit)


# --------------------------------------------------------------------------------------------------
# From a file to columns of words

def decoded(content):
    """Bytes -> text."""
    marked = content.startswith((b'\xff\xfe', b'\xfe\xff'))
    text = content.decode('utf-16' if marked else 'utf-8-sig', errors='replace')
    if '\0' in text or '\ufffd' in text:
        raise ValueError('not UTF-8 text; save it as UTF-8')
    return text


def rows_of_text(content):
    """The bytes of a text -> rows of words, all of one length, without what spreadsheets and
    scripts leave."""
    text = decoded(content)
    lines = [line.strip(' ') for line in text.splitlines() if line.strip(' \t;,"')]
    while lines and re.match('#|"?sep=', lines[0], re.IGNORECASE):
        del lines[0]
    if not lines:
        raise ValueError('nothing in it')
    ranges = [RANGE.fullmatch(line) for line in lines]
    if all(ranges):
        rows = [[f'{int(m[1]) - 1}', f'{int(m[2]) - 1}', m[3]] for m in ranges]
        return [['first frame (from 1)', 'last frame (from 1)', 'label'], *rows]
    mark = next((mark for mark in ';\t,' if mark in lines[0]), None)
    if mark:
        rows = csv.reader(lines, delimiter=mark, skipinitialspace=True)
    else:    # blanks also lie within a name, which is the last: '0 12 hold still'
        leading = [len([*takewhile(NUMBER.fullmatch, line.split())]) for line in lines]
        most = min(leading[1:], default=leading[0] or -1)    # the first may be titles
        rows = [line.split(maxsplit=most) for line in lines]
    rows = [[*map(bare, row)] for row in rows]
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise ValueError(
                f'row {number}, "{" ".join(row)}", has {len(row)} cells, row 1 {len(rows[0])}')
    while len(rows[0]) > 1 and not any(row[-1] for row in rows):
        rows = [row[:-1] for row in rows]
    return rows


def bare(word):
    word = word.strip(' "')
    return '' if word.lower() in NONE else word


def with_titles(rows):
    """Rows -> titles, rows. The first row has titles if it has usual ones, or words over numbers.
    Columns without titles are a frame and its label; or start, end and label, the last that is no
    number (ELAN has a duration and others between)."""
    first, *rest = rows
    usual = set(LABELS).intersection(map(str.lower, first))
    over_numbers = any(first) and any(map(are_numbers, zip(*rest)))
    named = (usual or over_numbers) and not any(map(NUMBER.fullmatch, first))
    if named and rest and first not in rest:
        return first if len(first) > 1 else ['label'], rest
    numeric = [i for i, column in enumerate(zip(*rows)) if are_numbers(column)]
    others = [i for i in range(len(first)) if i not in numeric]
    roles = {0: 'frame', 1: 'label'}
    if len(first) > 2 and len(numeric) in (2, 3) and (rest or others):
        roles = {numeric[0]: 'start', numeric[1]: 'end', (others or numeric)[-1]: 'label'}
    elif len(first) == 1 or not rest:
        return ['label'], [[word] for word in chain(*rows)]
    elif len(first) > 2:
        raise ValueError('its columns have no names; begin with a line such as frame,label')
    return [f'{roles.get(i, "")} (column {i + 1})' for i in range(len(first))], rows


def find_column(table, *names):
    """Title of the first column with one of the names, or with a word that begins so, or None."""
    for pattern in ('^{}$', '(^|[^a-z]){}'):
        for name in names:
            for title in table:
                if re.search(pattern.format(name), title.lower()):
                    return title


def are_numbers(words):
    """Is each of the words that say something a number?"""
    words = [*filter(None, words)]
    return bool(words) and all(map(NUMBER.fullmatch, words))


def number(word, row=()):
    """'1.5', '1,5' -> 1.5; '1:02.5' -> 62.5. ValueError: it is none; row: in which it stands."""
    if not NUMBER.fullmatch(word):
        words = ','.join(map(str, row))
        raise ValueError(f'"{word}" is no number and no time such as 1:02.5, in "{words}"')
    value = 0
    for part in word.replace(',', '.').split(':'):
        value = value * 60 + float(part)
    return value


def meaning(word):
    """A word of a column of labels -> a number, -1 where it says nothing, or a class name."""
    return number(word) if NUMBER.fullmatch(word) else word or -1
