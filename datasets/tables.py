"""A label file, .npy or text, as a table of words, each column with a title.

Text may be UTF-8, with or without a byte order mark, or UTF-16 with one. Words are separated by
semicolons, tabs or commas, whichever the first line has; where it has none, by blanks.
"""
import csv
import re
from itertools import chain, takewhile

import numpy as np

NUMBER = re.compile(      # 1.5, 1,5, 1e-3; or by the clock: 1:02.5 is 62.5 seconds
    r'[+-]?\d+([.,]\d*)?([eE][+-]?\d+)?|(\d+:){1,2}\d+([.,]\d*)?')
RANGE = re.compile(r'(\d+)-(\d+)\s+(\S.*)')        # 31-70 pour_milk, as Breakfast has it
NONE = {'', 'na', 'n/a', 'nan', 'null', '-1'}      # cells that say nothing, in lower case
LABELS = ('label', 'labels', 'phase', 'class', 'behavior', 'behaviour', 'annotation', 'action',
          'trial_type', 'event', 'name')           # titles of their column


def read_table(path):
    """-> {title: words}. Of a file that has one word a frame the title is 'label'. An exception:
    the file cannot be read, and why."""
    if path.suffix.lower() == '.npy':
        array = np.load(path, allow_pickle=False)
        if array.ndim != 1 or array.dtype.kind not in 'iufU':
            raise ValueError(f'not one integer label a frame, but {array.shape} of {array.dtype}')
        return {'label': [*map(str, array.tolist())]}
    titles, rows = with_titles(rows_of_text(decoded(path.read_bytes())))
    table = {}
    for title, words in zip(titles, zip(*rows)):
        table.setdefault(title, words)
    return table


def said(words):
    """The words, '' where they say nothing."""
    return ['' if word.lower() in NONE else word for word in words]


def decoded(content):
    """Bytes -> text."""
    marked = content.startswith((b'\xff\xfe', b'\xfe\xff'))
    text = content.decode('utf-16' if marked else 'utf-8-sig', errors='replace')
    if '\0' in text or '\ufffd' in text:
        raise ValueError('not UTF-8 text; save it as UTF-8')
    return text


def rows_of_text(text):
    """Text -> rows of words, all of one length; without what spreadsheets and scripts leave."""
    lines = [line.strip(' ') for line in text.splitlines() if line.strip(' \t;,"')]
    marks = ';\t,'
    if lines and re.fullmatch('"?sep=."?', lines[0].lower()):    # a spreadsheet's first line
        marks = lines.pop(0).strip('"')[-1]
    while lines and lines[0].startswith('#'):
        del lines[0]
    if not lines:
        raise ValueError('nothing in it')
    ranges = [RANGE.fullmatch(line) for line in lines]
    if all(ranges):
        rows = [[f'{int(m[1]) - 1}', f'{int(m[2]) - 1}', m[3]] for m in ranges]
        return [['first frame (from 1)', 'last frame (from 1)', 'label'], *rows]
    mark = next((mark for mark in marks if mark in lines[0]), None)
    if mark:
        rows = csv.reader(lines, delimiter=mark, skipinitialspace=True)
    else:    # blanks also lie within a name, which is the last: '0 12 hold still'
        leading = [len([*takewhile(NUMBER.fullmatch, line.split())]) for line in lines]
        most = min(leading[1:], default=leading[0] or -1)    # the first may be titles
        rows = [line.split(maxsplit=most) for line in lines]
    rows = [[*map(bare, row)] for row in rows]
    while not any(row[-1] for row in rows):
        rows = [row[:-1] for row in rows]
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise ValueError(
                f'row {number}, "{" ".join(row)}", has {len(row)} cells, row 1 {len(rows[0])}')
    return rows


def bare(word):
    return word.strip(' "')


def with_titles(rows):
    """Rows -> titles, rows. Columns without titles are a frame and its label; or start, end and
    label, the last that is no number (ELAN has a duration and others between)."""
    first, *rest = rows
    numeric = [i for i, column in enumerate(zip(*rows)) if are_numbers(column)]
    others = [i for i in range(len(first)) if i not in numeric]
    roles = {0: 'frame', 1: 'label'}
    if is_header(first, rest):
        titles = [title or 'index' for title in first]    # pandas gives its index no name
        return titles if len(first) > 1 else ['label'], rest
    if len(first) > 2 and len(numeric) in (2, 3) and (rest or others):
        roles = {numeric[0]: 'start', numeric[1]: 'end', (others or numeric)[-1]: 'label'}
    elif len(first) == 1 or not rest:
        return ['label'], [[word] for word in chain(*rows)]
    elif len(first) > 2:
        raise ValueError('its columns have no names; begin with a line such as frame,label')
    return [f'{roles.get(i, "")} (column {i + 1})' for i in range(len(first))], rows


def is_header(first, rest):
    """Does the first row name the columns: has it usual words, or stands it over numbers?"""
    usual = set(LABELS).intersection(map(str.lower, first))
    named = usual or any(map(are_numbers, zip(*rest)))
    return named and rest and first not in rest and not any(map(NUMBER.fullmatch, first))


def find_column(table, *names):
    """Title of the first column with one of the names, or with a word that begins so, or None."""
    for pattern in ('^{}$', '(^|[^a-z]){}'):
        for name in names:
            for title in table:
                if re.search(pattern.format(name), title.lower()):
                    return title


def are_numbers(words):
    """Is each of the words that say something a number?"""
    words = [word for word in said(words) if word]
    return bool(words) and all(map(NUMBER.fullmatch, words))


def number(word, row=()):
    """'1.5', '1,5' -> 1.5; '1:02.5' -> 62.5. ValueError: it is none; row: in which it stands."""
    if not NUMBER.fullmatch(word):
        raise ValueError(f'"{word}" is no number and no time such as 1:02.5, in "{",".join(row)}"')
    value = 0
    for part in word.replace(',', '.').split(':'):
        value = value * 60 + float(part)
    return value
