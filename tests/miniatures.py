"""Miniatures of every data set as on disk: real JPEGs, mp4s, .mat files, TFRecords, pickles.

Every frame is a `picture` of a number, so that whoever reads it can tell which frame it is. Each
function writes one layout into a folder and returns what it wrote:
{'train': {name: labels}, 'val': {name: labels}}.
"""
import io
import json
import pickle
import struct
from fractions import Fraction

import av
import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from datasets.penn import CLASSES as ACTIONS


def picture(number, width=160, height=96):
    """A number as ten blocks, black or white, over a moving block -> uint8 (H, W, 3)."""
    image = np.full((height, width, 3), 60, np.uint8)
    for bit in range(10):
        block = slice(bit * width // 10, (bit + 1) * width // 10)
        image[:height // 2, block] = 220 * (number >> bit & 1)
    x = number * 7 % (width - width // 8)
    image[height * 5 // 8:height * 7 // 8, x:x + width // 8] = 200, 80, 40
    return image


def number(frame):
    """The number on a frame, uint8 (3, H, W) of any size."""
    rows = frame[:, frame.shape[1] // 8:frame.shape[1] * 3 // 8].float()
    width = frame.shape[2] / 10
    bits = 0
    for bit in range(10):
        block = rows[:, :, int((bit + 0.3) * width):int((bit + 0.7) * width) + 1]
        bits |= int(block.mean() > 110) << bit
    return bits


def numbers(frames):
    return [number(frame) for frame in frames]


def phases(frames, classes):
    """Labels of a video that goes through the classes in order -> int64 (frames,)."""
    return np.arange(frames) * classes // frames


def write_images(folder, frames, suffix='.jpg', size=(160, 96)):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(frames):
        Image.fromarray(picture(i, *size)).save(folder / f'{i + 1:06d}{suffix}', quality=90)


def video_frame(number, size=(160, 96)):
    return av.VideoFrame.from_ndarray(picture(number, *size), format='rgb24')


def write_video(path, frames, *, codec='libx264', size=(160, 96), rate=25, options=None, form=None,
                repeat=1, first=0, pixels=None, sound=0, tags=None, **encoder):
    """A video file; H.264 with B-frames and several key frames by default.

    frames: PyAV's, or the number of pictures, each `repeat` times. first: the time of the first one
    in frames. sound: seconds of silence from 0 on. encoder: attributes of the encoder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(frames, int):
        frames = [video_frame(i // repeat, size) for i in range(frames * repeat)]
    options = {'bf': '3', 'g': '24'} if options is None else options
    with av.open(str(path), 'w', options=form or {}) as file:
        file.metadata.update(tags or {})
        stream = file.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = pixels or {'gif': 'rgb8', 'mjpeg': 'yuvj420p'}.get(codec, 'yuv420p')
        for name, value in encoder.items():
            setattr(stream.codec_context, name, value)
        audio = file.add_stream('aac', 48000, layout='mono') if sound else None
        for i, frame in enumerate(frames):
            frame.pts = first + i
            frame.time_base = 1 / Fraction(rate)
            file.mux(stream.encode(frame))
        for i in range(sound * 25):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.float32), 'fltp', 'mono')
            silence.sample_rate = 48000
            silence.pts = i * 1920
            file.mux(audio.encode(silence))
        for track in file.streams:
            file.mux(track.encode())


def remux(path, *files, bits='null', first=0):
    """The packets of files, one after another, in one stream of another file, from a time in ticks
    on, through one of libav's bitstream filters."""
    end = first
    stream = None
    with av.open(str(path), 'w') as target:
        for file in files:
            start = end
            with av.open(str(file)) as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = target.add_stream_from_template(video)
                    changed = av.bitstream.BitStreamFilterContext(bits, video, stream)
                for packet in source.demux(video):
                    if packet.size:
                        packet.pts += start
                        packet.dts += start
                        end = max(end, packet.pts + packet.duration)
                        for each in changed.filter(packet):
                            each.stream = stream
                            target.mux(each)


def many(train, val, frames):
    """(split, number, frames) of each video to write; no two of a split have the same length."""
    listed = [('train', i, frames + i) for i in range(train)]
    return listed + [('val', i, frames + i) for i in range(val)]


def penn(root, *, actions=ACTIONS, train=2, val=2, frames=12):
    """The release: frames/0001/000001.jpg, labels/0001.mat; phase labels in a folder an action."""
    written = {'train': {}, 'val': {}}
    (root / 'labels').mkdir(parents=True)
    for action in actions:
        for split, _, n in many(train, val, frames):
            name = f'{sum(map(len, written.values())) + 1:04d}'
            labels = phases(n, ACTIONS[action])
            write_images(root / 'frames' / name, n)
            savemat(root / 'labels' / f'{name}.mat', dict(
                action=action, train=1 if split == 'train' else -1, nframes=n,
                dimensions=[[96, 160, n]], bbox=[[40.0 + i, 24, 80 + i, 72] for i in range(n)],
                x=np.zeros((n, 13)), y=np.zeros((n, 13)), visibility=np.ones((n, 13))))
            folder = root / 'penn_action_labels' / split / f'{action}s'    # as pushups
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f'{name}_{action}.npy', labels)
            written[split][name] = labels
    return written


# --------------------------------------------------------------------------------------------------
# CARL's lists

def carl(root, groups, files=('train.pkl', 'val.pkl'), folder='videos', dtype=torch.int64):
    """CARL's mp4s and pickled lists. groups: of each action [(split, name, labels)]; of several,
    the indices of each group are pickled, too."""
    written = {'train': {}, 'val': {}}
    for split, file in zip(written, files):
        entries = []
        indices = []
        for group in groups:
            first = len(entries)
            for name, labels in [video for which, *video in group if which == split]:
                write_video(root / folder / f'{name}.mp4', len(labels))
                written[split][name] = labels
                entries.append({
                    'id': len(entries), 'name': name, 'video_file': f'{folder}/{name}.mp4',
                    'seq_len': len(labels), 'frame_label': torch.tensor(labels, dtype=dtype)})
            indices.append([*range(first, len(entries))])
        dump((entries, indices) if len(groups) > 1 else entries, root / file)
    return written


def penn_carl(root, *, actions=ACTIONS, train=2, val=2, frames=12):
    """All 13 actions are listed."""
    groups = []
    for action in ACTIONS:
        some = many(train, val, frames) if action in actions else []
        classes = ACTIONS[action]
        groups.append([(split, f'{action}{split}{i}', phases(n, classes)) for split, i, n in some])
    return carl(root, groups)


def pouring_carl(root, *, train=2, val=2, frames=12):
    some = many(train, val, frames)
    return carl(root, [[(split, f'{split}_pour_{i}', phases(n, 5)) for split, i, n in some]])


def finegym_carl(root, *, train=2, val=2, frames=30):
    listed = []
    for split, i, n in many(train, val, frames):
        labels = np.where(np.arange(n) < n // 2, np.arange(n) // 4, -1)
        listed.append((split, f'vid{split}_E_{i:06d}_{i + 9:06d}', labels))
    files = 'gym99_train_v1.0.pkl', 'gym99_val.pkl'
    return carl(root, [listed], files, 'processed_videos', torch.float32)


def dump(content, path):
    path.write_bytes(pickle.dumps(content))


# --------------------------------------------------------------------------------------------------
# TFRecords

def pouring(root, *, train=3, val=2, frames=12):
    """The TFRecords of TCC's authors: two files of train, one of val."""
    root.mkdir(parents=True, exist_ok=True)
    written = {'train': {}, 'val': {}}
    for split, i, n in many(train, val, frames):
        name = f'{split}_pour_{i}'
        labels = phases(n, 5)
        written[split][name] = labels
        record = sequence_example(name, [jpeg(j) for j in range(n)], labels)
        part = f'{2 * i // train}-of-2' if split == 'train' else '0-of-1'
        with open(root / f'pouring_{split}-{part}.tfrecord', 'ab') as file:
            file.write(framed(record))
    return written


def jpeg(i):
    file = io.BytesIO()
    Image.fromarray(picture(i)).save(file, 'JPEG', quality=90)
    return file.getvalue()


def framed(record):
    """A record of a TFRecord file: its length and it, a checksum after each (here none)."""
    return struct.pack('<Q', len(record)) + bytes(4) + record + bytes(4)


def varint(value):
    out = b''
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def message(number, content):
    """A field of a protocol buffer that holds bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def sequence_example(name, images, labels):
    """tf.train.SequenceExample, its integers packed, as TensorFlow does."""
    def feature(kind, value):
        return message(kind, message(1, value))    # kind 1: bytes, 3: integers

    def mapped(key, value):
        return message(1, message(1, key.encode()) + message(2, value))

    context = mapped('name', feature(1, name.encode()))
    context += mapped('len', feature(3, varint(len(images))))
    video = b''.join(message(1, feature(1, image)) for image in images)
    frame_labels = b''.join(message(1, feature(3, varint(int(label)))) for label in labels)
    lists = mapped('video', video) + mapped('frame_labels', frame_labels)
    return message(1, context) + message(2, lists)


# --------------------------------------------------------------------------------------------------
# The others

def finegym(root, *, classes=99, train=2, val=2, frames=40):
    """The annotation, the lists of elements, and a clip for each event; 25 frames a second."""
    written = {'train': {}, 'val': {}}
    elements = {'train': '', 'val': ''}
    known = {}
    times = {'A_0000_0001': [[0.04, 0.48]], 'A_0000_0002': [[0.0, 0.1], [0.4, 0.8]],
             'A_0001_0002': [[1.0, 1.2]]}
    segments = {segment: {'timestamps': spans} for segment, spans in times.items()}
    for split, i, n in many(train, val, frames):
        youtube = f'{split}-A_Eb{i}'
        when = f'E_{100 * i:06d}_{100 * i + 2:06d}'
        event = f'{youtube}_{when}'
        known[youtube] = {when: {'segments': segments}, 'E_009000_009001': {'segments': None}}
        elements[split] += f'{event}_A_0000_0001 {i}\n{event}_A_0000_0002 {classes - 1}\n'
        labels = np.full(n, -1)
        labels[1:12 + 1] = i
        labels[10:20 + 1] = classes - 1  # 0.4 s to 0.8 s, inclusive, over the earlier one
        write_video(root / 'processed_videos' / f'{event}.mp4', n)
        written[split][event] = labels
    (root / f'gym{classes}_train_element_v1.0.txt').write_text(elements['train'])
    (root / f'gym{classes}_val_element.txt').write_text(elements['val'])
    (root / 'finegym_annotation_info_v1.0.json').write_text(json.dumps(known))
    return written


def k400(root, *, train=4, val=0, frames=12):
    written = {'train': {}, 'val': {}}
    tables = {}
    for split, i, n in many(train, val, frames):
        label = ('abseiling', 'air drumming')[i % 2]
        table = tables.setdefault(split, ['label,youtube_id,time_start,time_end,split'])
        table.append(f'{label},-_{split}{i:05d},{i},{i + 10},{split}')
        name = f'-_{split}{i:05d}_{i:06d}_{i + 10:06d}'
        write_video(root / split / f'{name}.mp4', n)
        written[split][name] = None
    (root / 'annotations').mkdir()
    for split, lines in tables.items():
        (root / 'annotations' / f'{split}.csv').write_text('\n'.join(lines))
    return written


def folder(root, *, train=3, val=2, frames=12, classes=3):
    """One's own: train/ and val/, a sub-folder for each action, videos, frame folders, labels."""
    written = {'train': {}, 'val': {}}
    for split, i, n in many(train, val, frames):
        n += 5 if split == 'val' else 0  # no video is in both
        labels = phases(n, classes)
        for action in ('wave', 'jump high'):
            here = root / split / action
            name = f'clip {i}' if i % 2 else f'clip {i}.mp4'
            if i % 2:
                write_images(here / name, n)
                (here / f'clip {i}.txt').write_text('\n'.join(map(str, labels)) + '\n')
            else:
                write_video(here / name, n)
                np.save(here / f'clip {i}.npy', labels)
            written[split][f'{action}/{name}'] = labels
    return written


LAYOUTS = {'penn': penn, 'penn, CARL': penn_carl, 'pouring': pouring, 'pouring, CARL': pouring_carl,
           'finegym99': finegym, 'finegym99, CARL': finegym_carl, 'k400': k400, 'folder': folder}


def write_layout(layout, root, **options):
    """A layout, of Penn Action two of its 13 actions."""
    if 'penn' in layout:
        options = {'actions': ['bowl', 'pushup']} | options
    return LAYOUTS[layout](root, **options)


def unchecked(dataset, folder, label_unit=None):
    """The videos as their data set reads them, with labels that do not fit."""
    import data
    videos, _ = data.DATASETS[dataset].read(folder, 224, label_unit)
    return videos
