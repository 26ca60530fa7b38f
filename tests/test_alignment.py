"""The objectives that align two sequences: soft-DTW and LAV, smooth DTW and GTA."""
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from objectives.gta import gta
from test_loss import batch, check_golden, compute, logsumexp, read_golden, sequences

GOLDEN = Path(__file__).parent / 'golden' / 'objectives_more.npz'


def soft_dtw(cost, gamma=0.1):
    """The cost of aligning two sequences, cell by cell, r_ij."""
    r = {}
    for i, j in np.ndindex(cost.shape):
        neighbours = [(i - 1, j), (i, j - 1), (i - 1, j - 1)]
        before = [-r[cell] / gamma for cell in neighbours if cell in r]
        r[i, j] = cost[i, j] - (gamma * logsumexp(before) if before else 0)
    return r[i, j]


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


def slow_lav(clips):
    """Of each video, for test_objectives.py."""
    for a, b in sequences(clips):
        total = soft_dtw(((a[0][:, None] - b[0]) ** 2).sum(-1))
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
