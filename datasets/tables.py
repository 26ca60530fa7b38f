"""A label file, .npy, .txt or .csv, as a table of words: rows, and the names of columns if any.

Text may be UTF-8, with or without a byte order mark, or UTF-16 with one. Words are separated by
semicolons, tabs or commas; where there is none of these, by blanks. labels.py says what they mean.
"""
import csv
import re
from itertools import chain
from typing import NamedTuple

import numpy as np

from datasets.video import one_line
from running.errors import UserError

NUMBER = re.compile(r'[+-]?\d+([.,]\d*)?([eE][+-]?\d+)?')
CLOCK = re.compile(r'(\d+:){1,2}\d+([.,]\d*)?')  # 1:02.5 is 62.5 seconds


class Table(NamedTuple):
    header: list  # names of the columns in lower case; empty without a header
    rows: list    # lists of words, all of one length

    @property
    def words(self):
        return list(chain.from_iterable(self.rows))

    def column(self, *beginnings):
        """Number of the first column whose name has a word that begins like this, or None."""
        for beginning in beginnings:
            for number, name in enumerate(self.header):
                if re.search(rf'(^|[^a-z]){beginning}', name):
                    return number


def read_table(path):
    """-> Table. UserError: the file cannot be read, and why."""
    try:
        if path.suffix.lower() == '.npy':
            rows = rows_of_array(np.load(path, allow_pickle=False))
        else:
            rows = rows_of_text(decoded(path.read_bytes()))
        widths = set(map(len, rows))
        if len(widths) > 1 and not all_numbers(chain.from_iterable(rows)):
            raise ValueError(f'rows of {min(widths)} to {max(widths)} words')
    except Exception as error:  # NumPy raises half a dozen types on a broken file
        raise UserError(
            f'{path}: cannot be read as one integer label a frame, or one class name '
            f'({one_line(error)})') from None
    if is_header(rows[0], rows[1:]):
        return Table([word.lower() for word in rows[0]], rows[1:])
    return Table([], rows)


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


def rows_of_text(text):
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError('nothing in it')
    lines[0] = lines[0].lstrip('# ')  # NumPy writes headers as comments
    rows = [re.split(r'[\s,;]+', line.strip(',; ')) for line in lines]
    if all_numbers(chain.from_iterable(rows)):
        return rows
    for mark in ';\t,':
        if any(mark in line for line in lines):
            rows = csv.reader(lines, delimiter=mark, skipinitialspace=True)
            return [[word.strip() for word in row] for row in rows]
    return rows_of_blanks(lines)


def rows_of_blanks(lines):
    """Blanks separate words, but may also lie within a name: 'going down'."""
    rows = [line.split() for line in lines]
    if len(rows) == 1:
        return rows
    for numbers in (2, 1):  # start, end, name; frame, name
        if all(len(row) > numbers and all_numbers(row[:numbers]) for row in rows[1:]):
            return [row[:numbers] + [' '.join(row[numbers:])] for row in rows]
    return [[line.strip('"')] for line in lines]


def is_header(first, rest):
    """Whether the first row names the columns: without numbers, over numbers or in usual words."""
    if not rest or any(map(is_number, first)):
        return False
    if len(first) == 1:
        usual = first[0].lower() in ('label', 'labels', 'class', 'phase', 'name', 'action')
        return all_numbers(chain.from_iterable(rest)) or usual and first not in rest
    return any(map(is_number, chain.from_iterable(rest))) or 'label' in map(str.lower, first)


def is_number(word):
    return bool(NUMBER.fullmatch(word) or CLOCK.fullmatch(word))


def all_numbers(words):
    return all(map(is_number, words))


def number(word):
    """'1.5', '1,5' -> 1.5; '1:02.5' -> 62.5."""
    value = 0
    for part in word.replace(',', '.').split(':'):
        value = value * 60 + float(part)
    return value
