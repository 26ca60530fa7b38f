"""Decoding: frame i is the i-th that was written, however it is asked for; broken files say so."""
import itertools
import multiprocessing
from pathlib import Path

import av
import numpy as np
import pytest

import data
from datasets import packets
from datasets.video import VIDEO_FILES
from miniatures import numbers, remux, video_frame, write_video
from running.errors import UserError

FORMATS = {
    'short.mp4': {'options': {'bf': '3', 'g': '3'}},
    'open.mp4': {'options': {'bf': '3', 'g': '12', 'x264-params': 'open-gop=1'}},
    'all-key.mov': {'codec': 'mjpeg', 'options': {}},
    'one.mkv': {},
    'old.avi': {'codec': 'mpeg4'},
    'some.gif': {'codec': 'gif', 'options': {}},
    'camcorder.MTS': {},
    'phone.3gp': {},
    'dvd.vob': {'codec': 'mpeg2video', 'options': {}},
    'windows.asf': {'codec': 'wmv2', 'options': {}},
    'studio.mxf': {'codec': 'mpeg2video', 'options': {}},
    'raw.h264': {},
    'open.nut': {'codec': 'mpeg4', 'options': {}},
}


def video_file(path, size=None, **known):
    return data.video_file(Path(path).name, path, size, **known)


def every_frame(path, size=None):
    video = video_file(path, size)
    return video.read(range(video.frames))


@pytest.mark.parametrize('name', FORMATS)
def test_frame_i_is_frame_i(name, tmp_path):
    write_video(tmp_path / name, 70, **FORMATS[name])
    assert Path(name).suffix.lower() in VIDEO_FILES
    video = video_file(tmp_path / name)
    assert video.frames == 70
    parts = list(video.parts(30))
    assert [len(part) for part in parts] == [30, 30, 10]
    assert numbers(itertools.chain.from_iterable(parts)) == list(range(70))
    for indices in ([69], [0], [34, 35, 36], [5, 50, 7, 5]):
        assert numbers(video.read(indices)) == indices
    with pytest.raises(IndexError):
        video.read([70])


@pytest.mark.parametrize('name, form', [
    ('a.mp4', {}), ('a.mkv', {}), ('a.ts', {}), ('a.avi', {'codec': 'mpeg4'})])
def test_long_videos_are_not_read_for_a_few_frames(name, form, tmp_path, monkeypatch):
    """Neither decoded from their start nor, once they are known, read through."""
    path = tmp_path / name
    options = {'bf': '2', 'g': '20', 'sc_threshold': '0', 'b': '6M', 'minrate': '6M', 'qmin': '1'}
    write_video(path, 300, **form, options=options)
    decoded = []
    decode = packets.decode
    monkeypatch.setattr(packets, 'decode', lambda each: decoded.append(each) or decode(each))
    video = video_file(path)
    assert video.frames == 300
    decoded.clear()
    assert numbers(video.read([285, 17, 17])) == [285, 17, 17]
    assert len(decoded) < 80
    known = packets.timetable_of.cache_info().misses
    decoded.clear()
    assert numbers(video.read([17, 285])) == [17, 285]
    assert len(decoded) < 80 and packets.timetable_of.cache_info().misses == known


@pytest.mark.parametrize('keep', [0.5, 0.8])
def test_cut_off_mp4_ends_where_its_frames_end(keep, tmp_path):
    path = tmp_path / 'a.mp4'
    write_video(path, 100, form={'movflags': 'faststart'})
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * keep)])
    video = video_file(path)
    assert 20 < video.frames < 100    # where the header claims 100
    assert numbers(video.read(range(video.frames)))[:20] == list(range(20))


