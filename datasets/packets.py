"""Which packets of a video file are its frames, and where to start decoding for each.

A file is a row of packets, each a frame or, in some formats, a part of one. Most frames are stored
as what differs from others, so decoding starts at a key frame, which stands alone. A packet says
when its frame is decoded (dts) and when it is shown (pts): not in the same order, where a frame
(a B-frame) also needs one that is shown after it.
"""
from typing import NamedTuple

import av
import numpy as np


class Timetable(NamedTuple):
    """The frames of a file, found from its packets without decoding them."""
    shown: np.ndarray    # int64 (frames,): when each is shown, rising
    keys: np.ndarray     # int64 (key frames,), rising: the first frame that is decoded from each
    seek: list           # (key frames,): where to seek for each


def open_video(path):
    """av.open, after libav's messages have been taken off Python.

    libav reports a damaged packet from its decoding threads. If such a report goes to Python's
    logging, the thread waits for the interpreter lock, while whoever frees the decoder holds that
    lock and waits for the thread: for ever. None puts a C function in the place of PyAV's Python
    one. It is done for every file because others undo it: torchvision 0.21, when it is imported
    after this, sets a level of its own. What else libav calls in Python is not used here: packets,
    frames or files made of Python objects, and timeouts.
    """
    av.logging.set_level(None)
    return av.open(str(path))


def video_stream(file):
    """The first video of an open file; a cover picture beside it is not one."""
    for stream in file.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise ValueError('it holds none')


def timetable(path):
    """The timetable of an mp4 or mov file; None where a packet is not surely the frame of its time.

    The header's count is not asked for: a file that was cut off ends with its last whole packet. A
    cut without encoding anew leaves an edit list: frames before it are decoded, but not shown.
    """
    shown = []
    hidden = []
    keys = []
    with open_video(path) as file:
        if 'mp4' not in file.format.name:
            return None
        for packet in file.demux(video_stream(file)):
            if not packet.size or packet.is_corrupt:
                continue
            if packet.pts is None:
                return None
            if packet.is_keyframe:
                keys.append((packet.pts, packet.dts))
            if packet.is_discard:
                hidden.append(packet.pts)
            else:
                shown.append(packet.pts)
    if not keys or not shown:
        return Timetable(np.zeros(0, np.int64), np.zeros(0, np.int64), [])
    first, last = min(shown), max(shown)
    if len(set(shown)) < len(shown) or any(first <= pts <= last for pts in hidden):
        return None    # after several cuts, times do not rise with the file
    keys.sort()
    key_times = [pts for pts, _ in keys]
    # What precedes the first key frame does not decode.
    shown = np.array(sorted(pts for pts in shown if pts >= key_times[0]), np.int64)
    return Timetable(shown, np.searchsorted(shown, key_times), [dts for _, dts in keys])


def runs(indices, keys):
    """Rising indices, cut where seeking skips over 16 frames -> [(key frame to seek, indices)]."""
    start = np.searchsorted(keys, indices, 'right') - 1    # from which key frame each is decoded
    skips = keys[start[1:]] > indices[:-1] + 16
    cuts = np.flatnonzero(skips) + 1
    return [(key[0], run) for key, run in zip(np.split(start, cuts), np.split(indices, cuts))]
