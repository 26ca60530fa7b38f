"""Films on disk for the bench, and how fast they are decoded."""
import tempfile
import time
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

import data
from pictures.film import write_film
from speed.measure import row, span

FOLDER = tempfile.TemporaryDirectory()
WIDE, HIGH = 480, 272


def pan(frames):
    """A camera pans over a scene of smooth colours and fine noise: yields uint8 (H, W, 3)."""
    rng = np.random.default_rng(0)
    length = WIDE + 2 * frames
    coarse = rng.integers(0, 256, (HIGH // 8, length // 8, 3), np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((length, HIGH), Image.BICUBIC))
    scene = scene + rng.integers(-12, 13, scene.shape)
    scene = scene.clip(0, 255).astype(np.uint8)
    for i in range(frames):
        yield np.ascontiguousarray(scene[:, 2 * i:2 * i + WIDE])


@cache
def written(frames):
    """A folder of JPEGs and an mp4 of the same film."""
    folder = Path(FOLDER.name, f'film{frames}')
    path = Path(FOLDER.name, f'film{frames}.mp4')
    folder.mkdir()
    for i, frame in enumerate(pan(frames)):
        Image.fromarray(frame).save(folder / f'{i:06}.jpg', quality=90)
    write_film(path, pan(frames), 25)
    return folder, path


def films(frames, side):
    """{'JPEG': Video, 'mp4': Video}, squashed to side x side."""
    folder, path = written(frames)
    return {'JPEG': data.frame_folder('JPEG', folder, size=side),
            'mp4': data.video_file('mp4', path, size=side)}


def seconds_to_read(video, wanted, _):
    """In a worker, as in training: of one core."""
    start = time.process_time()
    video.read(wanted)
    return time.process_time() - start


def decoding(sizes):
    frames = sizes.film
    wanted = np.sort(np.random.default_rng(0).choice(frames, frames // 4, replace=False))
    row(f'decoding {len(wanted)} of {frames} frames, one core', 'frames/s', 'time', 'of the mp4')
    times = {}
    for kind, video in films(frames, 224).items():
        read = partial(seconds_to_read, video, wanted)
        loader = DataLoader(range(sizes.runs + 1), None, num_workers=1, collate_fn=read)
        times[kind] = np.median(list(loader)[1:])
    for kind, took in times.items():
        row(f'  {kind}, {WIDE} x {HIGH} to 224 x 224', f'{len(wanted) / took:.0f}', span(took),
            f'{took / times["mp4"]:.2f}')
