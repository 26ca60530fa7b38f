"""One video: its name, its labels, and its frames, decoded one by one.

Frame i is the i-th that a player shows, turned as a player turns it. `Video` is all that the other
files know of a video. Video files are decoded here, by PyAV (packets.py says where their frames
are); pictures in images.py. A file that is broken is a `UserError` of one line.
"""
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import chain, islice
from threading import get_ident

import av
import numpy as np
import torch

from datasets.packets import (frame_times, frames_of, open_video, runs, tell_lost, timetable,
                              video_stream)
from running.errors import UserError

VIDEO_FILES = {
    '.mp4', '.m4v', '.mov', '.qt', '.3gp', '.3g2', '.mj2', '.avi', '.divx', '.wmv', '.asf', '.flv',
    '.f4v', '.rm', '.rmvb', '.mkv', '.webm', '.ogv', '.ogm', '.nut', '.y4m', '.mpg', '.mpeg',
    '.m1v', '.m2v', '.mpv', '.vob', '.mod', '.tod', '.ts', '.mts', '.m2ts', '.m2t', '.mxf', '.dv',
    '.gxf', '.dav', '.h264', '.264', '.h265', '.hevc', '.ivf', '.mjpg', '.mjpeg', '.gif'}


def one_line(error):
    words = error.strerror if isinstance(error, av.error.FFmpegError) else str(error)
    return ' '.join(words.split()) or type(error).__name__


@dataclass(eq=False, repr=False)
class Video:
    """One video: its name, what is known of it, and functions that find out the rest when needed.

    count() -> number of frames
    decode(distinct rising indices) -> iterable of uint8 (3, H, W), all of one size
    annotate(number of frames) -> one integer a frame, -1 = unlabelled
    mask(indices) -> where the actor is, bool (n, H, W), or None
    times() -> seconds of each frame on disk, (n,); None: it has no clock
    fit: if frames and labels differ in number, sample the more numerous down (Penn Action)
    """
    name: str
    count: Callable
    decode: Callable
    action: str | None = None
    annotate: Callable | None = None
    mask: Callable | None = None
    times: Callable | None = None
    fit: bool = False
    classes: list | None = None    # names of the labels, by number

    @cached_property
    def frames_on_disk(self):
        """UserError if there is none."""
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
            raise IndexError(f'{self.name} has {self.frames} frames, not {indices.tolist()}')
        return indices * self.frames_on_disk // self.frames

    def read(self, indices):
        """Decode frames: any order, repeats allowed, each decoded once -> uint8 (n, 3, H, W)."""
        distinct, back = np.unique(self.positions(indices), return_inverse=True)
        return torch.stack([*self.decode(distinct)])[torch.from_numpy(back)]

    def views(self, rng, time):
        """Time stamps (views, T) -> frames (views * T, 3, H, W). features.py draws from rng."""
        return self.read(time.ravel())

    def parts(self, size=64, step=1):
        """Every step-th frame, from front to back, yielded as uint8 (up to `size`, 3, H, W)."""
        frames = iter(self.decode(self.positions(range(0, self.frames, step))))
        part = list(islice(frames, size))
        while part:
            yield torch.stack(part)
            part = list(islice(frames, size))

    def seconds(self):
        """When each frame is shown, in seconds from the first, (frames,); None without a clock."""
        if self.times:
            return self.times()[self.positions(range(self.frames))]

    def actor(self, indices):
        """Where the actor is in the frames as read, bool (n, H, W), or None if it is not known."""
        if self.mask:
            return self.mask(self.positions(indices))


# --------------------------------------------------------------------------------------------------
# Decoding

def frames_at(timed, times):
    """Of (time, frame) in rising order, yield the frame that is on at each of the rising `times`.

    -> in the end, how many were not exactly there: damaged, so that the one before stays on."""
    current = coming = None
    lost = 0
    for time in times:
        while current is None or current[0] < time:
            coming = coming or next(timed, None)
            if coming is None or coming[0] > time:
                break
            current, coming = coming, None
        nearest = current or coming
        if nearest is None:
            raise ValueError('nothing in it decodes')
        lost += nearest[0] != time
        yield nearest[1]
    return lost


