"""Which packets of a video file are its frames, and where to start decoding for each.

A file is a row of packets, each a frame or, in some formats, a part of one. Most frames are stored
as what differs from others, so decoding starts at a key frame, which stands alone. A packet says
when its frame is decoded (dts) and when it is shown (pts): not in the same order, where a frame
(a B-frame) also needs one that is shown after it.
"""
import io
import math
import os
import re
from functools import lru_cache
from typing import NamedTuple

import av
import numpy as np

from datasets.layout import say

MP4, MKV = 'mov,mp4,m4a,3gp,3g2,mj2', 'matroska,webm'
SEEKABLE = MP4, MKV, 'avi', 'mpegts'    # a GIF, for one, calls each of its frames a key frame


class Timetable(NamedTuple):
    """The frames of a file."""
    size: tuple          # width and height at which a player shows the first, before turning it
    cut: tuple           # pixels that it leaves out: left, top, right, bottom
    turn: np.ndarray     # display matrix: pixel (x, y) is then shown at (x, y, 1) @ turn
    seconds: np.ndarray  # float (frames,): when each is shown, from the file's start
    shown: np.ndarray    # int64 (frames,), rising: the same in ticks; a damaged one has the time
                         # of the one before it
    keys: np.ndarray     # int64 (key frames,), rising: the first frame that is decoded from each
    seek: list           # (key frames,): where to seek for each; None: begin at the file's start
    clock: bool          # False: its times are no use, and `shown` counts the frames instead


def open_video(path):
    """av.open, without libav's messages, each time, as others undo it: on the way to Python's
    logging, a decoding thread waits for the lock of whoever frees the decoder and waits for it."""
    av.logging.set_level(None)
    return av.open(str(path), metadata_errors='replace')    # old tags are not UTF-8


def video_stream(file):
    """The video of an open file that ffmpeg would choose; a cover picture is none.

    No other track is read: in a file that was cut off, it may end before the video does."""
    chosen = file.streams.best('video')
    if chosen is None or chosen.disposition & av.stream.Disposition.attached_pic:
        raise ValueError('it holds none')
    for stream in file.streams:
        if stream.index != chosen.index:
            stream.discard = av.stream.Discard.all
    decoder = chosen.codec_context
    if not decoder.is_open:
        decoder.thread_count = 1    # of several, an error takes whole frames of the others with it
        decoder.flags |= av.codec.context.Flags.unaligned    # cropped to the pixel
    return chosen


# Matroska's PixelCropLeft, -Top, -Right, -Bottom
SIDES = b'\x54\xcc', b'\x54\xbb', b'\x54\xdd', b'\x54\xaa'


def cropping(stream):
    """What the container cuts off each picture (mp4's clean aperture, Matroska's PixelCrop), pixels
    at the left, top, right and bottom. libav reads it and PyAV does not tell; but a Matroska header
    that libav writes for the same stream has it."""
    header = io.BytesIO()
    try:
        with av.open(header, 'w', format='matroska') as copy:
            copy.add_stream_from_template(stream)
            copy.start_encoding()
    except (ValueError, av.error.FFmpegError):    # a codec that Matroska does not have
        return 0, 0, 0, 0
    # the element Video: its size, PixelWidth, PixelHeight and others
    known = b'\xb0' + matroska_number(stream.width) + b'\xba' + matroska_number(stream.height)
    before, _, after = header.getvalue().partition(known)
    size = before[-1] - 0x80 if before[-2:-1] == b'\xe0' else 127    # of two bytes, no less
    video = after[:size - len(known)]
    cut = []
    for side in SIDES:
        found = re.search(side + rb'(?:\x81(.)|\x82(..))', video, re.DOTALL)
        cut.append(int.from_bytes(found[1] or found[2]) if found else 0)
    return tuple(cut)


def matroska_number(value):
    """A whole number as Matroska writes it: how many bytes, then these."""
    length = (value.bit_length() + 7) // 8
    return bytes([0x80 + length]) + value.to_bytes(length)


def frames_of(file):
    """Yield an open file's frames from where it stands; None for a packet that does not decode."""
    for packet in file.demux(video_stream(file)):
        try:
            frames = [] if packet.is_corrupt else packet.decode()    # the file's end cuts it
        except av.error.FFmpegError:
            frames = [None]
        yield from frames


