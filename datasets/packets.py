"""A video file: which of its packets are its frames, and how to decode the frames asked for.

A file is a row of packets, each a frame or, in some formats, a part of one. Most frames are stored
as what differs from others, so decoding starts at a key frame, which stands alone. A packet says
when its frame is decoded (dts) and when it is shown (pts): not in the same order, where a frame
(a B-frame) also needs one that is shown after it. A file that is broken is a `UserError` of one
line.
"""
import io
import math
import os
import re
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import chain
from threading import get_ident
from typing import NamedTuple

import av
import numpy as np
import torch

from datasets.layout import refused, say

MP4, MKV = 'mov,mp4,m4a,3gp,3g2,mj2', 'matroska,webm'
SEEKABLE = MP4, MKV, 'avi', 'mpegts'    # a GIF, for one, calls each of its frames a key frame


class Timetable(NamedTuple):
    """The frames of a file, and how they are shown."""
    size: tuple          # width and height at which a player shows the first, before turning it
    cut: tuple           # pixels that it leaves out: bottom, top, left, right
    turn: tuple          # whether it turns all upside down; then by how many quarters, leftwards
    seconds: np.ndarray  # float (frames,): when each is shown, from the file's start
    shown: np.ndarray    # int64 (frames,), rising: the same in ticks; a damaged one has the time
                         # of the one before it
    starts: np.ndarray   # int64 (n, 2), rising: the file's beginning and each key frame: the first
                         # frame that is decoded from there, and where to seek
    clock: bool          # False: its times are no use, and `shown` counts the frames instead


@contextmanager
def open_video(path):
    """-> an open file, and of its videos the one that ffmpeg would choose; a cover is none."""
    # libav's messages, switched off each time, as others undo it: on the way to Python's logging,
    # a decoding thread waits for the lock of whoever frees the decoder and waits for it
    av.logging.set_level(None)
    with av.open(str(path), metadata_errors='replace') as file:    # old tags are not UTF-8
        video = file.streams.best('video')
        cover = av.stream.Disposition.attached_pic
        if video is None or video.codec_context is None or video.disposition & cover:
            raise ValueError('it holds none that can be decoded')
        for stream in file.streams:    # in a file that was cut off, others may end before it does
            if stream.index != video.index:
                stream.discard = av.stream.Discard.all
        decoder = video.codec_context
        decoder.thread_count = 1    # of several, an error takes whole frames of the others with it
        decoder.flags |= av.codec.context.Flags.unaligned    # cropped to the pixel
        yield file, video


def decode(packet):
    """The frames that a packet completes; [None] if it does not decode."""
    try:
        return packet.decode()
    except av.error.FFmpegError:
        return [None]


def packets_of(file, video):
    """The packets of an open file from where it stands, but one that the file's end cuts: libav
    would give a part of it. Others that it calls corrupt come after a gap, and do decode."""
    held = None
    with suppress(IndexError):    # PyAV's, where a stream begins on the way
        for packet in file.demux(video):
            if held is not None and (packet.size or not held.is_corrupt):
                yield held
            held = packet
    if held is not None:
        yield held


def frames_of(file, video):
    """The frames of an open file from where it stands; None for a packet that does not decode."""
    return chain.from_iterable(map(decode, packets_of(file, video)))


# --------------------------------------------------------------------------------------------------
# The timetable

def timetable(path):
    """The timetable of a video file, made once a process; UserError if it is damaged too much."""
    with refused(f'{path}: cannot be read as a video'):
        return timetable_of(str(path), os.stat(path).st_mtime_ns)


