"""The objectives that align two sequences: soft-DTW and LAV, smooth DTW and GTA."""
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from objectives.alignment import alignment_table, expected_maximum
from objectives.gta import gta
from test_loss import batch, check_golden, compute, logsumexp, read_golden, sequences

GOLDEN = Path(__file__).parent / 'golden' / 'objectives_more.npz'


def soft(values, gamma=0.1):
    return -gamma * logsumexp([-x / gamma for x in values])


def expected(values, gamma=0.1):
    below = logsumexp([-x / gamma for x in values])
    return sum(math.exp(-x / gamma - below) * x for x in values)


def slow_table(cost, minimum):
    """The table of alignment cell by cell, {(i, j): r_ij}."""
    r = {}
    for i in range(len(cost)):
        for j in range(len(cost[0])):
            neighbours = [(i - 1, j), (i, j - 1), (i - 1, j - 1)]
            before = [r[cell] for cell in neighbours if cell in r]
            r[i, j] = float(cost[i][j]) + (minimum(before) if before else 0.)
    return r


def slow_dtw(cost, minimum):
    return slow_table(cost, minimum)[len(cost) - 1, len(cost[0]) - 1]


# -------------------------------------------------------------------------------------- the table

@pytest.mark.parametrize('shape', [(5, 7), (7, 5), (1, 4), (1, 1)])
def test_every_cell_of_the_smooth_table(shape):
    """Also in float32: a constant far away outside the table takes part in no cell."""
    generator = torch.Generator().manual_seed(0)
    cost = 4 * torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    table = alignment_table(cost, expected_maximum, 0.1)
    in_float32 = alignment_table(cost.float(), expected_maximum, 0.1)
    assert table.shape == cost.shape
    for b in range(2):
        for (i, j), value in slow_table(cost[b].tolist(), expected).items():
            assert table[b, i, j].item() == pytest.approx(value, rel=1e-12)
            assert in_float32[b, i, j].item() == pytest.approx(value, rel=1e-5)


# -------------------------------------------------------------------------------------------- LAV

def spread(z, times, length):
    """C(a), written out."""
    total = 0.
    for i in range(len(z)):
        for j in range(len(z)):
            d = ((z[i] - z[j]) ** 2).sum()
            if abs(times[i] - times[j]) <= 10:
                total += d
            else:
                dt = times[i] / length - times[j] / length
                total += (1 + dt ** 2) * max(0., 2 - d)
    return total


def squared_distances(z_a, z_b):
    return ((z_a[:, None] - z_b[None]) ** 2).sum(-1)


def slow_lav(clips):
    """Of each video, for test_objectives.py."""
    for a, b in sequences(clips):
        total = slow_dtw(squared_distances(a[0], b[0]), soft)
        total += 0.5 * (spread(*a) + spread(*b))
        yield [total / clips[0].shape[2]]


# -------------------------------------------------------------------------------------------- GTA

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('pair', [0, 1])
def test_gta_golden(pair, dtype):
    golden = read_golden(GOLDEN)
    counts = []
    sides = {}
    for side in ('a', 'b', 'grad_a', 'grad_b'):
        frames = golden[f'gta/{pair}/{side}']
        counts.append(len(frames))
        sides[side] = F.pad(frames, (0, 0, 0, 7 - len(frames)))
    z = torch.stack((sides['a'], sides['b']))[None].to(dtype).requires_grad_()
    grad = torch.stack((sides['grad_a'], sides['grad_b']))[None]
    valid = (torch.arange(7) < torch.tensor(counts[:2])[:, None])[None]
    time = torch.arange(7).expand(1, 2, 7)
    value = gta(z, time, torch.full((1, 2), 7), valid)
    check_golden(value, z, golden[f'gta/{pair}/loss'], grad)


def test_gta_leaves_out_a_pair_of_which_one_has_no_frames():
    clips = batch(((12, 12), (12, 7), (0, 9), (5, 0)))
    first_two = [x[:2] for x in clips]
    torch.testing.assert_close(compute('gta', clips), compute('gta', first_two))


def test_gta_long_clips_in_float32():
    """240 frames, whose columns of the table span hundreds: float32 agrees with float64."""
    z, *about = batch(((240, 201),), T=240)
    about[-1] = torch.arange(240) < torch.tensor([[[240], [201]]])
    exact = gta(z, *about)
    z = z.float().requires_grad_()
    value = gta(z, *about)
    value.backward()
    assert z.grad.isfinite().all()
    assert value.item() == pytest.approx(exact.item(), rel=1e-4)
