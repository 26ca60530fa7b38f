"""Frames are what a player shows, not what is stored: turned, cut, deep, of any size and ending."""
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import data
from datasets.images import IMAGE_FILES, images_in
from datasets.video import VIDEO_FILES
from miniatures import numbers, picture, unchecked, write_images, write_video
from running.errors import UserError

RATE = 25


def video_file(path, size=None):
    return data.video_file(path.name, path, size)


def every_frame(path, size=None):
    video = video_file(path, size)
    return video.read(range(video.frames))


def checkerboard(number, width=48, height=32):
    """A picture that no turn and no mirror maps to itself."""
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)


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
}
STORED = {
    'b-frames.mp4': {},
    'all-key.mov': {'codec': 'mjpeg', 'options': {}},
    'seeks.mov': {'codec': 'mpeg4', 'options': {'g': '8', 'bf': '2'}},
}


def shown_at(stored, matrix):
    """Pixel for pixel where the matrix says, moved so that coordinates begin at 0: (n, 3, H, W)."""
    a, b, c, d = matrix
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
    a, b, c, d = matrix
    start = whole.index(b'tkhd') + 44
    assert struct.unpack('>i', whole[start + 32:start + 36]) == (1 << 30,)
    box = struct.pack('>9i', a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(whole[:start] + box + whole[start + 36:])


@pytest.mark.parametrize('name', STORED)
def test_turned_videos(name, tmp_path):
    write_video(tmp_path / name, 40, **STORED[name])
    stored = every_frame(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    assert stored.shape == (40, 3, 96, 160)
    for turn, matrix in TURNS.items():
        path = tmp_path / f'{turn} {name}'
        write_turned(path, whole, matrix)
        expected = shown_at(stored, matrix)
        assert torch.equal(every_frame(path), expected), turn
        assert torch.equal(video_file(path).read([33, 2, 17]), expected[[33, 2, 17]])
        squashed = shown_at(every_frame(tmp_path / name, 64), matrix)
        assert torch.equal(video_file(path, 64).read([5, 39]), squashed[[5, 39]])


def test_a_turn_by_a_degree_is_none(tmp_path):
    """Phones write what their sensors say, rounded; players turn by quarters."""
    write_video(tmp_path / 'a.mp4', 4)
    stored = every_frame(tmp_path / 'a.mp4')
    whole = (tmp_path / 'a.mp4').read_bytes()
    start = whole.index(b'tkhd') + 44
    box = struct.pack('>9i', 65526, 1144, 0, -1144, 65526, 0, 0, 0, 1 << 30)
    (tmp_path / 'a.mp4').write_bytes(whole[:start] + box + whole[start + 36:])
    assert torch.equal(every_frame(tmp_path / 'a.mp4'), stored)


# --------------------------------------------------------------------------------------------------
# Pictures with an EXIF orientation

def turned_by_exif(image, orientation):
    """(H, W, 3) as the EXIF standard says it is shown: where its row 0 and column 0 are."""
    shown = {
        1: image,                                    # top, left
        2: image[:, ::-1],                           # top, right
        3: image[::-1, ::-1],                        # bottom, right
        4: image[::-1],                              # bottom, left
        5: image.transpose(1, 0, 2),                 # left, top
        6: image[::-1].transpose(1, 0, 2),           # right, top
        7: image[::-1, ::-1].transpose(1, 0, 2),     # right, bottom
        8: image[:, ::-1].transpose(1, 0, 2),        # left, bottom
    }
    return shown[orientation]


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tif', '.webp'])
def test_exif_orientation(suffix, tmp_path):
    for orientation in range(1, 9):
        folder = tmp_path / f'{orientation}'
        folder.mkdir()
        for i in range(3):
            exif = Image.Exif()
            exif[0x0112] = orientation
            options = {'lossless': True} if suffix == '.webp' else {}
            Image.fromarray(checkerboard(i)).save(folder / f'{i}{suffix}', exif=exif, **options)
        read = data.frame_folder('v', folder).read([2, 0])
        for frame, i in zip(read, (2, 0)):
            expected = turned_by_exif(checkerboard(i), orientation)
            frame = frame.permute(1, 2, 0).numpy()
            assert frame.shape == expected.shape
            # JPEG blurs colours: blocks are compared by their centres
            far = np.abs(frame.astype(int) - expected)[4::8, 4::8].max()
            assert far <= (40 if suffix == '.jpg' else 0), orientation
        small = data.frame_folder('v', folder, size=32).read([1])[0].permute(1, 2, 0).numpy()
        tall = Image.fromarray(turned_by_exif(checkerboard(1), orientation))
        expected = np.array(tall.resize((32, 32), Image.BILINEAR))
        assert np.abs(small.astype(int) - expected).mean() < 12    # a wrong turn: 70


# --------------------------------------------------------------------------------------------------
# Videos cut without encoding anew

OPEN = {'bf': '3', 'g': '24', 'x264-params': 'open-gop=1:scenecut=0'}
CUTS = {
    'b-frames.mp4': {'options': {'bf': '3', 'g': '24'}},
    'open.mp4': {'options': OPEN},
    'plain.mov': {'options': {'bf': '0', 'g': '24'}},
    'old.mov': {'codec': 'mpeg4', 'options': {'bf': '2', 'g': '24'}},
}


def box(kind, content):
    return struct.pack('>I', 8 + len(content)) + kind + content


def joined(parts):
    return b''.join(box(kind, content) for kind, content in parts)


def boxes(content):
    """The boxes of a part of an mp4 -> [(kind, content)]."""
    found, start = [], 0
    while start < len(content):
        size, = struct.unpack('>I', content[start:start + 4])
        found.append((content[start + 4:start + 8], content[start + 8:start + size]))
        start += size
    return found


def edit(whole, *parts):
    """The file with an edit list that shows each part: (first frame, number of frames)."""
    top = boxes(whole)
    assert top[-1][0] == b'moov'    # at the end, so that its size moves nothing
    moov = []
    for kind, content in boxes(top[-1][1]):
        if kind == b'mvhd':
            seconds, = struct.unpack('>I', content[12:16])
        if kind == b'trak':
            track = dict(boxes(content))
            before = track.pop(b'edts', bytes(24))
            delay, = struct.unpack('>i', before[20:24])    # that of B-frames
            media = dict(boxes(track[b'mdia']))
            scale, = struct.unpack('>I', media[b'mdhd'][12:16])
            cut = struct.pack('>II', 0, len(parts))
            for first, frames in parts:
                start = delay + first * scale // RATE
                cut += struct.pack('>Iii', frames * seconds // RATE, start, 1 << 16)
            track[b'edts'] = box(b'elst', cut)
            content = joined(track.items())
        moov.append((kind, content))
    return joined([*top[:-1], (b'moov', joined(moov))])


@pytest.mark.parametrize('name', CUTS)
@pytest.mark.parametrize('first, last', [    # key frames are at 0, 24 and 48
    (0, 53), (1, 59), (10, 20), (23, 59), (24, 53), (25, 59), (47, 53), (49, 59)])
def test_cut_videos(name, first, last, tmp_path):
    path = tmp_path / name
    write_video(path, 60, **CUTS[name])
    path.write_bytes(edit(path.read_bytes(), (first, last + 1 - first)))
    with av.open(str(path)) as file:    # libav's own view, from front to back
        assert sum(1 for _ in file.decode(video=0)) == last + 1 - first
    assert numbers(every_frame(path)) == list(range(first, last + 1))
    assert numbers(video_file(path).read([4, 0, last - first])) == [first + 4, first, last]
    for i in range(0, last + 1 - first, 3):
        assert numbers(video_file(path).read([i])) == [first + i]


@pytest.mark.parametrize('name', ['b-frames.mp4', 'plain.mov'])
@pytest.mark.parametrize('parts', [
    [(0, 10), (30, 10)], [(30, 10), (5, 10)], [(10, 5), (12, 5), (50, 10)], [(5, 10), (5, 10)]])
def test_videos_cut_more_than_once(name, parts, tmp_path):
    write_video(tmp_path / name, 60, **CUTS[name])
    (tmp_path / name).write_bytes(edit((tmp_path / name).read_bytes(), *parts))
    expected = []
    for first, frames in parts:
        expected += range(first, first + frames)
    assert numbers(every_frame(tmp_path / name)) == expected
    assert numbers(video_file(tmp_path / name).read([13, 2])) == [expected[13], expected[2]]


def test_labels_follow_what_is_shown(tmp_path):
    write_video(tmp_path / 'a.mp4', 60)
    (tmp_path / 'a.mp4').write_bytes(edit((tmp_path / 'a.mp4').read_bytes(), (30, 30)))
    (tmp_path / 'a.txt').write_text('1 ' * 30)
    video, = unchecked('folder', tmp_path)['train']
    assert video.labels.tolist() == [1] * 30
    (tmp_path / 'a.txt').write_text('1 ' * 60)
    video, = unchecked('folder', tmp_path)['train']
    with pytest.raises(UserError, match='60 labels for 30 frames'):
        video.labels


# --------------------------------------------------------------------------------------------------
# Cover pictures

def video_frame(number, size=(160, 96)):
    frame = av.VideoFrame.from_ndarray(picture(number, *size), format='rgb24')
    frame.pts = number
    frame.time_base = Fraction(1, RATE)
    return frame


def write_with_cover(path, frames):
    """A video of `frames` pictures, or if 0 a sound, with a white cover picture."""
    with av.open(str(path), 'w') as file:
        codec, rate = ('libx264', RATE) if frames else ('aac', 48000)
        stream = file.add_stream(codec, rate=rate)
        cover = file.add_stream('mjpeg', rate=1)
        cover.width = cover.height = 64
        cover.pix_fmt = 'yuvj420p'
        cover.disposition = av.stream.Disposition.attached_pic
        white = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 255, np.uint8), format='rgb24')
        white.pts = 0
        packets = cover.encode(white) + cover.encode()
        if frames:
            stream.width, stream.height = 160, 96
            stream.pix_fmt = 'yuv420p'
            content = [video_frame(i) for i in range(frames)]
        else:
            silence = np.zeros((1, 1024), np.float32)
            content = [av.AudioFrame.from_ndarray(silence, 'fltp', 'mono')]
            content[0].sample_rate = 48000
        for frame in content:
            packets += stream.encode(frame)
        file.mux(packets + stream.encode())


def cover_first(whole):
    """Tags before the tracks, so that the cover is stream 0, as some taggers leave a file."""
    top = boxes(whole)
    assert top[-1][0] == b'moov'
    moov = dict(boxes(top[-1][1]))
    tags = moov.pop(b'udta')
    return joined([*top[:-1], (b'moov', joined([(b'udta', tags), *moov.items()]))])


@pytest.mark.parametrize('name', [
    'after.mp4', 'first.mp4', 'first and cut.mp4', 'first and turned.mp4'])
def test_covers_are_not_the_video(name, tmp_path):
    path = tmp_path / name
    write_with_cover(path, 20)
    if 'first' in name:
        path.write_bytes(cover_first(path.read_bytes()))
    if 'cut' in name:
        path.write_bytes(edit(path.read_bytes(), (5, 15)))
    if 'turned' in name:
        write_turned(path, path.read_bytes(), TURNS['by 180'])
    with av.open(str(path)) as file:
        cover = 0 if 'first' in name else 1
        assert file.streams.video[cover].disposition & av.stream.Disposition.attached_pic
    frames = every_frame(path)
    frames = frames.flip(2, 3) if 'turned' in name else frames
    assert numbers(frames) == list(range(5 if 'cut' in name else 0, 20))


def test_a_cover_alone_is_no_video(tmp_path):
    write_with_cover(tmp_path / 'song.mp4', 0)
    with pytest.raises(UserError, match='song.mp4: cannot be read as a video .it holds none'):
        every_frame(tmp_path / 'song.mp4')


# --------------------------------------------------------------------------------------------------
# Pictures of more than 8 bits

def write_deep(folder, values, suffix, kind=np.uint16):
    folder.mkdir()
    for i, image in enumerate(values):
        Image.fromarray(image.astype(kind)).save(folder / f'{i}{suffix}')
    return data.frame_folder('v', folder)


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
def test_deep_pictures(bits, suffix, tmp_path):
    ramp = np.linspace(0, 2 ** bits - 1, 40 * 30).reshape(30, 40).round()
    half = ramp // 2
    video = write_deep(tmp_path / 'v', [half, half, ramp, half], suffix)
    expected = np.round(np.stack([half, ramp]) * 255 / (2 ** bits - 1))
    frames = video.read([1, 2]).numpy()
    for channel in frames.transpose(1, 0, 2, 3):
        assert np.array_equal(channel, expected)
    alone = video.read([1])    # scaled as it is among the others
    assert np.array_equal(alone[0, 0].numpy(), expected[0])


def test_deep_pictures_of_other_kinds(tmp_path):
    ramp = np.arange(1200).reshape(30, 40) * 50
    video = write_deep(tmp_path / 'int', [ramp, ramp], '.tif', np.int32)
    expected = np.round(ramp * 255 / (2 ** 16 - 1))
    assert np.array_equal(video.read([0])[0, 2].numpy(), expected)
    (tmp_path / 'pgm').mkdir()
    content = b'P5 40 30 65535\n' + ramp.astype('>u2').tobytes()
    (tmp_path / 'pgm/0.pgm').write_bytes(content)
    read = data.frame_folder('v', tmp_path / 'pgm').read([0])
    assert np.array_equal(read[0, 1].numpy(), expected)
    video = write_deep(tmp_path / 'float', [ramp / 6e4], '.tif', np.float32)
    with pytest.raises(UserError, match='0.tif: .*floating-point'):
        video.read([0])


# --------------------------------------------------------------------------------------------------
# Sizes that change

def write_changing(path, codec, pixels='yuv420p'):
    """Ten pictures of 160 x 96, then ten of 80 x 48, in one stream."""
    with av.open(str(path), 'w') as file:
        stream = file.add_stream(codec, rate=RATE)
        small = av.CodecContext.create(codec, 'w')
        small.time_base = Fraction(1, RATE)
        small.framerate = RATE
        for encoder, first, size in ((stream, 0, (160, 96)), (small, 10, (80, 48))):
            encoder.width, encoder.height = size
            encoder.pix_fmt = pixels
            packets = []
            for i in range(first, first + 10):
                packets += encoder.encode(video_frame(i, size))
            for packet in packets + encoder.encode(None):
                packet.stream = stream
                packet.time_base = Fraction(1, RATE)
                file.mux(packet)


@pytest.mark.parametrize('name, codec', [
    ('vp8.webm', 'libvpx'),
    ('vp9.webm', 'libvpx-vp9'),
    ('h264.ts', 'libx264'),
    ('mjpeg.avi', 'mjpeg'),
])
def test_videos_whose_size_changes(name, codec, tmp_path):
    write_changing(tmp_path / name, codec, 'yuvj420p' if codec == 'mjpeg' else 'yuv420p')
    squashed = every_frame(tmp_path / name, 48)
    assert squashed.shape == (20, 3, 48, 48) and numbers(squashed) == list(range(20))
    assert numbers(video_file(tmp_path / name, 48).read([12, 3])) == [12, 3]
    whole = every_frame(tmp_path / name)    # not squashed: all of the first one's size
    assert whole.shape == (20, 3, 96, 160) and numbers(whole) == list(range(20))


def test_folders_whose_sizes_change(tmp_path):
    for i, size in enumerate([(160, 96), (80, 48), (96, 160), (321, 100)]):
        Image.fromarray(picture(i, *size)).save(tmp_path / f'{i}.png')
    assert numbers(data.frame_folder('v', tmp_path, 64).read(range(4))) == list(range(4))
    for indices in ([0, 1, 2, 3], [3]):    # not squashed: all of the first one's size
        whole = data.frame_folder('v', tmp_path).read(indices)
        assert whole.shape[1:] == (3, 96, 160) and numbers(whole) == indices


# --------------------------------------------------------------------------------------------------
# Endings

@pytest.mark.parametrize('name, codec', [
    ('camcorder.MTS', 'libx264'),
    ('camcorder.m2ts', 'libx264'),
    ('broadcast.ts', 'libx264'),
    ('old phone.3gp', 'libx264'),
    ('dvd.vob', 'mpeg2video'),
    ('windows.asf', 'wmv2'),
    ('studio.mxf', 'mpeg2video'),
    ('flash.flv', 'flv'),
    ('raw.h264', 'libx264'),
    ('open.nut', 'mpeg4'),
])
def test_video_endings(name, codec, tmp_path):
    path = tmp_path / name
    write_video(path, 30, codec=codec, options={})
    assert path.suffix.lower() in VIDEO_FILES
    assert numbers(every_frame(path)) == list(range(30))
    assert numbers(video_file(path).read([17, 3])) == [17, 3]


@pytest.mark.parametrize('suffix', ['.tif', '.TIFF', '.ppm', '.bmp', '.webp', '.tga', '.jp2'])
def test_image_endings(suffix, tmp_path):
    write_images(tmp_path, 12, suffix)
    assert suffix.lower() in IMAGE_FILES and len(images_in(tmp_path)) == 12
    assert numbers(data.frame_folder('v', tmp_path).read([11, 0])) == [11, 0]


# --------------------------------------------------------------------------------------------------
# What importing does

def test_libav_messages_never_reach_python(tmp_path):
    """One that did would wait for the interpreter lock in a decoding thread, perhaps for ever."""
    write_video(tmp_path / 'a.mkv', 30)
    whole = bytearray((tmp_path / 'a.mkv').read_bytes())
    whole[len(whole) // 2:len(whole) // 2 + 200] = bytes(200)
    (tmp_path / 'a.mkv').write_bytes(whole)
    script = '''
import sys, av
def messages():
    with av.logging.Capture(local=False) as captured:
        try:
            with av.open(sys.argv[1]) as file:
                sum(1 for _ in file.decode(video=0))
        except av.error.FFmpegError:
            pass
    return len(captured)
import data
from datasets.packets import open_video
for _ in range(2):
    av.logging.set_level(av.logging.ERROR)    # as older torchvision does when it is imported
    assert messages()
    open_video(sys.argv[1]).close()
    assert not messages()
for late in ('torchvision', 'matplotlib', 'sklearn'):
    assert late not in sys.modules, late
'''
    command = [sys.executable, '-c', script, tmp_path / 'a.mkv']
    root = Path(data.__file__).parent
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
