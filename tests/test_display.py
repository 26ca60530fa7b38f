"""Frames are what a player shows, not what is stored: turned, cut, of square pixels, no cover."""
import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import data
from miniatures import numbers, picture, remux, unchecked, video_frame, write_video
from running.errors import UserError
from test_video import every_frame, video_file

RATE = 25


# --------------------------------------------------------------------------------------------------
# Turned and mirrored videos

TURNS = {    # display matrix (a, b, c, d): a pixel (x, y) is shown at (a x + c y, b x + d y)
    'as stored': (1, 0, 0, 1),
    'by 90': (0, 1, -1, 0),
    'by 180': (-1, 0, 0, -1),
    'by 270': (0, -1, 1, 0),
    'left is right': (-1, 0, 0, 1),
    'upside down': (1, 0, 0, -1),
    'transposed': (0, 1, 1, 0),
    'transposed the other way': (0, -1, -1, 0),
    'by a degree': (.9998, .0175, -.0175, .9998),    # of a phone's sensor: players turn by quarters
}
STORED = {'b-frames.mp4': {}, 'seeks.mov': {'codec': 'mpeg4', 'options': {'g': '8', 'bf': '2'}}}


def shown_at(stored, matrix):
    """Pixel for pixel where the matrix says, moved so that coordinates begin at 0: (n, 3, H, W)."""
    a, b, c, d = map(round, matrix)
    n, _, height, width = stored.shape
    y, x = np.mgrid[:height, :width]
    new_x = a * x + c * y
    new_x = new_x - new_x.min()
    new_y = b * x + d * y
    new_y = new_y - new_y.min()
    shown = np.zeros((n, 3, new_y.max() + 1, new_x.max() + 1), np.uint8)
    shown[:, :, new_y, new_x] = stored.numpy()
    return torch.from_numpy(shown)


