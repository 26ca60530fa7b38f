"""LSTP folded and plain, token merging, and how time and memory grow."""
from functools import partial

import numpy as np
import torch

import data
import evaluate
from evaluation.embedding import embed_splits
from lstp import LSTP
from mtf import MTF
from speed.measure import (
    CUDA, DEVICE, DTYPE, autocast, bytes_needed, compare, cost, row, size, span, timed)
from speed.beside import embedded
from speed.training import prepared


def pooling(sizes):
    frames, patches_of_one, channels = sizes.patches
    pool = LSTP(channels, entities=3).to(DEVICE)
    patches = torch.randn(frames, patches_of_one, channels, device=DEVICE).to(DTYPE)
    direction = torch.randn(frames, 3, pool.width, device=DEVICE)

    def forward(form):
        with autocast(DTYPE):
            return form(patches)[0]

    def both_ways(form):
        pool.zero_grad()
        (forward(form).float() * direction).sum().backward()

    row(f'LSTP: {frames} frames, P {patches_of_one}, L*C {channels}, N 3',
        'plain', 'folded', 'faster', 'memory, plain', 'folded')
    for name, run in (('forward', forward), ('forward and backward', both_ways)):
        plainly = partial(run, pool.attend_plainly)
        folded = partial(run, pool)
        compare(name, plainly, folded, size(bytes_needed(plainly)), size(bytes_needed(folded)),
                runs=sizes.runs)
    difference = (forward(pool.attend_plainly) - forward(pool)).abs().max()
    row('  largest difference', f'{difference:.1e}')


def merging(sizes):
    """What --merge K saves: neighbouring frames share their tokens in the MTF's transformer."""
    T, N = sizes.merge
    row(f'merge K: MTF, and backward, T {T}, N {N}', 'time', 'of K 1', 'memory', 'of K 1')
    merges = (1, 2, 4)
    runs = [passing(T, N, backward=True, views=2, merge=k) for k in merges]
    times = timed(*runs, runs=sizes.runs)
    needed = [bytes_needed(run) for run in runs]
    for k, one_time, one_size in zip(merges, times, needed):
        row(f'  K {k}', span(one_time), f'{one_time / times[0]:.2f}',
            size(one_size), f'{one_size / max(1, needed[0]):.2f}')


def passing(frames, entities, backward, views=1, merge=1):
    """A function that takes one video through the MTF, as in training or as in evaluation."""
    mtf = MTF(384, entities, frames=80, merge=merge).to(DEVICE).train(backward)
    tokens = torch.randn(views, frames, entities, 384, device=DEVICE)

    def train():
        mtf.zero_grad()
        with autocast(DTYPE):
            z = mtf(tokens)
        z.float().sum().backward()

    def evaluate_it():
        with torch.no_grad():
            mtf(tokens)

    return train if backward else evaluate_it


# --------------------------------------------------------------------------------------------------
# Growth

def growth(sizes):
    """Frames, entities and videos against time and memory."""
    lengths = sizes.lengths
    most = sizes.most_tokens
    ways = {'one video, forward': (False, most), 'one view, and backward': (True, most // 2)}
    for what, (backward, most) in ways.items():
        row(f'MTF, {what}', *(f'T {frames}' for frames in lengths))
        for entities in (1, 3, 6):
            mtf_row(entities, lengths, backward, most)
    row('videos of 20 to 40 frames', *(f'{count} videos' for count in sizes.videos))
    embedding_row(sizes.videos, sizes.image_size)
    metric_rows(sizes.videos)


def mtf_row(entities, lengths, backward, most):
    cells = []
    for frames in lengths:
        too_long = not CUDA and frames * entities > most
        cells.append('on a GPU' if too_long else cost(passing(frames, entities, backward)))
    row(f'  N {entities}', *cells)


def embedding_row(counts, image_size):
    _, network = prepared('synthetic', image_size=image_size)
    network.eval()
    frames = torch.randint(0, 256, (40, 3, 64, 64), dtype=torch.uint8)
    videos = []
    for i, n in enumerate(np.random.default_rng(0).integers(20, 41, counts[-1])):
        videos.append(data.Video(f'{i}', partial(int, n), frames.__getitem__))
    cells = []
    for count in counts:
        embed = partial(embed_splits, {'': network}, {'val': videos[:count]},
                        dict(dataset='synthetic', workers=0), thin=False)
        cells.append(cost(embed) if CUDA or count <= 100 else 'on a GPU')
    row('  embedding, tiny backbone', *cells)


def metric_rows(counts):
    cells = {'classification': [], 'progression': [], "Kendall's tau": [], 'AP@5': []}
    for count in counts:
        train = embedded(count, 1, 20, 40)
        val = embedded(count, 2, 20, 40)
        calls = [partial(evaluate.classification, *train, *val),
                 partial(evaluate.progression, *train, *val),
                 partial(evaluate.kendalls_tau, val[0]), partial(evaluate.retrieval, *val)]
        for own, call in zip(cells.values(), calls):
            own.append(cost(call))
    for name, own in cells.items():
        row('  ' + name, *own)
