"""One video: a file or a folder of images, decoded frame by frame, and its labels."""
import io
import itertools
import os
import re
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Callable

import av
import numpy as np
import torch
from PIL import Image
from torch.utils.data import get_worker_info


VIDEO_FILES = {'.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv', '.flv', '.gif'}
IMAGE_FILES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp'}


class DataError(ValueError):
    """A data set, video or label file that cannot be used: one line with its name and what would mend it."""


def one_line(error):
    words = error.strerror if isinstance(error, av.error.FFmpegError) else str(error)
    return ' '.join(words.split()) or type(error).__name__


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