def display_matrix(frame):
    """How a player turns the frame: (x, y) is shown at (x, y) @ matrix, (2, 2) or larger."""
    try:
        return np.frombuffer(bytes(frame.side_data['DISPLAYMATRIX']), np.int32).reshape(3, 3)
    except (KeyError, ValueError):    # PyAV has no name for something else that the frame carries
        angle = math.radians(frame.rotation)                          # against the clock
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def timetable(path):
    """The timetable of a video file, made once a process; ValueError if too much is damaged."""
    return timetable_of(str(path), os.stat(path).st_mtime_ns)


@lru_cache(maxsize=1024)    # of two-minute videos, 50 MB
def timetable_of(path, _changed):
    packets = []
    with open_video(path) as file:    # the first frame decides how all are turned
        first = next(filter(None, frames_of(file)), None)
    with open_video(path) as file:
        stream = video_stream(file)
        container = file.format.name
        codec = stream.codec_context.name
        oblong = stream.sample_aspect_ratio or 1    # a pixel's width / height
        left, top, right, bottom = cut = cropping(stream)
        width = stream.width - left - right
        size = max(1, round(width * oblong)), stream.height - top - bottom
        tick = float(stream.time_base)
        begin = (file.start_time or 0) / av.time_base
        rate = float(stream.average_rate or 25)
        for packet in file.demux(stream):
            if packet.size and not packet.is_corrupt:
                packets.append((packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
    turn = np.eye(2) if first is None else display_matrix(first)
    shown = None
    clock = True
    if container in (MP4, MKV) and codec not in ('vp8', 'libvpx'):    # VP8 has hidden frames
        shown = shown_by_packets(packets)
    if shown is None:
        shown, clock = shown_by_decoding(path)
    shown = np.array(shown, np.int64)                                # (frames,)
    seconds = shown * tick - begin if clock else np.arange(len(shown)) / rate
    seek = []
    if clock and container in SEEKABLE:
        for pts, dts, key, _ in packets:
            if key and pts is not None:
                seek.append((pts, pts if container == MKV or dts is None else dts))
    seek = sorted(seek) or [(0, None)]
    keys = np.searchsorted(shown, [pts for pts, _ in seek])
    keys[0] = 0
    seek = [position for _, position in seek]
    return Timetable(size, cut, turn, seconds, shown, keys, seek, clock)


def shown_by_packets(packets):
    """When the frames are shown, by (pts, dts, key, discard) of their packets; None if not sure.

    A cut without encoding anew leaves an edit list: frames before it are decoded, but not shown.
    """
    shown = [pts for pts, _, _, hidden in packets if not hidden]
    hidden = [pts for pts, _, _, hidden in packets if hidden]
    keys = [pts for pts, _, key, _ in packets if key]
    if None in shown + hidden:
        return None
    if not keys or not shown:
        return []
    first, last = min(shown), max(shown)
    if len(set(shown)) < len(shown) or any(first <= pts <= last for pts in hidden):
        return None    # after several cuts, times do not rise with the file
    return sorted(pts for pts in shown if pts >= min(keys))    # before a key, nothing decodes


def shown_by_decoding(path):
    """-> when the frames are shown, and whether by a clock; without one, their places in a row."""
    shown = []    # the time and the place of each
    lost = 0
    with open_video(path) as file:
        for place, frame in enumerate(frames_of(file)):
            if frame is not None:
                shown.append((frame.pts, place))
            elif shown:
                lost += 1
                shown.append(shown[-1])
    tell_lost(path, lost, len(shown))
    times = [time for time, _ in shown]
    if None in times or len(set(times)) < len(times) - lost or sorted(times) != times:
        return [place for _, place in shown], False
    return times, True


TOLD = set()    # files of which something is damaged


def tell_lost(path, lost, frames):
    """A line on a few damaged frames, once; ValueError if of the frames read they are many."""
    if lost > max(1, frames // 10):
        raise ValueError(f'{lost} of {frames} frames are damaged')
    if lost and path not in TOLD:
        TOLD.add(path)
        say(f'{path}: a frame of it is damaged; the one before it is shown in its place',
            warning=True)


def runs(indices, keys):
    """Rising indices, cut where seeking skips over 16 frames -> [(key frame to seek, indices)]."""
    start = np.searchsorted(keys, indices, 'right') - 1    # from which key frame each is decoded
    skips = keys[start[1:]] > indices[:-1] + 16
    cuts = np.flatnonzero(skips) + 1
    return [(key[0], run) for key, run in zip(np.split(start, cuts), np.split(indices, cuts))]


def frame_times(path):
    """When each frame is shown, in seconds from the file's start, which may be its sound's ->
    float (frames,)."""
    return timetable(path).seconds
