"""A label file, .npy, .txt or .csv, as a table of words: rows, and the names of columns if any.

Text may be UTF-8, with or without a byte order mark, or UTF-16 with one. Words are separated by
semicolons, tabs or commas, whichever the first line has; where it has none, by blanks. Python's csv
reads the cells; labels.py says what they mean.
"""
import csv
import re
from itertools import chain
from typing import NamedTuple

import numpy as np

from datasets.video import one_line
from running.errors import UserError

NUMBER = re.compile(r'[+-]?\d+([.,]\d*)?([eE][+-]?\d+)?')
CLOCK = re.compile(r'(\d+:){1,2}\d+([.,]\d*)?')    # 1:02.5 is 62.5 seconds
RANGE = re.compile(r'(\d+)-(\d+)\s+(\S.*)')        # 31-70 pour_milk, as Breakfast has it
HEADERS = {'label', 'labels', 'class', 'phase', 'name', 'action', 'behavior', 'behaviour'}
NONE = {'', 'na', 'n/a', 'nan', 'null', '-1'}      # cells of frames without a label, in lower case


class Table(NamedTuple):
    header: list              # names of the columns as written; empty without a header
    rows: list                # lists of words, all of one length if there is a header
    from_one: bool = False    # segments in frames, counted from 1, both ends inside

    @property
    def words(self):
        return list(chain.from_iterable(self.rows))

    def column(self, *names):
        """Number of the first column with one of the names, or with a word that begins so."""
        header = [name.lower() for name in self.header]
        for name in names:
            if name in header:
                return header.index(name)
        for name in names:
            for number, title in enumerate(header):
                if re.search(rf'(^|[^a-z]){name}', title):
                    return number


def read_table(path):
    """-> Table. UserError: the file cannot be read, and why."""
    try:
        if path.suffix.lower() == '.npy':
            return Table([], rows_of_array(np.load(path, allow_pickle=False)))
        return table_of_text(decoded(path.read_bytes()))
    except Exception as error:  # NumPy raises half a dozen types on a broken file
        raise UserError(
            f'{path}: cannot be read as one integer label a frame, or one class name '
            f'({one_line(error)})') from None


def rows_of_array(array):
    if array.ndim != 1 or not len(array) or array.dtype.kind not in 'iufU':
        shape = ' x '.join(map(str, array.shape))
        raise ValueError(f'{shape} values of type {array.dtype}')
    if array.dtype.kind == 'f' and not np.isfinite(array).all():
        raise ValueError('some of its values are not finite')
    return [[str(value)] for value in array.tolist()]


def decoded(content):
    """Bytes -> text."""
    marked = content.startswith((b'\xff\xfe', b'\xfe\xff'))
    try:
        text = content.decode('utf-16' if marked else 'utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'byte {error.start} is not UTF-8; save it as UTF-8') from None
    if '\0' in text:
        raise ValueError('not plain text; save it as UTF-8')
    return text


def table_of_text(text):
    lines = [line for line in text.splitlines() if line.strip()]
    marks = ';\t,'
    if lines and re.fullmatch('sep=.', lines[0].strip(' "').lower()):    # a spreadsheet's first line
        marks = lines.pop(0).strip(' "')[-1]
    comments = []
    while lines and lines[0].startswith('#'):
        comments.append(lines.pop(0).lstrip('# '))
    if not lines:
        raise ValueError('nothing in it')
    ranges = [RANGE.fullmatch(line.strip()) for line in lines]
    if all(ranges):
        return Table(['start_frame', 'end_frame', 'label'], [m.groups() for m in ranges], True)
    mark = next((mark for mark in marks if mark in lines[0]), None)
    if comments:    # NumPy writes a header as the last of its comments
        first, *rest = split(lines, mark)
        titles = split(comments[-1:], mark)[0]
        if len(titles) == len(first) and is_header(titles, [first, *rest]):
            return with_header(titles, [first, *rest])
    first, *rest = split(lines, mark)
    if is_header(first, rest):
        return with_header(first, rest)
    return Table([], [first, *rest])


def split(lines, mark):
    """Lines -> rows of words, without rows of empty cells and empty cells at every row's end."""
    if mark is None:
        return split_at_blanks([line.strip() for line in lines])
    rows = csv.reader(lines, delimiter=mark, skipinitialspace=True)
    rows = [[word.strip() for word in row] for row in rows]
    rows = [row for row in rows if any(row)]
    if all(row[-1] == '' for row in rows):
        rows = [row[:-1] for row in rows]
    return rows or [['']]


def split_at_blanks(lines):
    """Blanks separate words, but may also lie within a name: 'going down'."""
    rows = [line.split() for line in lines]
    if len(rows) == 1 or all_numbers(chain.from_iterable(rows)):
        return rows
    for numbers in (2, 1):  # start, end, name; frame, name
        if all(len(row) > numbers and all_numbers(row[:numbers]) for row in rows[1:]):
            return [row[:numbers] + [' '.join(row[numbers:])] for row in rows]
    return [[line.strip('"')] for line in lines]


def is_header(first, rest):
    """Whether the first row names the columns: without numbers, over numbers or in usual words."""
    if not rest or any(map(is_number, first)):
        return False
    usual = HEADERS.intersection(map(str.lower, first))
    words = list(chain.from_iterable(rest))
    if len(first) == 1:
        return all(is_number(word) or word.lower() in NONE for word in words) or \
            bool(usual) and first not in rest
    return any(map(is_number, words)) or bool(usual)


def with_header(header, rows):
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise ValueError(
                f'row {number} below the header, "{" ".join(row)}", has {len(row)} cells, '
                f'the header {len(header)}')
    return Table(header, rows)


def is_number(word):
    return bool(NUMBER.fullmatch(word) or CLOCK.fullmatch(word))


def all_numbers(words):
    return all(map(is_number, words))


def number(word):
    """'1.5', '1,5' -> 1.5; '1:02.5' -> 62.5. ValueError: the cell is no number or time."""
    if not is_number(word):
        raise ValueError(f'"{word}" is no number and no time such as 1:02.5')
    value = 0
    for part in word.replace(',', '.').split(':'):
        value = value * 60 + float(part)
    return value
