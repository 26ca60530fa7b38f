"""Class names and their numbers, of a data set whose labels are names.

    classes.txt or mapping.txt beside the videos: lines "0 name", "name 0", or one name a line
without such a file, the alphabet
"""
from datasets.labels import is_list, words_of
from datasets.tables import all_numbers, decoded, read_table
from datasets.video import one_line
from running.errors import UserError

CLASS_FILES = ('classes.txt', 'mapping.txt')


def class_names(folder, label_files):
    """-> the class names by number, None if there are only numbers; and what numbers them.

    UserError: some labels are names and others numbers, and no file says which is which.
    """
    for file in CLASS_FILES:
        if (folder / file).is_file():
            return names_by_number(folder / file), file
    every_name = set()
    named = None
    numbered = None
    for file in label_files:
        names = names_in(file)
        if names:
            every_name |= names
            named = named or file
        elif names is not None:
            numbered = numbered or file
    if not named:
        return None, ''
    if numbered:
        raise UserError(
            f'{named} has class names, {numbered} one integer label a frame; say which number is '
            f'which name in a file {folder}/classes.txt, with a line "0 name" for each class')
    return sorted(every_name), 'the alphabet'


def names_in(path):
    """The class names in a label file; empty if it has numbers; None if it cannot be read."""
    try:
        table = read_table(path)
        words = table.words if is_list(table, None) else words_of(table)
    except (UserError, ValueError):
        return None  # check_labels will say why
    names = {word for word in words if not all_numbers([word])}
    numbers = set(words) - names - {'-1'}
    return None if names and numbers else names


def names_by_number(path):
    """A file of classes -> names by number, '' for a number that has none."""
    try:
        pairs = pairs_in(decoded(path.read_bytes()))
        numbers = [number for number, _ in pairs]
        names = [name for _, name in pairs]
        if not pairs or len(set(numbers)) < len(pairs) or len(set(names)) < len(pairs):
            raise ValueError('not each class once')
        if max(numbers) > 9999:
            raise ValueError('a number above 9999')
    except (ValueError, OSError) as error:
        why = one_line(error)
        raise UserError(f'{path}: no list of classes, "0 name" a line ({why})') from None
    by_number = dict(pairs)
    return [by_number.get(number, '') for number in range(max(numbers) + 1)]


def pairs_in(text):
    """[(number, name)] of the lines of a file of classes."""
    lines = [line.replace(',', ' ').split() for line in text.splitlines() if line.strip()]
    if all(len(words) > 1 and words[0].isdecimal() for words in lines):
        return [(int(words[0]), ' '.join(words[1:])) for words in lines]
    if all(len(words) > 1 and words[-1].isdecimal() for words in lines):
        return [(int(words[-1]), ' '.join(words[:-1])) for words in lines]
    return [(number, ' '.join(words)) for number, words in enumerate(lines)]
