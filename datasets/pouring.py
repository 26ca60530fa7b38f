"""Pouring as TFRecords, read without TensorFlow, or as CARL's authors prepared it (section 4).

A TFRecord file is a row of records: uint64 length, its checksum (4 bytes), the record, another.
A record is a protocol buffer, tf.train.SequenceExample: a labelled video, a JPEG and an integer a
frame. The checksums are passed over: a file cut short shows by its lengths, a spoilt image when it
is decoded.
"""
import mmap
from functools import partial

from datasets.carl import carl
from datasets.images import frame_folder
from datasets.labels import checked
from datasets.layout import CARL, TCC, DataSet, layout, refused

SOURCE = f'TFRecords: {TCC}. Or prepared, as train.pkl, val.pkl and videos/: {CARL}'
CLASSES = 5


def pouring(data, size):
    """-> videos, []. size: pixels a side."""
    number, found = layout(
        SOURCE, data,
        ('pouring_train-*.tfrecord', 'pouring_val-*.tfrecord'),
        ('train.pkl', 'val.pkl', 'videos'))
    if number == 1:
        return carl(*found, size, {'pouring': CLASSES})
    videos = {'train': [], 'val': []}
    for split in videos:
        for file in sorted(data.glob(f'pouring_{split}-*.tfrecord')):
            videos[split] += videos_in(file, size)
    return videos, []


def videos_in(path, size):
    """Yield the videos of a TFRecord file; UserError if it is damaged."""
    end = 0
    with refused(f'{path}: damaged, fetch it anew'), open(path, 'rb') as file:
        # of which only what is looked at is read
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        while end < len(content):
            start = end + 12
            end = start + int.from_bytes(content[end:end + 8], 'little') + 4
            if end > len(content):
                raise ValueError('cut off')
            name, images, labels = sequence_example(content, (start, end - 4))
            images = [(path, 'bytes', first, last - first) for first, last in images]
            annotate = partial(checked, name, labels, CLASSES)
            yield frame_folder(name, images, size, action='pouring', annotate=annotate)


# ----------------------------------------------------------------------------------------
# Protocol buffers: a message is a row of fields, each with a number and bytes. The wanted ones:
#     SequenceExample   1 context, 2 feature lists; in both 1: map entries, of 1 key and 2 value
#     feature           1 list of bytes or 3 list of integers, in both 1: the value
#     feature list      1: features, one a frame

def sequence_example(content, record):
    """-> name, (start, end) of each frame's JPEG, each frame's label."""
    features = {}
    for entry in values(content, record, 1, 1) + values(content, record, 2, 1):
        start, end = values(content, entry, 1)[0]
        features[content[start:end]] = values(content, entry, 2)[0]
    start, end = values(content, features[b'name'], 1, 1)[0]
    images = values(content, features[b'video'], 1, 1, 1)
    labels = values(content, features[b'frame_labels'], 1, 3, 1)
    return content[start:end].decode(), images, [varint(content, at)[0] for at, _ in labels]


def values(content, span, *path):
    """What lies at a path of field numbers in the message at `span`: the (start, end) of each."""
    if not path:
        return [span]
    start, end = span
    found = []
    while start < end:
        tag, start = varint(content, start)
        size, start = varint(content, start)
        if tag % 8 != 2 or start + size > end:
            raise ValueError('a field that is no bytes, or runs past its message')
        if tag // 8 == path[0]:
            found += values(content, (start, start + size), *path[1:])
        start += size
    return found


def varint(content, at):
    """An integer in groups of 7 bits, the lowest first; a byte above 127 is not the last."""
    end = at
    while content[end] > 127:
        end += 1
    groups = [byte % 128 for byte in content[at:end + 1]]
    return sum(group << 7 * place for place, group in enumerate(groups)), end + 1


ROW = DataSet(
    pouring, SOURCE, stride=5,
    published={'all': (70, 14)},
    paper=dict(
        classification=(.9334, .0200), progression=(.919, .015),
        tau=(.985, .003), ap5=(.9233, .0102)))
