"""One video: its name, its labels, and its frames, decoded one by one.

Frame i is the i-th that a player shows, turned as a player turns it. `Video` is all that the other
files know of a video. Video files are decoded in packets.py, pictures in images.py. A file that is
broken is a `UserError` of one line.
"""
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice

import numpy as np
import torch

from datasets.packets import file_frames, frame_times, read_file
from running.errors import UserError

VIDEO_FILES = {
    '.mp4', '.m4v', '.mov', '.qt', '.3gp', '.3g2', '.mj2', '.avi', '.divx', '.wmv', '.asf', '.flv',
    '.f4v', '.rm', '.rmvb', '.mkv', '.webm', '.ogv', '.ogm', '.nut', '.y4m', '.mpg', '.mpeg',
    '.m1v', '.m2v', '.mpv', '.vob', '.mod', '.tod', '.ts', '.mts', '.m2ts', '.m2t', '.mxf', '.dv',
    '.gxf', '.dav', '.h264', '.264', '.h265', '.hevc', '.ivf', '.mjpg', '.mjpeg', '.gif'}


@dataclass(eq=False, repr=False)
class Video:
    """One video: its name, what is known of it, and functions that find out the rest when needed.

    count() -> number of frames
    decode(distinct rising indices) -> iterable of uint8 (3, H, W), all of one size
    annotate(number of frames) -> one integer a frame, -1 = unlabelled
    mask(indices) -> where the actor is, bool (n, H, W); UserError: it is not known
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
        frames = self.count()
        if not frames:
            raise UserError(f'{self.name}: no frame in it')
        return frames

    @cached_property
    def frames(self):
        """Number of frames; with `fit`, there are no more of them than labels."""
        frames = self.frames_on_disk
        return min(frames, len(self.annotate(frames))) if self.fit else frames

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
        return stacked([*self.decode(distinct)])[torch.from_numpy(back)]

    def read_views(self, rng, time):
        """Time stamps (views, T) -> frames (views * T, 3, H, W). rng: for features.py."""
        return self.read(time.ravel())

    def parts(self, size=64, step=1):
        """Every step-th frame, from front to back, yielded as uint8 (up to `size`, 3, H, W)."""
        frames = iter(self.decode(self.positions(range(0, self.frames, step))))
        part = list(islice(frames, size))
        while part:    # to the end of `frames`, where a file tells what is damaged
            yield stacked(part)
            part = list(islice(frames, size))

    def seconds(self):
        """When each frame is shown, in seconds from the first, (frames,); None without a clock."""
        if self.times:
            return self.times()[self.positions(range(self.frames))]

    def actor(self, indices):
        """Where the actor is in the frames as read, bool (n, H, W); None: it is not known."""
        if self.mask:
            with suppress(UserError):
                return self.mask(self.positions(indices))


def stacked(frames):
    """What `decode` yields -> uint8 (n, 3, H, W). Errors: UserError."""
    frames = torch.stack(frames)
    if frames.dtype != torch.uint8 or frames.ndim != 4:
        raise UserError(f'frames are {frames.dtype} {tuple(frames.shape[1:])}: a video must decode '
                        f'to torch.uint8 (3, H, W), 0 to 255')
    return frames


def video_file(name, path, size=None, **known):
    """A Video of a video file; size: its frames are squashed to size x size."""
    return Video(name, partial(file_frames, path), partial(read_file, path, size=size),
                 times=partial(frame_times, path), **known)
