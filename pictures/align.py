"""Two videos aligned: for every frame of one, the frame of the other that shows the same moment.

    dtw        dynamic time warping: the best match from end to end that never runs backwards
    nearest    the most similar frame, whatever its place

Both may differ from the clock, which says that what is i/n into one is i/n into the other.
"""
import csv
import math
from functools import partial
from pathlib import Path

import numpy as np

from pictures.film import Curves, Panel, play

CELLS = 5_000 ** 2     # pairs of frames; longer videos are matched at every second or third frame
PART = 16              # frames decoded at once, of any size
RATE = 25.             # frames a second, where a video does not say
CLOCK = 'hardly more than the clock'
SLOW = 10.             # frames a second of a film of frames that have no time


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


def by_dtw(similarity):
    """similarity (n, m) -> for each of the n the middle one of those on its path, (n,)."""
    i, j = dtw(1 - similarity).T
    first = np.searchsorted(i, np.arange(len(similarity)))
    last = np.searchsorted(i, np.arange(len(similarity)), 'right') - 1
    return (j[first] + j[last]) // 2


METHODS = {'dtw': by_dtw, 'nearest': partial(np.argmax, axis=1)}


def by_clock(n, m):
    """Pure time stretching: where the middle of each of n frames is among m -> (n,)."""
    return ((np.arange(n) + 0.5) * m / n).astype(int)


def match(a, b, method='dtw'):
    """Embeddings (n, D) and (m, D), unit length -> for each of the n a frame of the m, (n,)."""
    every = math.ceil(math.sqrt(len(a) * len(b) / CELLS))
    found = METHODS[method](a[::every] @ b[::every].T) * every
    return np.interp(np.arange(len(a)), np.arange(len(a))[::every], found).astype(int)


def known_times(videos, times):
    """Seconds of every video's frames; where they are not known, at RATE -> [(n,)], [note]."""
    notes = []
    complete = list(times)
    for number, video in enumerate(videos):
        if times[number] is None:
            complete[number] = np.arange(video.frames) / RATE
            notes.append(f'{video.name}: no times in it, taken as {RATE:g} frames a second')
    return complete, notes


def read_at(video, indices):
    """Yield the frames at `indices`, in that order, uint8 (H, W, 3), holding a few at a time.

    Where the indices never run backwards, the file is opened once.
    """
    positions = video.positions(indices)
    if (np.diff(positions) >= 0).all():
        distinct, counts = np.unique(positions, return_counts=True)
        for frame, count in zip(video.decode(distinct), counts):
            yield from [frame.permute(1, 2, 0).numpy()] * count
        return
    for start in range(0, len(indices), PART):
        for frame in video.read(indices[start:start + PART]):
            yield frame.permute(1, 2, 0).numpy()


def compare(matched, similarity, seconds, stretched, stretched_similarity):
    """One sentence on how a match differs from pure time stretching. Arrays (n,)."""
    frames = np.abs(matched - stretched)
    away = np.abs(seconds[matched] - seconds[stretched])
    sentence = (f'on average the match is {away.mean():.2f} s ({frames.mean():.1f} frames) '
                f'from pure time stretching, at most {away.max():.2f} s; similarity '
                f'{similarity.mean():.3f}, by time stretching {stretched_similarity.mean():.3f}')
    if frames.mean() < max(1, len(seconds) / 100):
        sentence += f'; it says {CLOCK}'
    return sentence


def align(videos, embeddings, out, *, times, method='dtw'):
    """The first video at its own speed, each other one following, frame by frame as matched.

    videos: [Video]; embeddings: [(n, D)] of all of their frames; times: [(n,) seconds or None].
    Writes the film `out`, an mp4, and beside it a table, its name with .csv: each frame of the
    first, the matched frame, both times in seconds, similarity. -> notes, one sentence a video.
    Errors: UserError, OSError.
    """
    times, notes = known_times(videos, times)
    names = [video.name for video in videos]
    a = embeddings[0]
    matches = [np.arange(len(a))]
    rows = [['video', 'frame_a', 'frame_b', 'seconds_a', 'seconds_b', 'similarity']]
    for k, b in enumerate(embeddings[1:], 1):
        matched = match(a, b, method)
        stretched = by_clock(len(a), len(b))
        similarity = (a * b[matched]).sum(1)
        by_stretching = (a * b[stretched]).sum(1)
        sentence = compare(matched, similarity, times[k], stretched, by_stretching)
        notes.append(f'{names[k]}: {sentence}')
        for i, j in enumerate(matched):
            seconds = [f'{times[0][i]:.3f}', f'{times[k][j]:.3f}']
            rows.append([names[k], i, j, *seconds, f'{similarity[i]:.4f}'])
        matches.append(matched)
        if sentence.endswith(CLOCK):
            names[k] += f': {CLOCK}'
    shown = [own[matched] for own, matched in zip(times, matches)]
    title = f'the most similar moment of each, matched by {method}'
    film_alignment(out, videos, matches, names=names, times=shown, title=title)
    # the table last: one without its film would stand in the way of the same command
    with open(Path(out).with_suffix('.csv'), 'w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows(rows)
    return notes


def film_alignment(path, videos, indices, *, names=None, times=None, title=''):
    """The film: videos in a grid, and under them where each follower stands.

    indices: [(n,)] which frame of each video is shown; times: [(n,)] its seconds, if it has any;
    names: what is written over each, if not its name.
    """
    names = names or [video.name for video in videos]
    frames = map(read_at, videos, indices)
    panels = list(map(Panel, names, frames, times or [None] * len(videos)))
    unit = 'seconds' if times else 'frame'
    x, *others = times or indices
    lines = {}
    for number, (video, line) in enumerate(zip(videos[1:], others), 2):
        lines[f'{number}. {video.name}'] = line
    curves = Curves(x, lines, f'{unit} of {videos[0].name}', f'{unit} of the other')
    rate = SLOW
    if times and x[-1] > x[0]:
        rate = (len(x) - 1) / (x[-1] - x[0])
    columns = len(videos) if len(videos) < 4 else math.ceil(math.sqrt(len(videos)))
    play(path, panels, rate, curves=curves, columns=columns, title=title)
