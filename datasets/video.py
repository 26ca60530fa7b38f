"""One video: its name, its labels, and a file or a folder of images decoded frame by frame.

Frame i is the i-th that a player shows, turned as a player turns it: uint8 (3, H, W). `Video` is
all that the other files know of a video. Video files are decoded here, by PyAV (packets.py says
where their frames are); folders of pictures in images.py. Whatever a file can have wrong with it
becomes a `UserError` of one line.
"""
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import av
import numpy as np
import torch
from torch.utils.data import get_worker_info

from datasets.packets import open_video, runs, timetable, video_stream
from running.errors import UserError

VIDEO_FILES = {
    '.mp4', '.m4v', '.mov', '.qt', '.3gp', '.3g2', '.mj2',            # MPEG-4, phones
    '.avi', '.divx', '.wmv', '.asf', '.flv', '.f4v', '.rm', '.rmvb',  # PCs, the web
    '.mkv', '.webm', '.ogv', '.ogm', '.nut', '.y4m',                  # open ones
    '.mpg', '.mpeg', '.m1v', '.m2v', '.mpv', '.vob', '.mod', '.tod',  # DVDs and camcorders
    '.ts', '.mts', '.m2ts', '.m2t', '.mxf', '.dv', '.gxf', '.dav',    # camcorders and broadcast
    '.h264', '.264', '.h265', '.hevc', '.ivf', '.mjpg', '.mjpeg', '.gif'}


def one_line(error):
    words = error.strerror if isinstance(error, av.error.FFmpegError) else str(error)
    return ' '.join(words.split()) or type(error).__name__