def timed_frames(file, clock):
    """Yield (time, frame) of an open file from where it stands; without a clock, (place, frame)."""
    for place, frame in enumerate(frames_of(file)):
        if frame is not None and not (clock and frame.pts is None):
            yield (frame.pts if clock else place), frame


def decoded(path, indices):
    """Yield PyAV frames of a video file at distinct rising `indices`."""
    table = timetable(path)
    lost = 0
    with open_video(path) as file:
        for key, run in runs(indices, table.keys):
            times = table.shown[run].tolist()
            if table.seek[key] is not None:
                file.seek(table.seek[key], stream=video_stream(file))
            timed = timed_frames(file, table.clock)
            first = next(timed, None)
            if first is not None and first[0] <= table.shown[table.keys[key]]:
                lost += yield from frames_at(chain([first], timed), times)
                continue
            # the key frame is damaged; or it is none, and the picture comes bit by bit after it
            with open_video(path) as again:
                lost += yield from frames_at(timed_frames(again, table.clock), times)
    tell_lost(str(path), lost, len(indices))


def upright(pixels, matrix):
    """Turn and mirror pixels (3, H, W) as a player: it shows pixel (x, y) at (x, y, 1) @ matrix."""
    matrix = matrix[:2, :2]
    if abs(matrix[0, 1]) > abs(matrix[0, 0]):                         # rows are shown as columns
        pixels = pixels.transpose(1, 2)                               # (3, W, H)
        matrix = matrix[::-1]
    if matrix[0, 0] < 0:
        pixels = pixels.flip(2)
    if matrix[1, 1] < 0:
        pixels = pixels.flip(1)
    return pixels


def file_frames(path):
    """Number of frames of a video file."""
    try:
        return len(timetable(path).shown)
    except Exception as error:  # demuxers and decoders raise a dozen types on a stranger's bytes
        raise UserError(f'{path}: cannot be read as a video ({one_line(error)})') from None


HDR_TONES = 16, 18     # PQ and HLG of ITU-R BT.2100
SCREEN = {'dst_color_trc': 1, 'dst_color_primaries': 1}    # BT.709, an ordinary one


@lru_cache(maxsize=16)
def reformatter(*_kind):
    """To set up libswscale costs more than a frame, with HDR's tones 4 s: once for each kind."""
    return av.video.reformatter.VideoReformatter()


def rgb(frame, width, height, cut=(0, 0, 0, 0)):
    """A PyAV frame, without what is cut off -> uint8 (height, width, 3); HDR is mapped to an
    ordinary screen."""
    if any(cut):
        left, top, right, bottom = cut
        whole = rgb(frame, frame.width, frame.height)
        part = whole[top:frame.height - bottom, left:frame.width - right]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(part), 'rgb24')
    kind = frame.format.name, frame.width, frame.height, frame.color_trc, width, height
    # no two threads may share one, nor a process and those it is forked into
    scale = reformatter(os.getpid(), get_ident(), *kind)
    tones = SCREEN if frame.color_trc in HDR_TONES else {}
    return scale.reformat(frame, width, height, 'rgb24', **tones).to_ndarray()


def read_file(path, indices, size=None):
    """Yield frames of a video file, squashed to size x size if given: uint8 (3, H, W)."""
    try:
        table = timetable(path)
        width, height = (size, size) if size else table.size
        for frame in decoded(path, indices):
            stored = torch.from_numpy(rgb(frame, width, height, table.cut)).permute(2, 0, 1)
            yield upright(stored, table.turn)    # of a square, the same after squashing
    except Exception as error:  # as above
        raise UserError(f'{path}: does not decode ({one_line(error)})') from None


def video_file(name, path, size=None, **known):
    """A Video of a video file; size: its frames are squashed to size x size."""
    return Video(name, partial(file_frames, path), partial(read_file, path, size=size),
                 times=partial(frame_times, path), **known)