def broken_files(folder):
    """Write video files that cannot be used -> their names, and that of one that is not there."""
    write_video(folder / 'whole.mp4', 30)
    whole = (folder / 'whole.mp4').read_bytes()
    quarter = len(whole) // 4
    contents = {
        'no index.mp4': whole[:2 * quarter],
        'empty.mp4': b'',
        'text.mp4': b'Sign in to confirm your age\n',
        'noise.avi': np.random.default_rng(0).bytes(5000),
        'damaged.mp4': whole[:quarter] + bytes(quarter) + whole[2 * quarter:]}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / 'folder.mp4').mkdir()
    return [*contents, 'folder.mp4', 'gone.mp4']


def test_broken_videos_are_errors_of_one_line(tmp_path):
    for name in broken_files(tmp_path):
        with pytest.raises(UserError, match=name) as error:
            every_frame(tmp_path / name)
        assert '\n' not in str(error.value)


@pytest.mark.parametrize('codec', ['mjpeg', 'mpeg4'])
def test_a_frame_that_the_end_of_the_file_cuts_is_none(codec, tmp_path):
    """libav would give what it has of it, the rest grey."""
    path = tmp_path / 'a.avi'
    write_video(path, 20, codec=codec, options={})
    with av.open(str(path)) as file:
        *_, last = [packet for packet in file.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[:last.pos + last.size // 2])
    video = video_file(path)
    assert video.frames == 19
    assert numbers(video.read(range(19))) == list(range(19))


def test_recordings_joined_end_to_end_lose_no_frame(tmp_path):
    """libav calls what comes after a join corrupt."""
    parts = []
    for start in range(0, 100, 20):
        frames = [video_frame(i) for i in range(start, start + 20)]
        write_video(tmp_path / 'part.ts', frames, first=start)
        parts.append((tmp_path / 'part.ts').read_bytes())
    (tmp_path / 'whole.ts').write_bytes(b''.join(parts))
    assert numbers(every_frame(tmp_path / 'whole.ts')) == list(range(100))


def without_a_head(path):
    """An AVI whose 30th chunk has none: who reads it loses a frame, its index does not."""
    write_video(path, 60, codec='mpeg4', options={'g': '10', 'bf': '0'})
    with av.open(str(path)) as file:
        at = [packet.pos for packet in file.demux(video=0) if packet.size][30]
    content = path.read_bytes()
    path.write_bytes(content[:at - 8] + bytes(8) + content[at:])


def without_key_frames(path):
    """An mp4 that says of every frame that it is a key frame."""
    write_video(path, 60, codec='mpeg4', options={'g': '10', 'bf': '0'})
    path.write_bytes(path.read_bytes().replace(b'stss', b'free'))


@pytest.mark.parametrize('spoil, ending', [(without_a_head, '.avi'), (without_key_frames, '.mp4')])
def test_a_frame_alone_is_that_of_the_whole_video(spoil, ending, tmp_path):
    path = tmp_path / f'a{ending}'
    spoil(path)
    video = video_file(path)
    whole = numbers(every_frame(path))
    assert len(set(whole)) > 57
    assert [numbers(video.read([i]))[0] for i in range(25, 60, 3)] == whole[25:60:3]


def test_damage_is_judged_by_the_whole_video(tmp_path, capsys):
    """Three frames one after another are many of eight, and few of a hundred."""
    path = tmp_path / 'a.mov'
    write_video(path, 100, codec='mjpeg', options={})
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        for packet in [packet for packet in file.demux(video=0) if packet.size][50:53]:
            content[packet.pos:packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(content)
    assert numbers(video_file(path).read(range(48, 56))) == [48, 49, 49, 49, 49, 53, 54, 55]
    assert 'is damaged' in capsys.readouterr().err


def test_a_cut_recording_ends_where_its_frames_end(tmp_path):
    """A fragmented mp4, whose sound lies after its pictures, cut off amid the pictures."""
    path = tmp_path / 'a.mp4'
    write_video(path, 75, options={'g': '250', 'bf': '0'}, sound=3,
                form={'movflags': 'frag_keyframe+empty_moov'})
    with av.open(str(path)) as file:
        ends = [packet.pos + packet.size for packet in file.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[:ends[49] + 1])
    assert numbers(every_frame(path)) == list(range(50))


@pytest.mark.parametrize('name, codec', [
    ('a.mp4', 'libx264'), ('b.mp4', 'mpeg4'), ('c.mkv', 'libx264'), ('d.avi', 'mjpeg')])
def test_one_damaged_frame_costs_no_other(name, codec, tmp_path, capsys, doctor):
    path = tmp_path / name
    write_video(path, 50, codec=codec, options={'bf': '0', 'g': '8', 'sc_threshold': '0'})
    with av.open(str(path)) as file:
        packet = [packet for packet in file.demux(video=0) if packet.size][23]
        at, size = packet.pos, packet.size    # the last before a key frame
        content = path.read_bytes()
        start = content.index(bytes(packet)[4:], at) if at else 0
    path.write_bytes(content[:start] + bytes(size - 4) + content[start + size - 4:])
    frames = [*range(23), 22, *range(24, 50)]
    video = video_file(path)
    assert numbers(itertools.chain.from_iterable(video.parts(30))) == frames
    assert 'a frame of it is damaged' in capsys.readouterr().err
    assert numbers(video.read([23, 24, 41])) == [22, 24, 41]
    for options in ([], ['--decode']):
        code, out, errors = doctor('folder', '--data', tmp_path, *options)
        assert (code, errors) == (0, []) and 'folder: complete' in out


@pytest.mark.parametrize('name', ['a.avi', 'a.mp4', 'a.mkv'])
def test_tags_may_be_of_any_encoding(name, tmp_path):
    tag = 'R\u00fcckhand'.encode('latin-1')
    write_video(tmp_path / name, 12, codec='mpeg4', options={}, tags={'title': 'X' * len(tag)})
    content = (tmp_path / name).read_bytes()
    assert b'X' * len(tag) in content
    (tmp_path / name).write_bytes(content.replace(b'X' * len(tag), tag))
    assert numbers(every_frame(tmp_path / name)) == list(range(12))


@pytest.mark.parametrize('name, codec', [
    ('vp8.webm', 'libvpx'), ('vp9.webm', 'libvpx-vp9'), ('h264.ts', 'libx264'),
    ('mjpeg.avi', 'mjpeg')])
def test_videos_whose_size_changes(name, codec, tmp_path):
    parts = [tmp_path / f'part {name}', tmp_path / f'other {name}']
    for part, first, size in zip(parts, (0, 10), ((160, 96), (80, 48))):
        frames = [video_frame(first + i, size) for i in range(10)]
        write_video(part, frames, codec=codec, size=size, options={})
    remux(tmp_path / name, *parts)
    squashed = every_frame(tmp_path / name, 48)
    assert squashed.shape == (20, 3, 48, 48) and numbers(squashed) == list(range(20))
    assert numbers(video_file(tmp_path / name, 48).read([12, 3])) == [12, 3]
    whole = every_frame(tmp_path / name)    # not squashed: all of the first one's size
    assert whole.shape == (20, 3, 96, 160) and numbers(whole) == list(range(20))


def test_forked_processes_do_not_wait_for_threads_of_their_parent():
    def shrink(sides):
        for side in sides:
            packets.rgb(video_frame(0), side, side)

    shrink(range(8, 24))
    worker = multiprocessing.get_context('fork').Process(target=shrink, args=[range(24, 48)])
    worker.start()
    worker.join(20)
    worker.kill()
    assert worker.exitcode == 0


def test_libav_messages_never_reach_python(tmp_path):
    """One that did would wait for the interpreter lock in a decoding thread, perhaps for ever."""
    write_video(tmp_path / 'a.mkv', 3)
    av.logging.set_level(av.logging.ERROR)    # as older torchvision does when it is imported
    with packets.open_video(tmp_path / 'a.mkv'):
        assert av.logging.get_level() is None