@dataclass(eq=False)
class Video:
    """One video: its name, what is known of it, and functions that find out the rest when needed.

    count() -> number of frames
    decode(distinct rising indices) -> iterable of uint8 (3, H, W), all of one size
    annotate(number of frames) -> one integer a frame, -1 = unlabelled
    mask(indices) -> where the actor is, bool (n, H, W), or None
    fit: if frames and labels differ in number, sample the more numerous down (Penn Action)
    """
    name: str
    count: Callable = field(repr=False)
    decode: Callable = field(repr=False)
    action: str | None = None
    annotate: Callable | None = field(default=None, repr=False)
    mask: Callable | None = field(default=None, repr=False)
    fit: bool = False
    classes: list | None = field(default=None, repr=False)  # names of the labels, by number

    @cached_property
    def frames_on_disk(self):
        """Number of frames of the file or folder; UserError if there is none."""
        frames = self.count()
        if not frames:
            raise UserError(f'{self.name}: no frame in it')
        return frames

    @cached_property
    def frames(self):
        """Number of frames; with `fit`, there are no more of them than labels."""
        if self.fit:
            return min(self.frames_on_disk, len(self.annotate(self.frames_on_disk)))
        return self.frames_on_disk

    @cached_property
    def labels(self):
        """Phase labels int64 (frames,), -1 = unlabelled, or None; UserError if they do not fit."""
        if self.annotate is None:
            return None
        labels = np.asarray(self.annotate(self.frames_on_disk), np.int64)
        if len(labels) != self.frames and not self.fit:
            raise UserError(f'{self.name}: {len(labels)} labels for {self.frames} frames')
        return labels[np.arange(self.frames) * len(labels) // self.frames]

    def positions(self, indices):
        """Where on disk the frames at `indices` are: elsewhere if there are more than labels."""
        indices = np.asarray(indices, np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.frames:
            there = f'{self.name} has frames 0 to {self.frames - 1}'
            raise IndexError(f'{there}, not {indices.tolist()}')
        return indices * self.frames_on_disk // self.frames

    def read(self, indices):
        """Decode frames: any order, repeats allowed, each decoded once -> uint8 (n, 3, H, W)."""
        distinct, back = np.unique(self.positions(indices), return_inverse=True)
        frames = torch.stack([*self.decode(distinct)])                # (distinct, 3, H, W)
        if np.array_equal(back, np.arange(len(distinct))):
            return frames
        return frames[torch.from_numpy(back)]                         # (n, 3, H, W)

    def views(self, rng, time):
        """Frames of each view, time (views, T) -> (views * T, 3, H, W). features.py draws from rng."""
        return self.read(time.ravel())

    def parts(self, size=64, step=1):
        """Decode the whole video, or every step-th frame of it, once, from front to back: yields
        uint8 (up to `size`, 3, H, W)."""
        frames = iter(self.decode(self.positions(range(0, self.frames, step))))
        part = list(itertools.islice(frames, size))
        while part:
            yield torch.stack(part)
            part = list(itertools.islice(frames, size))

    def actor(self, indices):
        """Where the actor is in the frames as read, bool (n, H, W), or None if it is not known."""
        if self.mask is None:
            return None
        return self.mask(self.positions(indices))


# --------------------------------------------------------------------------------------------------
# Decoding

def frames_of(file):
    """Yield an open file's frames from where it stands; not of a packet that its end cuts."""
    for packet in file.demux(video_stream(file)):
        if not packet.is_corrupt:
            yield from packet.decode()


def frames_at(frames, times):
    """Of frames in rising order, yield those shown at the rising `times`."""
    missing = deque(times)
    for frame in frames:
        if frame.pts is None or frame.pts > missing[0]:
            break
        if frame.pts == missing[0]:
            yield frame
            missing.popleft()
        if not missing:
            return
    raise ValueError(f'the frame at {missing[0]} is missing')


def counted_frames(frames, indices):
    """Of frames from the first on, yield those at the rising `indices`."""
    wanted = set(indices.tolist())
    for i, frame in enumerate(frames):
        if i in wanted:
            yield frame
        if i == indices[-1]:
            return
    raise ValueError(f'frame {indices[-1]} is missing')


def decoded(path, indices):
    """Yield PyAV frames of a video file at distinct rising `indices`."""
    table = timetable(path)
    with open_video(path) as file:
        stream = video_stream(file)
        stream.thread_type = 'AUTO'
        as_many_as_cores = 0
        stream.codec_context.thread_count = 1 if get_worker_info() else as_many_as_cores
        if table is None:
            yield from counted_frames(frames_of(file), indices)
            return
        for key, run in runs(indices, table.keys):
            file.seek(table.seek[key], stream=stream)
            yield from frames_at(frames_of(file), table.shown[run])


def upright(pixels, matrix):
    """Turn and mirror pixels (3, H, W) as a player: it shows pixel (x, y) at (x, y, 1) @ matrix."""
    (right, down), (right_of_y, down_of_y) = matrix[:2, :2].tolist()
    if abs(down) > abs(right):                                        # rows are shown as columns
        pixels = pixels.transpose(1, 2)                               # (3, W, H)
        right = right_of_y
    else:
        down = down_of_y
    if right < 0:
        pixels = pixels.flip(2)
    if down < 0:
        pixels = pixels.flip(1)
    return pixels


def display_matrix(frame):
    """How a player turns the frame, int32 (3, 3), or None: as it is stored."""
    stored = frame.side_data.get('DISPLAYMATRIX')
    if stored is None:
        return None
    return np.frombuffer(bytes(stored), np.int32).reshape(3, 3)


def file_frames(path):
    """Number of frames of a video file: by its packets in an mp4, by decoding in any other."""
    try:
        table = timetable(path)
        if table is not None:
            return len(table.shown)
        with open_video(path) as file:
            return sum(1 for _ in frames_of(file))
    except Exception as error:  # demuxers and decoders raise a dozen types on a stranger's bytes
        raise UserError(f'{path}: cannot be read as a video ({one_line(error)})') from None


def read_file(path, indices, size=None):
    """Yield frames of a video file, squashed to size x size if given: uint8 (3, H, W)."""
    scale = av.video.reformatter.VideoReformatter()
    shape = None
    try:
        for frame in decoded(path, indices):
            rgb = scale.reformat(frame, size or frame.width, size or frame.height, 'rgb24')
            pixels = torch.from_numpy(rgb.to_ndarray()).permute(2, 0, 1)
            matrix = display_matrix(frame)
            if matrix is not None:    # turned after squashing: to a square, that is the same
                pixels = upright(pixels, matrix)
            check_shape(pixels.shape, shape)
            shape = pixels.shape
            yield pixels
    except Exception as error:  # as above
        raise UserError(f'{path}: does not decode ({one_line(error)})') from None


def check_shape(shape, before):
    """Frames of one video go into one tensor; ValueError with both sizes if they differ."""
    if before not in (None, shape):
        raise ValueError(f'a frame of {shape[2]} x {shape[1]} pixels, those before it '
                         f'{before[2]} x {before[1]}')


def video_file(name, path, size=None, **known):
    """A Video of a video file; size: its frames are squashed to size x size."""
    return Video(name, partial(file_frames, path), partial(read_file, path, size=size), **known)