def write_turned(path, whole, matrix):
    """The file with another matrix in its track header."""
    a, b, c, d = [round(each * 65536) for each in matrix]
    start = whole.index(b'tkhd') + 44
    assert struct.unpack('>i', whole[start + 32:start + 36]) == (1 << 30,)
    box = struct.pack('>9i', a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(whole[:start] + box + whole[start + 36:])


@pytest.mark.parametrize('name', STORED)
def test_turned_videos(name, tmp_path):
    write_video(tmp_path / name, 24, **STORED[name])
    stored = every_frame(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    assert stored.shape == (24, 3, 96, 160)
    for turn, matrix in TURNS.items():
        path = tmp_path / f'{turn} {name}'
        write_turned(path, whole, matrix)
        expected = shown_at(stored, matrix)
        assert torch.equal(every_frame(path), expected), turn
        assert torch.equal(video_file(path).read([21, 2, 17]), expected[[21, 2, 17]])
        squashed = shown_at(every_frame(tmp_path / name, 64), matrix)
        assert torch.equal(video_file(path, 64).read([5, 23]), squashed[[5, 23]])


# --------------------------------------------------------------------------------------------------
# Videos cut without encoding anew

OPEN = {'bf': '3', 'g': '24', 'x264-params': 'open-gop=1:scenecut=0'}
CUTS = {
    'b-frames.mp4': {'options': {'bf': '3', 'g': '24'}},
    'open.mp4': {'options': OPEN},
    'plain.mov': {'options': {'bf': '0', 'g': '24'}},
    'old.mov': {'codec': 'mpeg4', 'options': {'bf': '2', 'g': '24'}},
}
EDITS = [    # (first frame, number of frames) of each part; key frames: 0, 24, 48
    [(0, 54)], [(10, 11)], [(23, 37)], [(24, 30)], [(49, 11)],
    [(0, 10), (30, 10)], [(30, 10), (5, 10)], [(10, 5), (12, 5), (50, 10)]]


def grown(whole, at, content, *boxes):
    """An mp4 with more in it: the boxes around it, of these kinds, become longer."""
    moov = whole.index(b'moov')    # at the end, so that its size moves nothing
    for kind in (b'moov', *boxes):
        size = whole.index(kind, moov) - 4
        longer = int.from_bytes(whole[size:size + 4]) + len(content)
        whole = whole[:size] + longer.to_bytes(4) + whole[size + 4:]
    return whole[:at] + content + whole[at:]


def edit(whole, *parts):
    """The file with an edit list that shows each part: (first frame, number of frames)."""
    seconds, = struct.unpack_from('>I', whole, whole.index(b'mvhd') + 16)    # ticks of the film
    scale, = struct.unpack_from('>I', whole, whole.index(b'mdhd') + 16)      # and of the track
    start = whole.index(b'elst') + 8
    count, _, delay, _ = struct.unpack_from('>IIii', whole, start)           # that of B-frames
    assert count == 1
    cut = struct.pack('>I', len(parts))
    for first, frames in parts:
        begin = delay + first * scale // RATE
        cut += struct.pack('>Iii', frames * seconds // RATE, begin, 1 << 16)
    whole = grown(whole, start + 16, bytes(len(cut) - 16), b'trak', b'edts', b'elst')
    return whole[:start] + cut + whole[start + len(cut):]


@pytest.mark.parametrize('name', CUTS)
def test_cut_videos(name, tmp_path):
    write_video(tmp_path / name, 60, **CUTS[name])
    whole = (tmp_path / name).read_bytes()
    path = tmp_path / f'cut {name}'
    for parts in EDITS:
        path.write_bytes(edit(whole, *parts))
        expected = []
        for first, frames in parts:
            expected += range(first, first + frames)
        assert numbers(every_frame(path)) == expected
        some = [4, 0, len(expected) - 1]
        assert numbers(video_file(path).read(some)) == [expected[i] for i in some]
        for i in range(0, len(expected), 7):
            assert numbers(video_file(path).read([i])) == [expected[i]]


def test_a_video_cut_by_ffmpeg(tmp_path):
    """Which moves what is cut off before the time 0."""
    write_video(tmp_path / 'a.mp4', 60)
    remux(tmp_path / 'cut.mp4', tmp_path / 'a.mp4', first=-10 * 12800 // RATE)
    assert numbers(every_frame(tmp_path / 'cut.mp4')) == list(range(10, 60))


# --------------------------------------------------------------------------------------------------
# Cover pictures

def write_with_cover(path, frames):
    """A white cover picture, beside a video of so many pictures if not 0."""
    with av.open(str(path), 'w') as file:
        cover = file.add_stream('mjpeg', rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, 'yuvj420p'
        cover.disposition = av.stream.Disposition.attached_pic
        white = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 255, np.uint8))
        packets = cover.encode(white) + cover.encode()
        if frames:
            stream = file.add_stream('libx264', rate=RATE)
            stream.width, stream.height, stream.pix_fmt = 160, 96, 'yuv420p'
            for i in range(frames):
                packets += stream.encode(video_frame(i))
            packets += stream.encode()
        file.mux(packets)


def cover_first(whole):
    """Tags before the tracks, so that the cover is stream 0, as some taggers leave a file."""
    tracks = whole.index(b'moov') + 4
    tags = whole.index(b'udta') - 4    # the last box
    return whole[:tracks] + whole[tags:] + whole[tracks:tags]


@pytest.mark.parametrize('name', ['after.mp4', 'first.mp4', 'first and cut.mp4'])
def test_covers_are_not_the_video(name, tmp_path):
    path = tmp_path / name
    write_with_cover(path, 20)
    if 'first' in name:
        path.write_bytes(cover_first(path.read_bytes()))
    if 'cut' in name:
        path.write_bytes(edit(path.read_bytes(), (5, 15)))
    with av.open(str(path)) as file:
        cover = 0 if 'first' in name else 1
        assert file.streams.video[cover].disposition & av.stream.Disposition.attached_pic
    assert numbers(every_frame(path)) == list(range(5 if 'cut' in name else 0, 20))


def test_a_cover_alone_is_no_video(tmp_path):
    write_with_cover(tmp_path / 'song.mp4', 0)
    with pytest.raises(UserError, match='song.mp4: cannot be read as a video .it holds none'):
        every_frame(tmp_path / 'song.mp4')


# --------------------------------------------------------------------------------------------------
# What else a player knows

def test_pictures_that_come_bit_by_bit(tmp_path):
    """x264's intra refresh: where decoding may begin, the first frames are not whole. Each frame by
    itself is as it is in a row."""
    blocks = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    still = blocks.repeat(8, 0).repeat(8, 1)
    frames = [av.VideoFrame.from_ndarray(np.roll(still, 3 * i, 1)) for i in range(60)]
    options = {'intra-refresh': '1', 'g': '12', 'bf': '3'}
    write_video(tmp_path / 'a.mp4', frames, options=options)
    video = video_file(tmp_path / 'a.mp4')
    in_a_row = torch.cat(list(video.parts()))
    for i in range(60):
        assert torch.equal(video.read([i])[0], in_a_row[i]), i


def test_the_default_track_is_the_video(tmp_path):
    with av.open(str(tmp_path / 'a.mp4'), 'w') as file:
        streams = [file.add_stream('libx264', rate=RATE) for _ in range(2)]
        streams[0].disposition = 0
        streams[1].disposition = av.stream.Disposition.default
        for stream, pictures in zip(streams, (range(500, 505), range(20))):
            stream.width, stream.height, stream.pix_fmt = 160, 96, 'yuv420p'
        packets = []
        for stream, pictures in zip(streams, (range(500, 505), range(20))):
            for i in pictures:
                packets += stream.encode(video_frame(i))
            packets += stream.encode()
        file.mux(packets)
    assert numbers(every_frame(tmp_path / 'a.mp4')) == list(range(20))


@pytest.mark.parametrize('name', ['dv.mkv', 'dv.avi'])
def test_oblong_pixels_are_shown_square(name, tmp_path):
    pixels = Fraction(64, 45)
    write_video(tmp_path / name, 3, codec='mpeg4', options={}, sample_aspect_ratio=pixels)
    shown = every_frame(tmp_path / name)
    assert shown.shape == (3, 3, 96, round(160 * 64 / 45)) and numbers(shown) == [0, 1, 2]


def with_clean_aperture(whole, *values):
    """An mp4 with a `clap` box (ISO 14496-12): width and height shown, how far right of and below
    the middle, each a fraction."""
    start = whole.index(b'avc1', whole.index(b'moov')) - 4
    end = start + int.from_bytes(whole[start:start + 4])
    clap = struct.pack('>I4s8i', 40, b'clap', *values)
    return grown(whole, end, clap, b'trak', b'mdia', b'minf', b'stbl', b'stsd', b'avc1')


@pytest.mark.parametrize('name', ['phone.mp4', 'phone.mkv'])
def test_what_the_container_cuts_off_is_not_shown(name, tmp_path):
    write_video(tmp_path / 'whole.mp4', 20)
    whole = every_frame(tmp_path / 'whole.mp4')
    content = with_clean_aperture((tmp_path / 'whole.mp4').read_bytes(),
                                  128, 1, 80, 1, -8, 1, 4, 1)
    (tmp_path / 'phone.mp4').write_bytes(content)
    if name == 'phone.mkv':                      # libav's writer makes PixelCrop of it
        remux(tmp_path / name, tmp_path / 'phone.mp4')
    shown = whole[:, :, 12:92, 8:136]
    assert torch.equal(every_frame(tmp_path / name), shown)
    squashed = data.video_file('a', tmp_path / name, 40).read([3])
    away = squashed - F.interpolate(shown[3:4].float(), (40, 40), mode='area')
    assert away.abs().mean() < 4


def test_what_looks_like_cropping_is_none(tmp_path):
    """The last bytes of H.264's parameters, which nobody reads, as if they were PixelCropBottom."""
    write_video(tmp_path / 'a.mkv', 20)
    whole = every_frame(tmp_path / 'a.mkv')
    content = (tmp_path / 'a.mkv').read_bytes()
    assert content.count(b'\xfd\xf8\xf8\x00') == 1
    (tmp_path / 'b.mkv').write_bytes(content.replace(b'\xfd\xf8\xf8\x00', b'\x54\xaa\x81\x10'))
    assert torch.equal(every_frame(tmp_path / 'b.mkv'), whole)


@pytest.mark.parametrize('tones, codes', [(16, (.5807, .38)), (18, (.7499, .3786))])
def test_hdr_is_shown_in_the_tones_of_an_ordinary_screen(tones, codes, tmp_path):
    """White of 203 cd/m2 and a grey of 26, as ITU-R BT.2408 has them: their codes by SMPTE ST 2084
    (16) and ARIB STD-B67 (18), in 10 bits. On a screen they are 255 and 255 (26 / 203)^(1 / 2.4).
    """
    luma = np.repeat([64 + 876 * code for code in codes], 80).round().astype(np.uint16)
    frame = av.VideoFrame(160, 96, 'yuv420p10le')
    frame.planes[0].update(np.tile(luma, (96, 1)).tobytes())
    for plane in frame.planes[1:]:
        plane.update(np.full((48, 80), 512, np.uint16).tobytes())
    write_video(tmp_path / 'phone.mp4', [frame], pixels='yuv420p10le', options={'crf': '1'},
                color_trc=tones, color_primaries=9, colorspace=9)
    shown = every_frame(tmp_path / 'phone.mp4')[0].float().mean((0, 1))
    assert shown[[20, 140]].tolist() == pytest.approx([255, 108], abs=3)


def write_camera(path, frames):
    """Motion JPEG whose pictures carry EXIF, a thing of which PyAV has no name."""
    exif = Image.Exif()
    exif[0x010F] = 'Camera'
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('mjpeg', rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 160, 96, 'yuvj420p'
        for i in range(frames):
            content = io.BytesIO()
            Image.fromarray(picture(i)).save(content, 'JPEG', exif=exif)
            packet = av.Packet(content.getvalue())
            packet.stream, packet.time_base = stream, Fraction(1, RATE)
            packet.pts = packet.dts = i
            packet.is_keyframe = True
            file.mux(packet)


def test_frames_that_carry_what_has_no_name(tmp_path):
    write_camera(tmp_path / 'a.avi', 12)
    assert numbers(every_frame(tmp_path / 'a.avi')) == list(range(12))
    write_camera(tmp_path / 'a.mov', 12)
    stored = every_frame(tmp_path / 'a.mov')
    write_turned(tmp_path / 'a.mov', (tmp_path / 'a.mov').read_bytes(), TURNS['by 90'])
    assert torch.equal(every_frame(tmp_path / 'a.mov'), shown_at(stored, TURNS['by 90']))


@pytest.mark.parametrize('name, change', [
    ('a.ts', 'display_orientation=insert:rotate=90'),    # at the first frame alone
    ('a.mp4', 'crop_left=16:crop_right=8:crop_top=4:crop_bottom=12')])
def test_the_stream_may_say_how_it_is_shown(name, change, tmp_path):
    plain = tmp_path / f'plain {name}'
    write_video(plain, 20)
    stored = every_frame(plain)
    remux(tmp_path / name, plain, bits=f'h264_metadata={change}')
    turned = name == 'a.ts'
    expected = stored.transpose(2, 3).flip(2) if turned else stored[:, :, 4:-12, 16:-8]
    assert torch.equal(every_frame(tmp_path / name), expected)


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv'])
def test_pictures_may_begin_after_the_sound(name, tmp_path):
    """Players and annotation tools count from the file's beginning, be it silent or dark."""
    write_video(tmp_path / name, 40, options={'bf': '0'}, first=10, sound=2)
    (tmp_path / 'a.csv').write_text('start_seconds,end_seconds,label\n0.4,1.0,1\n1.0,2.0,0\n')
    video, = unchecked('folder', tmp_path)['train']
    assert numbers(video.read([0, 39])) == [0, 39]
    assert video.labels.tolist() == [1] * 15 + [0] * 25


def test_seconds_count_from_the_files_beginning_whatever_its_clock_says(tmp_path):
    write_video(tmp_path / 'a.ts', 12, options={'bf': '0'}, first=10)
    with av.open(str(tmp_path / 'a.ts')) as file:
        assert file.start_time > 0
    seconds = data.video_file('a', tmp_path / 'a.ts').seconds()
    assert np.allclose(seconds, np.arange(12) / 25, atol=1e-3)


def test_what_comes_before_the_first_key_frame_is_not_shown(tmp_path):
    """As of a stream that was joined late: nothing there decodes."""
    write_video(tmp_path / 'whole.mkv', 40, options={'bf': '0', 'g': '12'})
    with av.open(str(tmp_path / 'whole.mkv')) as source, \
            av.open(str(tmp_path / 'late.mkv'), 'w') as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(video=0))[1:]:
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    assert numbers(every_frame(tmp_path / 'late.mkv')) == list(range(12, 40))
