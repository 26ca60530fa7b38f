"""Class names and their numbers, of a data set whose labels are names.

    classes.txt or mapping.txt beside the videos: lines "0 name", "name 0", or one name a line
without such a file, the alphabet
"""
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from datasets.labels import read_annotation
from datasets.layout import say, shortened
from datasets.tables import NONE, all_numbers, decoded
from datasets.video import one_line
from running.errors import UserError

CLASS_FILES = ('classes.txt', 'mapping.txt')


def class_names(folder, label_files, unit=None):
    """-> the class names by number, None if there are only numbers. Says how each label file was
    understood. A text that does not fit its video is no label file: its words are no classes.

    label_files: {path: Video}. UserError: some labels are names and others numbers, and no file
    says which is which.
    """
    with ThreadPoolExecutor() as pool:
        understood = list(pool.map(partial(understand, unit=unit), *zip(*label_files.items()))) \
            if label_files else []
    alike = defaultdict(list)
    every_name = set()
    named = numbered = None
    for path, annotation in zip(label_files, understood):
        words = {word for word in annotation.words if word.lower() not in NONE} if annotation else ()
        names = {word for word in words if not all_numbers([word])}
        if words and names in (set(), words):    # a mixture is no list of labels
            alike[annotation.form].append(path)
            every_name |= names
            named = named or (path if names else None)
            numbered = numbered or (path if words - names else None)
    for form, paths in alike.items():
        files = shortened(path.relative_to(folder).as_posix() for path in paths)
        say(f'labels, {len(paths)} files: {form} ({files})', warning=False)
    for file in CLASS_FILES:
        if (folder / file).is_file():
            return said(names_by_number(folder / file), file)
    if named and numbered:
        raise UserError(
            f'{named} has class names, {numbered} one integer label a frame; say which number is '
            f'which name in a file {folder}/classes.txt, with a line "0 name" for each class')
    return said(sorted(every_name), 'the alphabet') if named else None


def said(names, source):
    numbers = ', '.join(f'{i} {name}' for i, name in enumerate(names) if name)
    say(f'classes, numbered by {source}: {numbers}', warning=False)
    return names


def understand(path, video, unit):
    """-> Annotation; None if it does not fit the video: check_labels will say why."""
    try:
        annotation = read_annotation(path, video.frames_on_disk, unit)
    except UserError:
        return None
    fits = annotation.spans is not None or len(annotation.words) == video.frames_on_disk
    return annotation if fits else None


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