@lru_cache(maxsize=1024)    # of two-minute videos, 50 MB
def timetable_of(path, _changed):
    first = None    # frame: it decides how all are turned
    shown = []
    starts = []     # of each key frame, when it is shown and where to seek
    with open_video(path) as (file, video):
        container = file.format.name
        oblong = video.sample_aspect_ratio or 1    # a pixel's width / height
        bottom, top, left, right = cut = cropping(video)
        size = max(1, round((video.width - left - right) * oblong)), video.height - top - bottom
        for packet in packets_of(file, video):
            first = first or next(filter(None, decode(packet)), None)
            if packet.size and not packet.is_discard:    # not cut off by an edit list
                shown.append(packet.pts)
            if packet.is_keyframe and packet.pts is not None:
                by_pts = container == MKV or packet.dts is None
                starts.append((packet.pts, packet.pts if by_pts else packet.dts))
        if first is None:
            raise ValueError('nothing in it decodes')
        # by an AVI's index frames have other numbers than for a reader who has lost one
        lost = container == 'avi' and video.frames not in (0, len(shown))
        hidden = video.codec_context.name in ('vp8', 'libvpx')    # VP8 has frames never shown
        clock = True
        if container in (MP4, MKV) and not hidden and starts and are_distinct(shown):
            begin, _ = min(starts)    # before a key frame nothing decodes
            shown = sorted(time for time in shown if time >= begin)
        else:
            shown, clock = shown_by_decoding(path)
        shown = np.array(shown, np.int64)                                # (frames,)
        seconds = np.arange(len(shown)) / float(video.average_rate or 25)
        if clock:
            seconds = shown * float(video.time_base) - (file.start_time or 0) / av.time_base
    if lost or not clock or container not in SEEKABLE:
        starts = []
    starts = np.array([(-2 ** 63, 0), *sorted(starts)])
    starts[:, 0] = np.searchsorted(shown, starts[:, 0])
    return Timetable(size, cut, turn_of(first), seconds, shown, starts, clock)


def are_distinct(times):
    return None not in times and len(set(times)) == len(times)


def shown_by_decoding(path):
    """When they are shown, and True; or, if their times are no use, their places and False."""
    shown = []    # the time and the place of each; of a damaged one, those of the one before it
    with open_video(path) as (file, video):
        for place, frame in enumerate(frames_of(file, video)):
            if frame is not None:
                shown.append((frame.pts, place))
            elif shown:
                shown.append(shown[-1])
    whole = list(dict.fromkeys(shown))
    tell_lost(path, len(shown) - len(whole), len(shown))
    times, places = zip(*shown)
    clock = are_distinct([time for time, _ in whole]) and sorted(times) == list(times)
    return times if clock else places, clock


TOLD = set()    # files of which something is damaged


