"""Videos in memory, for tests of what is drawn of them; a command's exit code."""
import csv
from collections import namedtuple

import numpy as np
import torch

import data

STEP = 6              # grey levels between two frames

EmbeddedVideo = namedtuple('EmbeddedVideo', 'video frames kept labels')


def grey(name, n, size=(48, 64), action=None, rate=None):
    """A video of n frames of one grey each, frame i of level STEP * i; rate: frames a second."""
    def decode(indices):
        for i in indices:
            level = STEP * int(i) % 256
            yield torch.full((3, *size), level, dtype=torch.uint8)

    times = rate and (lambda: np.arange(n) / rate)
    return data.Video(name, lambda: n, decode, action=action, times=times)


def embedded(video, labels=None):
    if labels is None:
        labels = np.full(video.frames, -1)
    return EmbeddedVideo(video, video.frames, np.arange(video.frames), np.asarray(labels))


def on_circle(share):
    """Embeddings of unit length on an arc, at so large a share of it (n,) -> (n, 2)."""
    angle = np.asarray(share) * 0.8 * np.pi
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def arc(n):
    """Embeddings (n, 2) along the arc at constant speed: near in time is near in angle."""
    return on_circle(np.linspace(0, 1, n))


def exit_code(main, *arguments):
    """Of a command, in this process."""
    try:
        main(*arguments)
    except SystemExit as stop:
        return stop.code or 0
    return 0


def table_of(path):
    """A CSV as a list of dicts."""
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))
