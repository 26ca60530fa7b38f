"""Two videos aligned: for every frame of one, the frame of the other that shows the same moment, by
dynamic time warping: the best match from end to end that never runs backwards. It may differ from
the clock, which says that what is i/n into one is i/n into the other.
"""
import csv
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from datasets.folder import video_at
from datasets.layout import readable, say
from evaluation.embedding import embed_splits
from pictures.film import play
from running.errors import UserError
from running.processes import is_rank0

CELLS = 5_000 ** 2     # pairs of frames; longer videos are matched at every second or third frame
RATE = 25.             # frames a second, where a video does not say
CLOCK = 'hardly more than the clock'


def dtw(cost):
    """Dynamic time warping. cost (n, m) -> the path int64 (steps, 2) from (0, 0) to (n-1, m-1).

    total(i, j) = cost(i, j) + min(total(i-1, j-1), total(i-1, j), total(i, j-1))
    goes by anti-diagonals, i + j: the cells of one depend only on the two before it.
    """
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for both in range(2, n + m + 1):
        i = np.arange(max(1, both - m), min(n, both - 1) + 1)
        j = both - i
        before = np.minimum(total[i - 1, j], total[i, j - 1])
        total[i, j] = cost[i - 1, j - 1] + np.minimum(before, total[i - 1, j - 1])
    path = [(n, m)]
    while path[-1] != (1, 1):
        i, j = path[-1]
        path.append(min((i - 1, j - 1), (i - 1, j), (i, j - 1), key=total.__getitem__))
    return np.array(path[::-1]) - 1


def match(a, b):
    """Embeddings (n, D) and (m, D), unit length -> for each of the n the middle one of those of the
    m on its path, (n,)."""
    every = math.ceil(math.sqrt(len(a) * len(b) / CELLS))
    i, j = dtw(1 - a[::every] @ b[::every].T).T
    found = np.bincount(i, j) // np.bincount(i) * every
    return np.interp(np.arange(len(a)), np.arange(len(a))[::every], found).astype(int)


def by_clock(n, m):
    """Pure time stretching: where the middle of each of n frames is among m -> (n,)."""
    return ((np.arange(n) + 0.5) * m / n).astype(int)


def known_times(videos):
    """Seconds of every video's frames; where it says none, at RATE -> [(n,)], [note]."""
    times = []
    notes = []
    for video in videos:
        seconds = video.seconds()
        if seconds is None:
            seconds = np.arange(video.frames) / RATE
            notes.append(f'{video.name}: no times in it, taken as {RATE:g} frames a second')
        times.append(seconds)
    return times, notes


def as_filmed(videos):
    """Videos that are squashed to the model's square -> the same in their own shape."""
    return [replace(video, decode=partial(video.decode, size=None)) for video in videos]


def read_at(video, indices):
    """Yield the frames at `indices`, which never run backwards, uint8 (H, W, 3): the file is opened
    once, and one frame held at a time."""
    positions, counts = np.unique(video.positions(indices), return_counts=True)
    for frame, count in zip(video.decode(positions), counts):
        yield from [frame.permute(1, 2, 0).numpy()] * count


def compare(a, b, matched, seconds):
    """One sentence on how a match differs from pure time stretching. Embeddings a (n, D), b (m, D),
    matched (n,), seconds of b's frames (m,)."""
    stretched = by_clock(len(a), len(b))
    frames = np.abs(matched - stretched)
    away = np.abs(seconds[matched] - seconds[stretched])
    similarity, by_stretching = [(a * b[of]).sum(1).mean() for of in (matched, stretched)]
    sentence = (f'on average the match is {away.mean():.2f} s ({frames.mean():.1f} frames) '
                f'from pure time stretching, at most {away.max():.2f} s; similarity '
                f'{similarity:.3f}, by time stretching {by_stretching:.3f}')
    if frames.mean() < max(1, len(seconds) / 100):
        sentence += f'; it says {CLOCK}'
    return sentence


def align(videos, embeddings, out):
    """The first video at its own speed, each other one following, frame by frame as matched.

    videos: [Video]; embeddings: [(n, D)] of all of their frames.
    Writes the film `out`, an mp4, and beside it a table, its name with .csv: each frame of the
    first, the matched frame, both times in seconds, similarity. -> notes, one sentence a video.
    Errors: UserError, OSError.
    """
    times, notes = known_times(videos)
    names = [video.name for video in videos]
    a = embeddings[0]
    matches = [np.arange(len(a))]
    at = [times[0]]
    rows = [['video', 'frame_a', 'frame_b', 'seconds_a', 'seconds_b', 'similarity']]
    for k, b in enumerate(embeddings[1:], 1):
        matched = match(a, b)
        matches.append(matched)
        at.append(times[k][matched])
        similarity = (a * b[matched]).sum(1)
        for i, j in enumerate(matched):
            seconds = [f'{times[0][i]:.3f}', f'{times[k][j]:.3f}']
            rows.append([names[k], i, j, *seconds, f'{similarity[i]:.4f}'])
        sentence = compare(a, b, matched, times[k])
        notes.append(f'{names[k]}: {sentence}')
        if sentence.endswith(CLOCK):
            names[k] += f': {CLOCK}'
    n = len(videos)
    columns = n if n < 4 else math.ceil(math.sqrt(n))
    length = at[0][-1] - at[0][0]
    rate = (len(a) - 1) / length if length > 0 else RATE
    play(out, names, map(read_at, videos, matches), rate, columns=columns, at=at, unit='seconds',
         title='the most similar moment of each, matched by dynamic time warping')
    # the table last: one without its film would stand in the way of the same command
    with open(Path(out).with_suffix('.csv'), 'w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows(rows)
    return notes


def align_files(network, settings, paths, out):
    """What evaluate.py's --align does. paths: of files or folders of images, each one sequence for
    the model, however long: halves with a position code each would be two videos. Errors:
    UserError, OSError."""
    videos = []
    for path in paths:
        name = readable(path, path.parent.parent)    # its folder's and its own
        videos.append(video_at(name, path, network.backbone.image_size))
    _, embeddings, skipped = embed_splits(
        {'model': network}, {'align': videos}, settings, thin=True)
    if not is_rank0():
        return
    for reason in skipped:
        raise UserError(f'{reason}; leave it out or mend it')
    for note in align(as_filmed(videos), embeddings['model']['align'], out):
        say(note)
    say(f'written: {out}, {out.with_suffix(".csv")}')