def tell_lost(path, lost, frames):
    """A line on a few damaged frames, once; ValueError if of the frames read they are many."""
    if lost > max(1, frames // 10):
        raise ValueError(f'{lost} of {frames} frames are damaged')
    if lost and path not in TOLD:
        TOLD.add(path)
        say(f'{path}: a frame of it is damaged; the one before it is shown in its place',
            warning=True)


def file_frames(path):
    """Number of frames of a video file."""
    return len(timetable(path).shown)


def frame_times(path):
    """Seconds from the file's start, which may be its sound's, (frames,)."""
    return timetable(path).seconds


# PixelWidth, PixelHeight, others, PixelCropBottom, -Top, -Left, -Right, these if not 0
CROPS = re.compile(
    rb'\xb0N\xbaN(?:(?:[\x9a\x9d]|\x53.)\x81.)*'
    rb'(?:\x54\xaa(N))?(?:\x54\xbb(N))?(?:\x54\xcc(N))?(?:\x54\xdd(N))?'
    .replace(b'N', rb'(?:\x81.|\x82..)'), re.DOTALL)    # a number: how many bytes, then these


def cropping(video):
    """What the container cuts off each picture (mp4's clean aperture, Matroska's PixelCrop). libav
    reads it and PyAV does not tell; but a Matroska header that libav writes for it has it."""
    header = io.BytesIO()
    with suppress(ValueError, av.error.FFmpegError):    # for a codec that Matroska does not have
        with av.open(header, 'w', format='matroska') as copy:
            copy.add_stream_from_template(video)
            copy.start_encoding()
    found = CROPS.search(header.getvalue())
    sides = found.groups(b'') if found else [b''] * 4
    return tuple(int.from_bytes(side[1:]) for side in sides)


def turn_of(frame):
    """How a player turns a frame, as in Timetable. A display matrix of negative determinant
    mirrors it."""
    mirrored = False
    with suppress(KeyError, ValueError):    # PyAV has no name for something that it carries
        matrix = np.frombuffer(frame.side_data['DISPLAYMATRIX'], np.int32).reshape(3, 3)
        mirrored = bool(np.linalg.det(matrix) < 0)
    return mirrored, round(frame.rotation / 90)


# --------------------------------------------------------------------------------------------------
# Decoding

END = math.inf, None    # the time after the last frame


def read_file(path, indices, size=None):
    """Yield those at distinct rising indices: uint8 (3, H, W), squashed to size x size if given."""
    table = timetable(path)
    width, height = (size, size) if size else table.size
    upside_down, quarters = table.turn
    lost = 0
    with refused(f'{path}: does not decode'):
        for index, (time, frame) in zip(indices, decoded(path, table, indices)):
            lost += time != table.shown[index]
            pixels = rgb(frame, width, height, table.cut)             # (H, W, 3)
            pixels = np.rot90(pixels[::-1] if upside_down else pixels, quarters)
            yield torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        tell_lost(str(path), lost, len(table.shown))


def decoded(path, table, indices):
    """Yield (time, frame) for each index: the frame, or if it is damaged the one before it."""
    keys, seek = table.starts.T
    last = -math.inf
    with open_video(path) as (file, video):
        for place, index in enumerate(indices):
            start = np.searchsorted(keys, index, 'right') - 1
            if keys[start] > last + 16:    # a start, or a leap to another; less does not pay
                if start:
                    file.seek(int(seek[start]), stream=video)
                timed = timed_frames(file, video, table.clock)
                before = after = next(timed, END)
                if start and not stands_alone(*after, table.shown[keys[start]]):
                    whole = table._replace(starts=table.starts[:1])
                    yield from decoded(path, whole, indices[place:])
                    return
            last = index
            while after[0] < table.shown[index]:
                before = after
                after = next(timed, END)
            yield after if after[0] == table.shown[index] else before


def stands_alone(time, frame, begin):
    """Is the first frame after seeking one before the key frame, or that and whole? No: it is
    damaged; or there is none, and the picture comes bit by bit."""
    return time < begin or time == begin and frame.key_frame and not frame.is_corrupt


def timed_frames(file, video, clock):
    """Yield (time, frame) of an open file from where it stands; without a clock, (place, frame)."""
    for place, frame in enumerate(frames_of(file, video)):
        if frame is not None and not (clock and frame.pts is None):
            yield (frame.pts if clock else place), frame


HDR_TONES = 16, 18     # PQ and HLG of ITU-R BT.2100
SCREEN = {'dst_color_trc': 1, 'dst_color_primaries': 1}    # BT.709, an ordinary one


@lru_cache(maxsize=16)
def reformatter(*_kind):
    """To set up libswscale for HDR's tones takes 4 s: once for each kind."""
    return av.video.reformatter.VideoReformatter()


def rgb(frame, width, height, cut=(0, 0, 0, 0)):
    """A frame, without what is cut off, on an ordinary screen -> uint8 (height, width, 3)."""
    if any(cut):
        bottom, top, left, right = cut
        whole = rgb(frame, frame.width, frame.height)
        part = whole[top:frame.height - bottom, left:frame.width - right]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(part), 'rgb24')
    kind = frame.format.name, frame.width, frame.height, frame.color_trc, width, height
    # no two threads may share one, nor a process and those it is forked into
    scale = reformatter(os.getpid(), get_ident(), *kind)
    tones = SCREEN if frame.color_trc in HDR_TONES else {}
    # one thread: a forked process that frees the map of several waits for them, which it has not
    return scale.reformat(frame, width, height, 'rgb24', threads=1, **tones).to_ndarray()
