"""Pouring as TFRecords, read without TensorFlow, or as CARL's authors prepared it."""
import mmap
import re
from functools import partial

import numpy as np

from datasets.carl import carl
from datasets.layout import CARL, TCC, DataSet, layout
from datasets.images import read_images
from datasets.video import Video, checked, one_line


SOURCE = f'TFRecords: {TCC}. Or prepared, as train.pkl, val.pkl and videos/: {CARL}'


def pouring(data, size):
    """Pouring in TFRecords from TCC's authors (a video a record: JPEGs and frame labels), or CARL's."""
    number, found = layout(SOURCE, data, ('pouring_train-*.tfrecord', 'pouring_val-*.tfrecord'),
                           ('train.pkl', 'val.pkl', 'videos'))
    if number == 1:
        return carl(*found, size, [5], ['pouring'])
    videos, missing = {'train': [], 'val': []}, []
    for split in videos:
        files = sorted(data.glob(f'pouring_{split}-*.tfrecord'))
        shards = int((re.findall(r'-of-(\d+)', files[0].name) or [0])[-1])
        if len(files) < shards:
            missing.append(f'{shards - len(files)} of the files pouring_{split}-*-of-{shards}.tfrecord')
        for file, content, start, end in (record for file in files for record in tfrecord(file, missing)):
            try:
                name, images, labels = sequence_example(content, (start, end))
            except (ValueError, KeyError, IndexError, TypeError) as error:
                missing.append(f'{file.name}: no labelled video at byte {start} ({one_line(error)})')
                continue
            images = [(file, *image) for image in images]
            videos[split].append(Video(name, partial(len, images), partial(read_images, images, size=size),
                                       'pouring', partial(checked, name, labels, 5)))
    return videos, missing


def crc32c(data):
    """CRC-32C (Castagnoli) of bytes, in NumPy: many lanes of about 256 bytes side by side, then combined."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = table >> 1 ^ (table & 1) * np.uint32(0x82f63b78)
    data = b'Td\x1fd' + data  # takes the register from zero to its first value, all ones: so every lane may
    lanes = 1 << max(0, len(data).bit_length() - 8)                 # begin at zero, with zeros ahead
    lane = np.frombuffer(data.rjust(-(-len(data) // lanes) * lanes, b'\0'), np.uint8).reshape(lanes, -1)
    bits = np.arange(32, dtype=np.uint32)
    crc, passed = np.zeros(lanes, np.uint32), np.uint32(1) << bits  # passed: what a lane makes of each bit
    for byte in lane.T:
        crc, passed = table[(crc ^ byte) & 255] ^ crc >> 8, table[passed & 255] ^ passed >> 8
    while len(crc) > 1:                                             # of two lanes the first passes the second
        first, passed = (np.bitwise_xor.reduce((x[:, None] >> bits & 1) * passed, 1)
                         for x in (crc[::2], passed))
        crc = first ^ crc[1::2]
    return int(crc[0]) ^ 0xffffffff


def tfrecord(path, broken):
    """Yield (path, bytes, start, end) of a TFRecord file's records; `broken` gets what fails its checksum."""
    def fails(content, checksum):
        crc = crc32c(content)
        return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff != int.from_bytes(checksum, 'little')

    with open(path, 'rb') as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b''
    end = -4
    while end + 4 < max(len(content), 1):  # uint64 length, its checksum, the record, its checksum
        at, start = end + 4, end + 16
        end = start + int.from_bytes(size := content[at:at + 8], 'little')
        if end + 4 > len(content) or fails(size, content[at + 8:start]):
            broken.append(f'{path.name}: cut off or damaged from byte {at} on')
            return
        if fails(content[start:end], content[end:end + 4]):
            broken.append(f'{path.name}: the record at byte {at} is damaged')
        else:
            yield path, content, start, end


def varint(content, at):
    value = shift = 0
    while content[at] > 127:
        value, shift, at = value | (content[at] & 127) << shift, shift + 7, at + 1
    return value | content[at] << shift, at + 1


def fields(content, spans, *path):
    """The values of a protocol buffer at a path of field numbers: integers, or the (start, end) of bytes."""
    for wanted in path:
        values = []
        for start, end in spans:
            while start < end:
                tag, start = varint(content, start)
                size, after = varint(content, start) if tag & 7 in (0, 2) else ({1: 8, 5: 4}[tag & 7], start)
                value, start = (size, after) if tag & 7 == 0 else ((after, after + size), after + size)
                if tag >> 3 == wanted:
                    values.append(value)
            if start > end:
                raise ValueError('a field runs past its message')
        spans = values
    return spans


def sequence_example(content, record):
    """tf.train.SequenceExample of a labelled video -> name, (start, end) of each image, frame labels."""
    entry = {}
    for part in fields(content, [record], 1, 1) + fields(content, [record], 2, 1):  # context; feature lists
        (start, end), = fields(content, [part], 1)
        entry[content[start:end]] = fields(content, [part], 2)
    (start, end), = fields(content, entry[b'name'], 1, 1)
    labels = fields(content, entry[b'frame_labels'], 1, 3, 1)
    labels = [each if isinstance(each, int) else varint(content, each[0])[0] for each in labels]  # or packed
    labels = [label - (label >> 63 << 64) for label in labels]
    return content[start:end].decode(), fields(content, entry[b'video'], 1, 1, 1), labels


ROW = DataSet(pouring, SOURCE, stride=5, published={'all': (70, 14)},
              paper=dict(classification=(.9334, .0200), progression=(.919, .015), tau=(.985, .003), ap5=(.9233, .0102)))
