"""Videos in, clips out (paper, sections 3.1 and 4.1): data sets as they lie on disk, two views of a video.

A `Video` decodes the frames asked for, uint8 (n, 3, H, W). `Clips` draws two views of T frames from each, and
how to augment them; `augment` does so on the device that trains, (T, 3, H, W) -> (T, 3, S, S); `center` is
what evaluation does instead. Whatever a file can have wrong with it becomes a `DataError` of one line.
`python data.py NAME --data DIR` tells what of a data set is there.
"""
import argparse
import collections
import colorsys
import csv
import io
import itertools
import json
import math
import mmap
import os
import pickle
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Callable

import av
import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from PIL import Image, ImageDraw
from torch.utils.data import Dataset, get_worker_info
from tqdm import tqdm

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VIDEO_FILES = {'.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv', '.flv', '.gif'}
IMAGE_FILES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp'}


class DataError(ValueError):
    """A data set, video or label file that cannot be used: one line with its name and what would mend it."""


def one_line(error):
    words = error.strerror if isinstance(error, av.error.FFmpegError) else str(error)
    return ' '.join(words.split()) or type(error).__name__


# ------------------------------------------------------------------------------------------------------------
# One video

@dataclass(eq=False)
class Video:
    """One video: its name, what is known of it, and functions that find out the rest when it is first needed.

    count() -> number of frames;  decode(distinct rising indices) -> iterable of uint8 (3, H, W), of one size
    annotate(number of frames) -> one integer a frame, -1: unlabelled;  mask(indices) -> bool (n, H, W), None
    fit: if frames and labels differ in number, sample the more numerous down (Penn Action) and do not refuse
    """
    name: str
    count: Callable = field(repr=False)
    decode: Callable = field(repr=False)
    action: str | None = None
    annotate: Callable | None = field(default=None, repr=False)
    mask: Callable | None = field(default=None, repr=False)
    fit: bool = False

    @cached_property
    def on_disk(self):
        if not (n := self.count()):
            raise DataError(f'{self.name}: no frame in it')
        return n

    @cached_property
    def frames(self):
        """Number of frames; DataError if there is none or it cannot be told."""
        return min(self.on_disk, len(self.annotate(self.on_disk))) if self.fit else self.on_disk

    @cached_property
    def labels(self):
        """Phase labels int64 (frames,), -1 = unlabelled, or None; DataError if they do not fit the frames."""
        if self.annotate is None:
            return None
        labels = np.asarray(self.annotate(self.on_disk), np.int64)
        if len(labels) != self.frames and not self.fit:
            raise DataError(f'{self.name}: {len(labels)} labels for {self.frames} frames')
        return labels[np.arange(self.frames) * len(labels) // self.frames]

    def positions(self, indices):
        """Where on disk the frames at `indices` are: elsewhere only if there are more of them than labels."""
        indices = np.asarray(indices, np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.frames:
            raise IndexError(f'{self.name} has frames 0 to {self.frames - 1}, not {indices.tolist()}')
        return indices * self.on_disk // self.frames

    def read(self, indices):
        """Decode frames: any order, repeats allowed, each decoded once -> uint8 (n, 3, H, W)."""
        distinct, back = np.unique(self.positions(indices), return_inverse=True)
        frames = torch.stack([*self.decode(distinct)])
        return frames if np.array_equal(back, np.arange(len(distinct))) else frames[torch.from_numpy(back)]

    def parts(self, size=64):
        """Decode the whole video once, from front to back -> yields uint8 (up to `size`, 3, H, W)."""
        frames = iter(self.decode(self.positions(range(self.frames))))
        while part := [*itertools.islice(frames, size)]:
            yield torch.stack(part)

    def actor(self, indices):
        """Where the actor is in the frames as read, bool (n, H, W), or None where it is not known."""
        return self.mask(self.positions(indices)) if self.mask else None


def timetable(path):
    """The frames of an mp4 or mov file, found from its packets without decoding them -> (shown, keys, seek):
    the times at which they are shown, rising; which of them are key frames; where to seek for each of those.

    None for other files: only in these is a packet surely one frame. The header's count is not asked for: a
    file that was cut off ends with its last whole packet. What precedes the first key frame does not decode.
    """
    with av.open(str(path)) as file:
        if 'mp4' not in file.format.name:
            return None
        packets = [(each.pts, each.dts, each.is_keyframe) for each in file.demux(file.streams.video[0])
                   if each.size and not each.is_corrupt and not each.is_discard]
    shown = [pts for pts, _, _ in packets]
    if None in shown or len(set(shown)) < len(shown):
        return None
    keys = sorted((pts, dts) for pts, dts, key in packets if key)
    shown = np.array(sorted(pts for pts in shown if keys and pts >= keys[0][0]), np.int64)
    return shown, np.searchsorted(shown, [pts for pts, _ in keys]), [dts for _, dts in keys]


def frames_of(file):
    """Yield an opened video file's frames from where it stands, but for a packet that its end cuts short."""
    for packet in file.demux(file.streams.video[0]):
        if not packet.is_corrupt:
            yield from packet.decode()


def decoded(path, indices):
    """Yield PyAV frames of a video file at distinct rising `indices`, up to the first that does not come."""
    table = timetable(path)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = 'AUTO', 1 if get_worker_info() else 0
        if table is None:
            wanted, frames = set(indices.tolist()), itertools.islice(frames_of(file), indices[-1] + 1)
            yield from (frame for i, frame in enumerate(frames) if i in wanted)
            return
        shown, keys, seek = table
        start = np.searchsorted(keys, indices, 'right') - 1  # the key frame from which each index is decoded
        i = 0
        while i < len(indices):
            file.seek(seek[start[i]], stream=stream)
            for frame in frames_of(file):
                if frame.pts == shown[indices[i]]:
                    yield frame
                    i += 1
                    if i == len(indices) or keys[start[i]] > indices[i - 1] + 16:
                        break                                # all done, or seeking skips more than 16 frames
                elif frame.pts is None or frame.pts > shown[indices[i]]:
                    return
            else:
                return


def file_frames(path):
    """Number of frames of a video file that decode: its packets in an mp4, by decoding in any other."""
    try:
        if table := timetable(path):
            return len(table[0])
        with av.open(str(path)) as file:
            return sum(1 for _ in frames_of(file))
    except Exception as error:  # demuxers and decoders raise a dozen types on a stranger's bytes
        why = 'it holds none' if isinstance(error, IndexError) else one_line(error)
        raise DataError(f'{path}: cannot be read as a video ({why})') from None


def read_file(path, indices, size=None):
    """Yield frames of a video file, squashed to size x size if given: uint8 (3, H, W)."""
    scale, shape, done = av.video.reformatter.VideoReformatter(), None, 0
    try:
        for frame in decoded(path, indices):
            if shape not in (None, (shape := (frame.width, frame.height))):
                raise ValueError('its frames differ in size')
            frame = scale.reformat(frame, size or frame.width, size or frame.height, 'rgb24')
            yield torch.from_numpy(frame.to_ndarray()).permute(2, 0, 1)
            done += 1
    except Exception as error:  # as above
        raise DataError(f'{path}: does not decode ({one_line(error)})') from None
    if done < len(indices):
        raise DataError(f'{path}: frame {indices[done]} does not decode')


def video_file(name, path, size=None, **known):
    return Video(name, partial(file_frames, path), partial(read_file, path, size=size), **known)


def read_images(files, indices, size=None):
    """Yield the images at `indices`, squashed to size x size if given: uint8 (3, H, W).

    A file is a path, or (path, start, end) for an image inside a larger file."""
    shape = None
    for path, *span in (files[i] if isinstance(files[i], tuple) else (files[i],) for i in indices):
        try:
            with open(path, 'rb') as file:
                if span:
                    file.seek(span[0])
                    file = io.BytesIO(file.read(span[1] - span[0]))
                image = Image.open(file)
                if shape not in (None, image.size):
                    raise ValueError(f'{image.size} pixels, the frames before it {shape}')
                shape = image.size
                if size:
                    image.draft('RGB', (size, size))  # decode a JPEG at a half or quarter if that is enough
                image = image.convert('RGB')
                image = np.array(image.resize((size, size), Image.BILINEAR) if size else image)
        except Exception as error:  # Pillow's plug-ins raise OSError, SyntaxError, struct.error and others
            where = ', bytes {} to {}'.format(*span) if span else ''
            raise DataError(f'{path}{where}: cannot be read as an image ({one_line(error)})') from None
        yield torch.from_numpy(image).permute(2, 0, 1)


def images_in(folder):
    """The image files of a folder in natural order: frame 2 before frame 10."""
    try:
        names = [entry.name for entry in os.scandir(folder)
                 if Path(entry.name).suffix.lower() in IMAGE_FILES and not entry.name.startswith('.')]
    except OSError as error:
        raise DataError(f'{folder}: cannot be listed ({error.strerror})') from None
    return [Path(folder, name) for name in sorted(names, key=natural)]


def natural(name):
    return [int(part) if part.isdecimal() else part for part in re.split(r'(\d+)', name)]


def folder_frames(folder):
    return len(images_in(folder))


def read_folder(folder, indices, size=None):
    return read_images(images_in(folder), indices, size)


def frame_folder(name, folder, size=None, **known):
    return Video(name, partial(folder_frames, folder), partial(read_folder, folder, size=size), **known)


def checked(name, labels, classes, _frames=None):
    """One integer a frame, -1 = unlabelled, below `classes` where that is known -> int64 (n,)."""
    values = np.asarray(labels)
    with np.errstate(invalid='ignore'):
        if values.ndim != 1 or not len(values) or values.dtype.kind not in 'iuf' or not np.array_equal(
                values, values.astype(np.int64)):
            raise DataError(f'{name}: not one integer label a frame')
    if values.min() < -1 or classes and values.max() >= classes:
        raise DataError(f'{name}: labels from {values.min():g} to {values.max():g}; they go from 0 to '
                        f'{classes - 1 if classes else "the last class"}, or -1 for none')
    return values.astype(np.int64)


def read_labels(path, classes, _frames=None):
    """Labels from a .npy or a text file, as `checked`."""
    try:
        values = (np.load(path, allow_pickle=False) if path.suffix == '.npy' else
                  np.array([int(word) for word in path.read_text().split()], np.int64))
    except Exception as error:  # NumPy raises half a dozen types on a broken file
        raise DataError(f'{path}: cannot be read as one integer label a frame ({one_line(error)})') from None
    return checked(path, values, classes)


# ------------------------------------------------------------------------------------------------------------
# Data sets as they lie on disk: each function -> {'train': [Video], 'val': [Video]}, [what is missing]

PENN = {  # action: classes, published train and val videos; in the order of CARL's lists
    'baseball_pitch': (4, 103, 63), 'baseball_swing': (3, 113, 57), 'bench_press': (2, 69, 71),
    'bowl': (3, 134, 85), 'clean_and_jerk': (6, 40, 42), 'golf_swing': (3, 87, 77),
    'jumping_jacks': (4, 56, 56), 'pushup': (2, 102, 106), 'pullup': (2, 98, 101), 'situp': (2, 50, 50),
    'squat': (4, 111, 115), 'tennis_forehand': (3, 79, 74), 'tennis_serve': (4, 98, 69)}
PUBLISHED = {'penn': (1140, 966), 'pouring': (70, 14), 'finegym99': (3182, 1442)}  # train and val videos
TCC = 'the release of TCC (temporal cycle-consistency learning)'
CARL = 'the release of CARL (contrastive action representation learning)'
SOURCES = {
    'penn': f'Frames: dreamdragon.github.io/PennAction. Phase labels, penn_action_labels/: {TCC}. '
            f'Or all of it prepared, as train.pkl, val.pkl and videos/: {CARL}',
    'pouring': f'TFRecords: {TCC}. Or prepared, as train.pkl, val.pkl and videos/: {CARL}',
    'finegym99': 'Annotation and lists: sdolivia.github.io/FineGym. processed_videos/: its events, each cut '
                 'from its YouTube video, 640x360, 25 fps, named <video>_E_<start>_<end>.mp4',
    'k400': 'Kinetics-400: github.com/cvdfoundation/kinetics-dataset',
    'folder': 'Any folder of video files or of folders of images'}
SOURCES['finegym288'] = SOURCES['finegym99']


def layout(dataset, data, *layouts):
    """The first layout whose parts (glob patterns) are all there -> its number, its paths; else DataError."""
    absent = []
    for number, patterns in enumerate(layouts):
        found = [next(iter(sorted(data.glob(pattern))), None) for pattern in patterns]
        if all(found):
            return number, found
        absent.append([pattern for pattern, path in zip(patterns, found) if not path])
    begun = [gone for gone, patterns in zip(absent, layouts) if len(gone) < len(patterns)]
    raise DataError(f'{dataset}: {data} lacks {" or ".join(", ".join(gone) for gone in begun or absent)}. '
                    f'{SOURCES[dataset]}')


def penn(data, size):
    """Penn Action as released, with TCC's phase labels, whose folders decide split and action; or CARL's."""
    number, found = layout('penn', data, ('frames', 'penn_action_labels/train', 'penn_action_labels/val'),
                           ('train.pkl', 'val.pkl', 'videos'))
    if number == 1:
        return carl(*found, size, [classes for classes, _, _ in PENN.values()], list(PENN), fit=True)
    videos, missing, there = {'train': [], 'val': []}, [], set(os.listdir(found[0]))
    for split, action in itertools.product(videos, PENN):  # its folder may have an ending: pushups, bowling
        for file in sorted(data.glob(f'penn_action_labels/{split}/{action}*/*.npy')):
            name = file.name[:4]
            if name in there:
                videos[split].append(frame_folder(
                    name, found[0] / name, size, action=action, fit=True,
                    annotate=partial(read_labels, file, PENN[action][0]),
                    mask=partial(penn_actor, data / 'labels' / f'{name}.mat', size)))
            else:
                missing.append(f'frames/{name} ({split}, {action})')
    return videos, missing


def penn_actor(path, size, indices):
    """The actor's box in a Penn Action .mat file, as a mask over frames squashed to size x size."""
    from scipy.io import loadmat
    if not path.exists():
        return None
    try:
        mat = loadmat(path, variable_names=['bbox', 'dimensions'])
        height, width = np.asarray(mat['dimensions'], float).ravel()[:2]
        box = np.asarray(mat['bbox'], float).reshape(-1, 4)[indices] / (width, height, width, height)
    except Exception as error:  # SciPy's reader raises a dozen types on a broken file
        raise DataError(f'{path}: cannot be read as a Penn Action annotation ({one_line(error)})') from None
    x1, y1, x2, y2 = box.T[:, :, None]                                                  # each (n, 1), 0 to 1
    pixel = (np.arange(size) + 0.5) / size
    across, down = (x1 <= pixel) & (pixel < x2), (y1 <= pixel) & (pixel < y2)           # (n, S)
    return torch.from_numpy(down[:, :, None] & across[:, None, :])                      # (n, S, S)


def pouring(data, size):
    """Pouring in TFRecords from TCC's authors (a video a record: JPEGs and frame labels), or CARL's."""
    number, found = layout('pouring', data, ('pouring_train-*.tfrecord', 'pouring_val-*.tfrecord'),
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


def finegym(data, _size, classes):
    """FineGym99 or 288: the clips of the events with a listed element, labelled here; or CARL's."""
    number, found = layout(f'finegym{classes}', data,
                           (f'gym{classes}_train_element*.txt', f'gym{classes}_val_element*.txt',
                            'processed_videos', 'finegym_annotation_info*.json'),
                           (f'gym{classes}_train*.pkl', f'gym{classes}_val*.pkl', 'processed_videos'))
    if number == 1:
        return carl(*found, None, [classes], [None])
    *lists, clips, annotation = found
    videos, missing, there = {'train': [], 'val': []}, [], set(os.listdir(clips))
    listed = {split: elements(file, classes) for split, file in zip(videos, lists)}
    try:
        known = json.loads(annotation.read_bytes())
        for split, event, chosen in ((split, *item) for split in videos for item in listed[split].items()):
            youtube, when = event.rsplit('_E_', 1)
            segments = known.get(youtube, {}).get(f'E_{when}', {}).get('segments') or {}
            missing += [f'{event}_{each} in {annotation.name}' for each in chosen if each not in segments]
            spans = [(*map(float, segments[each]['timestamps'][-1]), chosen[each])
                     for each in segments if each in chosen]
            if f'{event}.mp4' not in there:
                missing.append(f'processed_videos/{event}.mp4 ({split})')
            elif spans:
                path = str(clips / f'{event}.mp4')
                videos[split].append(video_file(event, path, annotate=partial(element_labels, path, spans)))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f'{annotation}: not the annotation of FineGym ({one_line(error)})') from None
    return videos, missing


def elements(path, classes):
    """Lines `<video>_E_<start>_<end>_A_<start>_<end> <class>` -> {event: {segment: class}}."""
    listed = {}
    for number, line in enumerate(path.read_text(errors='replace').splitlines(), 1):
        match = re.fullmatch(r'(.+_E_\d+_\d+)_(A_\d+_\d+)\s+(\d+)\s*', line)
        if line.strip() and (not match or int(match[3]) >= classes):
            raise DataError(f'{path}, line {number}: not an element with its class, 0 to {classes - 1}')
        if match:
            listed.setdefault(match[1], {})[match[2]] = int(match[3])
    return listed


def element_labels(path, spans, frames):
    """An event's labels: -1, but for each (start, end in seconds, class), its last frame included."""
    with av.open(path) as file:
        rate = round(float(file.streams.video[0].average_rate or 25), 2)
    labels = np.full(frames, -1)
    for start, end, kind in spans:
        labels[int(start * rate):int(end * rate) + 1] = kind
    return labels


def k400(data, _size, scan=False):
    """Kinetics-400 as the CVD Foundation hosts it. Its 240,000 files are looked for only to `scan` it."""
    layout('k400', data, ('annotations/train.csv', 'train'))
    videos, missing = {'train': [], 'val': []}, []
    for split in videos:
        table = data / 'annotations' / f'{split}.csv'
        if not table.exists() or not (data / split).is_dir():
            continue  # val: nobody pre-trains on it
        there = set(os.listdir(data / split)) if scan else None
        with open(table, newline='', encoding='utf-8-sig', errors='replace') as file:
            rows = csv.DictReader(file)
            try:
                for row in rows:
                    name = f'{row["youtube_id"]}_{int(row["time_start"]):06d}_{int(row["time_end"]):06d}'
                    path = f'{split}/{name}.mp4'
                    if scan and f'{name}.mp4' not in there:
                        missing.append(path)
                    else:
                        videos[split].append(video_file(name, f'{data}/{path}', action=row['label']))
            except (KeyError, ValueError, TypeError, csv.Error) as error:
                raise DataError(f'{table}, line {rows.line_num}: not label, youtube_id, time_start, time_end '
                                f'({one_line(error)})') from None
    return videos, missing


def carl(train, val, clips, size, classes, actions, fit=False):
    """As CARL's authors prepared it: for each split a pickled list of dicts, and video files. Where there are
    several actions, the list comes in a pair with the indices of each action's videos."""
    videos, missing, there = {'train': [], 'val': []}, [], set(os.listdir(clips))
    for split, file in zip(videos, (train, val)):
        content = read_pickle(file)
        try:
            entries, groups = content if len(actions) > 1 else (content, [range(len(content))])
            for action, count, group in zip(actions, classes, groups, strict=True):
                for entry in (entries[int(index)] for index in group):
                    path, name = clips / Path(entry['video_file']).name, str(entry['name'])
                    labels = partial(checked, f'{file}: {name}', np.asarray(entry['frame_label']), count)
                    if path.name in there:
                        video = video_file(name, path, size, action=action, annotate=labels, fit=fit)
                        videos[split].append(video)
                    else:
                        missing.append(f'{clips.name}/{path.name} ({split})')
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DataError(f'{file}: not a list of videos as CARL writes it ({one_line(error)})') from None
    return videos, missing


class Unpickler(pickle.Unpickler):
    """A pickle may call what it can name. This one knows only the names that make arrays and tensors."""
    known = {
        ('collections', 'OrderedDict'): collections.OrderedDict,
        ('_codecs', 'encode'): lambda text, _: text.encode('latin1'),
        ('numpy', 'ndarray'): None, ('numpy', 'dtype'): np.dtype,
        ('torch._utils', '_rebuild_tensor_v2'): torch.zeros(1).__reduce_ex__(2)[0],
        # torch's own function of this name unpickles the bytes of a tensor without restriction
        ('torch.storage', '_load_from_bytes'): lambda data: torch.load(io.BytesIO(data), weights_only=True)}
    for numpy in ('numpy.core', 'numpy._core'):  # its name before and after NumPy 2
        known |= {(f'{numpy}.multiarray', '_reconstruct'): lambda *_: np.empty(0),
                  (f'{numpy}.multiarray', 'scalar'): np.int64(1).__reduce__()[0],
                  (f'{numpy}.numeric', '_frombuffer'): np.zeros(1).__reduce_ex__(5)[0]}

    def find_class(self, module, name):
        if (module, name) not in self.known:
            raise DataError(f'holds {module}.{name}, not just containers, numbers, strings, arrays, tensors')
        return self.known[module, name]


def read_pickle(path):
    """Containers, numbers, strings, NumPy arrays and torch tensors from a pickle that cannot run code."""
    try:
        with open(path, 'rb') as file:
            return Unpickler(file).load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f'{path}: refused, {one_line(error)}') from None


def folder(data, size):
    """Video files and folders of images, split by train/ and val/; without them every fifth by name is val.

    Labels: one integer a frame in <video>.npy or .txt beside the video. Action: the name of the sub-folder.
    """
    halves = [half for half in ('train', 'val') if (data / half).is_dir()]
    if len(halves) == 1:
        raise DataError(f'folder: {data} has {halves[0]}/ but not the other of train/ and val/')
    if halves:
        return {half: videos_below(data / half, size) for half in halves}, []
    found = videos_below(data, size)
    if len(found) < 10:                                   # tau wants two val videos
        if found:
            say(f'{data}: all of its videos ({len(found)}) are both train and val, too few to set any aside')
        return {'train': found, 'val': found}, []
    say(f'{data}: no train/ and val/ in it, so every fifth video by name is val')
    return {'train': [video for i, video in enumerate(found) if i % 5 < 4], 'val': found[4::5]}, []


def videos_below(root, size):
    """The videos below a folder, by name; the folder one lies in, if not `root` itself, names its action."""
    found = []
    for parent, folders, files in os.walk(root, followlinks=True):
        parent, folders[:] = Path(parent), [name for name in folders if not name.startswith('.')]
        frames = [name for name in folders if images_in(parent / name)]
        folders[:] = [name for name in folders if name not in frames]
        for name in frames + [name for name in files if Path(name).suffix.lower() in VIDEO_FILES]:
            make, stem = (frame_folder, name) if name in frames else (video_file, Path(name).stem)
            labels = [file for end in ('.npy', '.txt') if (file := parent / (stem + end)).exists()]
            if not name.startswith('.'):
                found.append(make(os.fsencode((parent / name).relative_to(root)).decode(errors='replace'),
                                  parent / name, size, action=None if parent == root else parent.name,
                                  annotate=partial(read_labels, labels[0], None) if labels else None))
    return sorted(found, key=lambda video: natural(video.name))


# ---------------------------------------------------------------------------------------------------------------------
# The synthetic set: an articulated figure acts out five actions of four phases, 64 x 64 pixels, made in memory.
#
# A stand-in for Penn Action that needs no download: every frame has its phase label and the mask of the actor. A video
# begins and ends in the same idle pose for a random time and its phases have log-normal lengths, so that the time in
# the video says little; the way down looks like the way up, so that one frame alone says little too. Body, clothes,
# size, place, scene and three moving distractors are drawn anew for every video; rings around the clothed limbs show how
# they lie, anywhere on them, as folds and muscles do.

SIZE, FINE = 64, 4                                  # pixels of a frame; drawn FINE times larger, then averaged down

# A pose is nine angles in degrees: torso (from upright, + leans to the right), then upper and lower part of arm 1,
# arm 2, leg 1, leg 2 (from hanging down, + swings to the right). Limb 1 is the near one, or in a view from the front
# the one on the right.
STAND = (2, 10, 18, -6, 4, 4, -2, -4, -6)
FRONT = (0, 14, 8, -14, -8, 6, 4, -6, -4)
GOLF = (0, -24, -14, 24, 14, 12, 10, -12, -10)
LIE = (-84, 60, 150, 50, 140, 124, 22, 118, 16)
# action: (half the shoulders' width, idle pose, [(phase, pose at its end, mean frames), ...]). Phase 0 is the idle
# pose before; the idle pose after belongs to the last phase.
ACTIONS = {
    'squat': (.03, STAND, [(1, (36, 78, 88, 72, 82, 92, -30, 84, -32), 16), (2, STAND, 14), (3, STAND, 0)]),
    'jumping_jacks': (.115, FRONT, [(1, (0, 150, 168, -150, -168, 30, 26, -30, -26), 14), (2, FRONT, 13),
                                    (3, FRONT, 0)]),
    'situp': (.03, LIE, [(1, (14, 70, 120, 60, 110, 126, 20, 120, 14), 16), (2, LIE, 14), (3, LIE, 0)]),
    'baseball_pitch': (.05, STAND, [(1, (-16, -110, -165, 62, 100, -2, -4, 86, -4), 12),
                                    (2, (30, 84, 66, -40, -70, -28, -48, 40, 4), 9), (3, STAND, 10)]),
    'golf_swing': (.10, GOLF, [(1, (-8, -128, -140, -104, -140, 14, 0, -12, -14), 12),
                               (2, (8, 108, 144, 128, 146, 12, 14, -22, -2), 9), (3, GOLF, 10)]),
}


class Act:
    """One act, the source of a Video: its course is fixed at once, its frames are drawn when first read and kept."""

    def __init__(self, action, seed):
        self.action, self.seed = action, seed
        self.poses, self.labels = perform(action, np.random.default_rng((*seed, 0)))

    @cached_property
    def drawn(self):
        return draw(self.action, self.poses, self.labels, np.random.default_rng((*self.seed, 1)))

    def count(self):
        return len(self.labels)

    def decode(self, indices):
        return self.drawn[0][torch.as_tensor(indices)]

    def mask(self, indices):
        return self.drawn[1][torch.as_tensor(indices)]

    def annotate(self, _):
        return self.labels


def synthetic(seed=0, train=24, val=12):
    """{'train': [Video], 'val': [Video]} with `train` and `val` videos of each action, the same for the same seed."""
    videos = {'train': [], 'val': []}
    for (split, listed), size in zip(videos.items(), (train, val)):
        for number, action in enumerate(ACTIONS):
            for k in range(size):
                act = Act(action, (seed, split == 'val', number, k))
                listed.append(Video(f'{action}/{split}_{k:02d}', act.count, act.decode, action, act.annotate, act.mask))
    return videos


def perform(action, rng):
    """The action once, between two idle stretches -> poses (n, 9) in degrees, phase labels (n,) int64."""
    _, idle, steps = ACTIONS[action]
    effort = rng.uniform(.8, 1.1)                                    # how far this actor moves from the idle pose
    rest, early = rng.uniform(12, 38), rng.beta(.5, .5)              # idle frames in all, the part of them before
    last = np.array(idle, float)
    poses, labels = [last] * max(2, round(rest * early)), [0] * max(2, round(rest * early))
    for phase, goal, mean in steps:
        goal = idle + effort * np.subtract(goal, idle) + rng.normal(0, 5, 9) * (goal != idle)
        n = max(3, round(mean * rng.lognormal(0, .8))) if mean else 0
        for x in np.arange(1, n + 1) / max(n, 1):
            poses.append(last + (3 * x ** 2 - 2 * x ** 3) * (goal - last))       # speeds up, slows down
            labels.append(phase)
        last = goal
    after = max(2, round(rest * (1 - early)))
    poses, labels = np.array(poses + [last] * after), np.array(labels + [phase] * after, np.int64)
    sway = np.sin(np.arange(len(poses))[:, None] * rng.uniform(.1, .4, 9) + rng.uniform(0, 6.3, 9))
    return poses + rng.normal(0, 2, 9) + 1.5 * sway, labels


def skeleton(pose, half, body):
    """One pose (9,) -> joints {name: [points (x right, y up)]} in body heights; the feet around x = 0, lowest y = 0."""
    torso, *limbs = np.radians(pose)
    towards = lambda angle: np.array([np.sin(angle), -np.cos(angle)])
    up = -towards(-torso)
    across = np.array([up[1], -up[0]])
    joints = {'torso': [np.zeros(2), body['torso'] * up], 'head': [body['torso'] * up, (body['torso'] + .115) * up]}
    for k, name in enumerate(('arm1', 'arm2', 'leg1', 'leg2')):
        length = body['arm'] if k < 2 else body['leg']
        root = half * (1, -1, .6, -.6)[k] * across + (body['torso'] - .05) * (k < 2) * up
        bend = root + length * towards(limbs[2 * k])
        joints[name] = [root, bend, bend + length * towards(limbs[2 * k + 1])]
    ends = np.array([joints[name][2] for name in ('arm1', 'arm2', 'leg1', 'leg2')])
    origin = np.array([ends[2:, 0].mean(), ends[:, 1].min()])
    return {name: [p - origin for p in points] for name, points in joints.items()}


def colour(rng, saturation=(.3, .9), value=(.3, 1.), hue=(0., 1.)):
    """A random colour, three integers from 0 to 255."""
    return tuple(int(255 * c) for c in colorsys.hsv_to_rgb(*(rng.uniform(*span) for span in (hue, saturation, value))))


def paint_scene(rng, horizon):
    """The background of a video: wall or sky over the row `horizon`, the floor, one to four objects."""
    size = SIZE * FINE
    top, bottom, ground = (np.array(colour(rng, (0, .2), (.78, 1.))) for _ in range(3))
    down = np.linspace(0, 1, size)[:, None, None]
    picture = np.where(np.arange(size)[:, None, None] < horizon, top + (bottom - top) * down, ground * (.7 + .3 * down))
    picture = Image.fromarray(np.broadcast_to(picture, (size, size, 3)).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for kind in rng.integers(4, size=rng.integers(1, 4)):
        x, y, w, h = (int(v) for v in rng.uniform((0, 0, 20, 20), (size, horizon - 40, 70, 120)))
        paint = colour(rng, (0, .25), (.65, .95))                        # the scene is paler than the actor
        if kind == 0:                                                # a tree
            pen.rectangle([x - 5, horizon - h, x + 5, horizon], fill=(176, 160, 144))
            pen.ellipse([x - w / 2, horizon - h - w, x + w / 2, horizon - h + w / 3],
                        fill=(160, 140 + paint[1] // 4, 150))
        elif kind == 1:                                              # a house with a door
            pen.rectangle([x - w / 2, horizon - h, x + w / 2, horizon], fill=paint)
            pen.rectangle([x - w / 5, horizon - h * .6, x + w / 5, horizon], fill=colour(rng, (0, .3), (.6, .9)))
        elif kind == 2:                                              # a window or the sun
            (pen.rectangle if rng.random() < .5 else pen.ellipse)([x - w / 2, y, x + w / 2, y + w], fill=paint)
        else:                                                        # lines on the floor
            for k in range(0, size, w):
                pen.line([k, size, size / 2 + (k - size / 2) / 3, horizon], fill=paint, width=3)
    return picture


def paint_distractor(rng, floor):
    """A ball, a balloon, a bird, a cart or a dog with a way of its own -> function of the frame number that paints it."""
    size, kind, paint, r = SIZE * FINE, rng.integers(5), colour(rng, (.2, .6), (.5, .85)), rng.uniform(9, 18)
    low = kind in (0, 3, 4)                                          # it moves on the floor
    cx, cy = rng.uniform(.1, .9) * size, floor - 8 if low else rng.uniform(.1, .5) * size
    wide, high = rng.uniform(.2, .6) * size, (-60, 30, 20, 0, 0)[kind]
    speed, (a, b) = rng.uniform(.2, .5), rng.uniform(0, 6.3, 2)

    def at(pen, t):
        x, y = cx + wide * np.sin(speed * t + a), np.sin(1.7 * speed * t + b)
        y = cy + high * (abs(y) if low else y)
        oval = lambda dx, dy, w, h, fill=paint: pen.ellipse([x + dx - w, y + dy - h, x + dx + w, y + dy + h], fill=fill)
        if kind <= 1:
            oval(0, 0, r, r * (1 + .2 * kind))
            oval(-r / 3, -r / 3, r / 3, r / 3, (240, 240, 240))
        elif kind == 2:
            oval(0, 0, r, r / 3)
            pen.polygon([(x - r / 2, y), (x + r / 2, y), (x - r / 4, y - 1.5 * r * np.sin(1.1 * t))], fill=paint)
        else:
            pen.rectangle([x - 1.4 * r, y - .7 * r, x + 1.4 * r, y + .3 * r], fill=paint)
            oval((kind == 4) * 1.5 * r, (kind == 4) * -.8 * r, .6 * r, .6 * r)
            for side in (-1, 1):
                oval(side * .9 * r, .5 * r, .4 * r, .5 * r, (40, 40, 40) if kind == 3 else paint)
    return at


def paint_figure(pen, joints, half, at, thick, clothes):
    """The actor, far limbs first. at: body heights -> pixels; thick: pixels of a limb one body height wide."""
    skin, shirt, trousers, shoes, hair, shirt_rings, trouser_rings = clothes
    shade = lambda paint: tuple(int(.7 * c) for c in paint)

    def limb(p, q, width, paint, rings=None):
        p, q, r = np.array(at(p)), np.array(at(q)), width * thick / 2
        pen.line([*p, *q], fill=paint, width=int(2 * r))
        for end in (p, q):
            pen.ellipse([*(end - r), *(end + r)], fill=paint)
        if rings:                                                    # they show how the limb lies, anywhere on it
            length = np.linalg.norm(q - p)
            along = (q - p) / length
            across = r * np.array([along[1], -along[0]])
            for s in np.arange(1.5 * FINE, length, 4.3 * FINE):
                pen.line([*(p + s * along - across), *(p + s * along + across)], fill=rings, width=2 * FINE)

    def arm(points, light):
        limb(points[1], points[2], .075, light(skin))
        limb(points[0], points[1], .095, light(shirt), light(shirt_rings))
        limb(points[2], points[2], .09, light(skin))

    def leg(points, light):
        limb(points[1], points[2], .095, light(trousers), light(trouser_rings))
        limb(points[0], points[1], .125, light(trousers), light(trouser_rings))
        limb(points[2], points[2] + np.array([.06 * (half < .1), 0]), .09, light(shoes))

    pelvis, neck = joints['torso']
    up = (neck - pelvis) / np.linalg.norm(neck - pelvis)
    across = half * np.array([up[1], -up[0]])
    arm(joints['arm2'], shade)
    leg(joints['leg2'], shade)
    leg(joints['leg1'], lambda paint: paint)
    for side in (-.8, 0, .8):
        limb(neck - .02 * up + side * across, pelvis + side * across, .15, shirt, shirt_rings)
    limb(pelvis - .5 * across, pelvis + .5 * across, .145, trousers)
    head = joints['head'][1]
    limb(neck, head, .07, skin)
    limb(head, head, .17, skin)
    limb(head + .045 * up, head + .045 * up, .14, hair)
    arm(joints['arm1'], lambda paint: paint)


def draw(action, poses, labels, rng):
    """-> frames uint8 (n, 3, SIZE, SIZE), masks of the actor (without what it holds) bool (n, SIZE, SIZE)."""
    size, half = SIZE * FINE, ACTIONS[action][0]
    body = {'torso': rng.uniform(.29, .34), 'arm': rng.uniform(.165, .185), 'leg': rng.uniform(.22, .25)}
    joints = [skeleton(pose, half, body) for pose in poses]
    points = np.array([p for j in joints for points in j.values() for p in points])
    (left, _), (right, top) = points.min(0) - .1, points.max(0) + .12
    height = FINE * min(rng.uniform(47, 56), (SIZE - 6) / top, (SIZE + 2) / (right - left))  # pixels of a body height
    floor = int(rng.uniform(min(size - 8, max(height * top + 8, .72 * size)), size - 8))
    start = rng.uniform(*sorted((0, size - height * (right - left)))) - height * left
    at = lambda p: (start + height * p[0], floor - height * p[1])
    thick = height * rng.uniform(1.1, 1.35)
    clothes = [colour(rng, (.45, .7), (.35, .65), (.02, .1)), colour(rng, (.7, 1.), (.3, .6)),     # skin, shirt,
               colour(rng, (.5, 1.), (.15, .45)), colour(rng, (0, .5), (.1, .3)), colour(rng, (0, .6), (.1, .4)),
               colour(rng, (.3, 1.), (.7, 1.)), colour(rng, (.3, 1.), (.6, .9))]                    # rings of both
    scene = paint_scene(rng, int(floor - rng.uniform(0, 24)))
    distractors = [paint_distractor(rng, floor) for _ in range(3)]
    frames, masks = [], []
    for t, j in enumerate(joints):
        picture, mask = scene.copy(), Image.new('L', (size, size))
        pen = ImageDraw.Draw(picture)
        for distractor in distractors:
            distractor(pen, t)
        bend, hand = (np.array(p) for p in j['arm1'][1:])
        if action == 'golf_swing':
            pen.line([*at(hand), *at(hand + 1.7 * (hand - bend))], fill=(30, 30, 30), width=6)
        if action == 'baseball_pitch' and labels[t] < 2:             # until it is thrown
            x, y = at(hand + .4 * (hand - bend))
            pen.ellipse([x - 11, y - 11, x + 11, y + 11], fill=(250, 250, 250))
        paint_figure(pen, j, half, at, thick, clothes)
        paint_figure(ImageDraw.Draw(mask), j, half, at, thick, [(255,)] * 7)
        frames.append(np.asarray(picture.reduce(FINE)))
        masks.append(np.asarray(mask.reduce(FINE)))
    frames, masks = np.stack(frames).transpose(0, 3, 1, 2), np.stack(masks) > 127 * .7
    if rng.random() < .5:
        frames, masks = frames[..., ::-1], masks[..., ::-1]
    return torch.from_numpy(frames.copy()), torch.from_numpy(masks.copy())


# ---------------------------------------------------------------------------------------------------------------------
# Data sets by name

READERS = {'penn': penn, 'pouring': pouring, 'finegym99': partial(finegym, classes=99),
           'finegym288': partial(finegym, classes=288), 'k400': k400, 'folder': folder}


def say(line):
    if os.environ.get('RANK', '0') == '0':
        print(line, file=sys.stderr)


def find(dataset, data, size, **options):
    """-> {'train': [Video], 'val': [Video]}, [what is missing, in words]; DataError if a split is empty."""
    if dataset not in READERS:
        raise DataError(f'{dataset}: no such data set. There are synthetic, {", ".join(READERS)}')
    if not data or not Path(data).is_dir():
        raise DataError(f'{dataset}: {f"{data} is no folder" if data else "no folder given"} (--data). '
                        f'{SOURCES[dataset]}')
    videos, missing = READERS[dataset](Path(data), size, **options)
    for split in videos:
        if not videos[split] and (dataset, split) != ('k400', 'val'):
            gone = f' ({len(missing)} missing: {missing[0]} ...)' if missing else ''
            raise DataError(f'{dataset}: no {split} video in {data}{gone}. {SOURCES[dataset]}')
    return videos, missing


def load(dataset, data=None, *, image_size=224, seed=0):
    """A data set by name -> {'train': [Video], 'val': [Video]}; DataError if it cannot be used.

    data: the folder as downloaded. image_size: frames of Penn, Pouring and folder are squashed to it, others
    keep their size. seed: the synthetic set's. What is missing is said in one line; the doctor names it all.
    """
    if dataset == 'synthetic':
        return synthetic(seed)
    videos, missing = find(dataset, data, image_size)
    if missing:
        say(f'{dataset}: {len(missing)} missing, among them {", ".join(missing[:3])}; '
            f'python data.py {dataset} --data {data} names them all')
    return videos


# ------------------------------------------------------------------------------------------------------------
# Two views of a video (paper, section 3.1)

def two_views(rng, length, frames, *, block='length', shift=0.8):
    """Time stamps of two views, each from a new block of the video -> int64 (2, T), rising.

    The block is 1 to 1.5 times as long as the video ('length': it overhangs the end) or as the clip ('clip');
    view b begins at most `shift` clip lengths before or after view a. Time stamps >= length are padding.
    """
    n, views = min(length, frames), np.full((2, frames), length)
    for v in range(2):
        while (views[v] >= length).all():  # nothing but padding, as very short clips may give, is drawn again
            size = math.ceil(rng.uniform(1, 1.5) * (length if block == 'length' else n))
            last, low, high = length - size, 0, length - size
            if v == 1:
                first, reach = views[0, 0], int(shift * n)
                low, high = max(0, min(last, first - reach)), min(last + 1, first + reach + 1)
            views[v, :n] = rng.integers(low, max(1, high)) + np.sort(rng.choice(size, n, replace=False))
    return views


def interleave(rng, anchors, length):
    """Time-contrastive pairs: anchors (A,) -> (2A,), each followed by its positive, 1 to 5 frames earlier."""
    positives = np.maximum(anchors - rng.integers(1, 6, len(anchors)), 0)
    return np.stack([anchors, np.where(anchors < length, positives, length)], 1).ravel()


def draw_augmentation(rng, height, width, *, scale=(0.8, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5, jitter=0.8,
                      brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.4, grey=0.2):
    """One draw for a whole clip, as plain numbers, so that the GPU never has to be asked.

    scale, ratio: the crop's area, width/height; flip, jitter, blur, grey: probabilities; the rest: strengths.
    """
    crop = 0, 0, height, width  # where no crop of that ratio fits: the whole frame, squashed
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*np.log(ratio)))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            crop = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
            break
    drawn = {'crop': crop, 'flip': bool(rng.random() < flip), 'colour': [], 'blur': None}
    if rng.random() < jitter:
        strength = {'brightness': brightness, 'contrast': contrast, 'saturation': saturation}
        factors = {name: rng.uniform(max(0, 1 - s), 1 + s) for name, s in strength.items()}
        factors['hue'] = rng.uniform(-hue, hue)
        drawn['colour'] = [(name, float(factors[name])) for name in rng.permutation(list(factors)).tolist()]
    if rng.random() < blur:
        drawn['blur'] = float(rng.uniform(0.1, 2.0))
    drawn['grey'] = bool(rng.random() < grey)
    return drawn


def leave_signals(_worker):
    """For workers: Ctrl-C and a batch system's SIGTERM reach them too, but are for the process that trains to
    heed; give it ten seconds for that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(10))


class Clips(Dataset):
    """Two views of T frames for every video; item (epoch, index) -> dict. Everything random comes from
    (seed, epoch, index): the number of workers, their order and what ran before change nothing.

    names     [name] or, with pairs='videos', the names of two videos of one action
    frames    [uint8 (U, 3, H, W)]: the distinct frames of both views, decoded once; of two videos, two
    where     int64 (2, T): position of each view's frames in `frames` (view b's in the last of them)
    time      int64 (2, T): frame index of each; padding is clamped to the last frame
    length    int64 (2,): number of frames of each view's video
    valid     bool (2, T): False = padding
    augment   [dict, dict]: one draw of draw_augmentation a view
    skipped   {name: reason} of broken videos that were drawn before; another was taken in their place
    """
    def __init__(self, videos, *, frames, seed=0, block='length', shift=0.8, pairs='views', interleaved=False,
                 **strength):
        self.videos, self.T, self.seed = videos, frames, seed
        self.pairs, self.interleaved = pairs, interleaved
        self.sampling, self.strength = {'block': block, 'shift': shift}, strength
        self.alike = {}  # action -> indices of its videos
        for index, video in enumerate(videos):
            self.alike.setdefault(video.action, []).append(index)

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, key):
        epoch, index = key
        rng, skipped = np.random.default_rng([self.seed, epoch, index]), {}
        for _ in range(100):
            videos, lengths, frames, where = [self.videos[index]], [], [], []
            if self.pairs == 'videos':
                others = [other for other in self.alike[videos[0].action] if other != index] or [index]
                videos.append(self.videos[others[rng.integers(len(others))]])
            try:
                for video in videos:
                    lengths.append(video.frames)
                time = self.sample(rng, lengths[0])                                     # (2, T)
                if len(videos) == 2:
                    time[1] = self.sample(rng, lengths[1])[0]
                lengths = np.broadcast_to(lengths, 2)[:, None]
                clamped = np.minimum(time, lengths - 1)
                for video, wanted in zip(videos, clamped.reshape(len(videos), -1)):
                    distinct, back = np.unique(wanted, return_inverse=True)
                    frames.append(video.read(distinct))
                    where.append(back)
            except DataError as error:
                skipped[video.name] = str(error)
                index = int(rng.integers(len(self.videos)))
                continue
            drawn = [draw_augmentation(rng, *frames[i].shape[2:], **self.strength) for i in (0, -1)]
            where, valid = np.concatenate(where).reshape(time.shape), time < lengths
            return {'names': [video.name for video in videos], 'frames': frames, 'augment': drawn,
                    'where': torch.from_numpy(where), 'time': torch.from_numpy(clamped),
                    'length': torch.tensor(lengths[:, 0]), 'valid': torch.from_numpy(valid),
                    'skipped': skipped}
        raise DataError(f'100 videos in a row cannot be read; the last: {[*skipped.values()][-1]}')

    def sample(self, rng, length):
        """Time stamps of two views of one video, (2, T)."""
        if not self.interleaved:
            return two_views(rng, length, self.T, **self.sampling)
        half, time = self.T // 2, np.full((2, self.T), length)
        for view, anchors in zip(time, two_views(rng, length, half, **self.sampling)):
            view[:2 * half] = interleave(rng, anchors, length)
        return time


def collate(items):
    """Items -> one dict: time, length, valid stacked to (B, ...), `skipped` joined, lists of the rest."""
    batch = {key: [item[key] for item in items] for key in items[0]}
    batch |= {key: torch.stack(batch[key]) for key in ('time', 'length', 'valid')}
    return batch | {'skipped': {name: why for item in items for name, why in item['skipped'].items()}}


# ------------------------------------------------------------------------------------------------------------
# Augmentation, on the frames' device (paper, section 4.1)

def resize(frames, size):
    """uint8 (n, 3, H, W) -> float in [0, 1] (n, 3, S, S): bilinear, without antialias."""
    return F.interpolate(frames.float() / 255, (size, size), mode='bilinear', align_corners=False)


@cache
def statistics(device):
    """Mean and standard deviation (3, 1, 1) on the device: sent there once, since sending waits for it."""
    return tuple(torch.tensor(each, device=device)[:, None, None] for each in (MEAN, STD))


def normalise(frames):
    mean, std = statistics(frames.device)
    return (frames - mean) / std


def augment(frames, drawn, size):
    """One draw of draw_augmentation for a whole clip: uint8 (n, 3, H, W) -> normalised float (n, 3, S, S)."""
    top, left, height, width = drawn['crop']
    frames = resize(frames[:, :, top:top + height, left:left + width], size)
    if drawn['flip']:
        frames = frames.flip(-1)
    for name, factor in drawn['colour']:
        frames = getattr(TF, f'adjust_{name}')(frames, factor)
    if drawn['blur']:
        frames = TF.gaussian_blur(frames, [5, 9], [drawn['blur']] * 2)  # 5 wide, 9 high
    if drawn['grey']:
        frames = TF.rgb_to_grayscale(frames, num_output_channels=3)
    return normalise(frames)


def views(batch, size, device='cpu'):
    """A batch as `collate` returns it -> augmented clips (B, 2, T, 3, S, S) on the device."""
    clips = []
    for frames, where, drawn in zip(batch['frames'], batch['where'], batch['augment']):
        frames, where = [f.to(device, non_blocking=True) for f in frames], where.to(device, non_blocking=True)
        clips.append(torch.stack([augment(frames[v][where[v]], drawn[v], size) for v in (0, -1)]))
    return torch.stack(clips)


def center(frames, size):
    """At evaluation: the central S x S pixels (a smaller side whole), resized, normalised -> (n, 3, S, S)."""
    height, width = frames.shape[2:]
    top, left = (max(0, math.ceil((side - size) / 2)) for side in (height, width))
    return normalise(resize(frames[:, :, top:top + min(size, height), left:left + min(size, width)], size))


# ------------------------------------------------------------------------------------------------------------
# The doctor: python data.py NAME --data DIR

def inspect(video, decode):
    """-> number of frames, of labelled frames, and (what is wrong, one line that names it) or None."""
    frames, wrong = 0, 'cannot be read'
    try:
        frames = video.on_disk
        for _ in video.decode(np.arange(frames)) if decode else ():
            pass
        wrong = 'labels do not fit'
        frames, labels = video.frames, video.labels
    except DataError as error:
        return frames, 0, (wrong, str(error))
    labelled = 0 if labels is None else int((labels >= 0).sum())
    given = len(video.annotate(frames)) if video.fit else video.on_disk
    if given == video.on_disk:
        return frames, labelled, None
    return frames, labelled, ('sampled down', f'{video.name}: {video.on_disk} frames, {given} labels')


def doctor(dataset, data, decode=False):
    """Print what is found beside what was published, then what is wrong, by name; the last line sums up."""
    videos, missing = find(dataset, data, 224, **({'scan': True} if dataset == 'k400' else {}))
    listed = videos['train'] + videos['val']
    actions = PENN if dataset == 'penn' else sorted({video.action for video in listed} - {None})
    found = {(split, action): np.zeros(3, int) for split in videos for action in [*actions, 'all']}
    wrong = {'missing': missing, 'cannot be read': [], 'labels do not fit': [], 'sampled down': []}
    counted = decode or dataset != 'k400'  # Kinetics' frames are counted only by reading all of its files
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for split, listed in videos.items():
            reports = [(0, 0, None)] * len(listed)
            if counted:
                reports = pool.map(partial(inspect, decode=decode), listed)
            reports = tqdm(reports, split, len(listed), disable=None)
            for video, (frames, labelled, problem) in zip(listed, reports):
                for action in {video.action, 'all'} - {None}:
                    found[split, action] += 1, frames, labelled
                if problem:
                    wrong[problem[0]].append(problem[1])

    print(f'{"":7}{"action":20}{"videos":>9}{"published":>11}{"frames":>13}{"labelled":>13}')
    fewer = 0
    for (split, action), (n, *counts) in found.items():
        published = (PENN[action][1:] if action in PENN else PUBLISHED.get(dataset, '--'))[split == 'val']
        counts = [f'{count:,}' if counted else '?' for count in counts]
        print(f'{split:7}{action:20}{n:9,}{published:>11}{counts[0]:>13}{counts[1]:>13}')
        fewer += max(0, published - n) if action == 'all' and published != '-' else 0
    for kind, lines in wrong.items():
        if lines:
            print(f'{kind}: {len(lines)}', *lines, sep='\n    ')
    total = len(videos['train'] + videos['val'])
    if len(wrong['cannot be read']) == total:
        raise DataError(f'{dataset}: none of the {total} videos in {data} can be read. {SOURCES[dataset]}')
    lacks = [f'{len(lines)} {kind}' for kind, lines in wrong.items() if lines and kind != 'sampled down']
    lacks += [f'{fewer} videos fewer than published'] if fewer else []
    verdict = f'usable, but lacking: {", ".join(lacks)}. {SOURCES[dataset]}' if lacks else 'complete'
    print(f'{dataset}: {verdict}')


def main():
    parser = argparse.ArgumentParser(description='what of a data set is there, and where to get the rest')
    parser.add_argument('dataset', choices=READERS)
    parser.add_argument('--data', required=True, help='its folder')
    parser.add_argument('--decode', action='store_true', help='decode every frame of every video')
    args = parser.parse_args()
    try:
        doctor(args.dataset, args.data, args.decode)
    except (DataError, OSError) as error:
        print(f'data.py: error: {one_line(error)}', file=sys.stderr)
        sys.exit(2)


if __name__ == '__main__':
    main()
