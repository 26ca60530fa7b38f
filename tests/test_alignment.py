"""The objectives that align two sequences: soft-DTW and LAV, smooth DTW and GTA."""
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from objectives.alignment import alignment_table, expected_maximum
from objectives.gta import gta
from objectives.lav import lav, soft_dtw
from test_loss import (FULL, PADDED, batch, check_golden, compute, logsumexp, read_golden,
                       sequences)

GOLDEN = Path(__file__).parent / 'golden' / 'objectives_more.npz'


def alignments(rows, columns):
    """Every path from (0, 0) to (rows - 1, columns - 1) by steps down, right and diagonal."""
    if rows == columns == 1:
        return [[(0, 0)]]
    paths = []
    for r, c in ((rows - 1, columns), (rows, columns - 1), (rows - 1, columns - 1)):
        if r and c:
            paths += [path + [(rows - 1, columns - 1)] for path in alignments(r, c)]
    return paths


def hard(values):
    return min(values)


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

@pytest.mark.parametrize('gamma', [1., 0.1])
def test_soft_dtw_is_the_soft_minimum_over_all_alignments(gamma):
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(3, 4, 5, generator=generator, dtype=torch.float64)
    rows = torch.tensor([4, 2, 1])
    columns = torch.tensor([5, 5, 3])
    values = soft_dtw(cost, rows, columns, gamma)
    for b in range(3):
        totals = []
        for path in alignments(rows[b].item(), columns[b].item()):
            totals.append(sum(cost[b, i, j].item() for i, j in path))
        assert values[b].item() == pytest.approx(soft(totals, gamma), rel=1e-9)


def test_soft_dtw_becomes_dtw():
    generator = torch.Generator().manual_seed(0)
    cost = 4 * torch.rand(2, 9, 7, generator=generator, dtype=torch.float64)
    rows = torch.tensor([9, 5])
    columns = torch.tensor([7, 7])
    dtw = [slow_dtw(cost[b, :rows[b], :columns[b]].tolist(), hard) for b in range(2)]
    dtw = torch.tensor(dtw, dtype=torch.float64)
    gaps = [dtw - soft_dtw(cost, rows, columns, gamma) for gamma in (1., 0.1, 0.01, 1e-4)]
    assert all((gap > -1e-9).all() for gap in gaps)  # soft is never above hard
    assert all((later < earlier + 1e-9).all() for earlier, later in zip(gaps, gaps[1:]))
    assert (gaps[0] > 0.1).all() and (gaps[-1] < 1e-6).all()
    assert soft_dtw(cost.float(), rows, columns, 1e-4).allclose(dtw.float(), rtol=1e-5)


def test_soft_dtw_gradient_is_the_expected_alignment():
    """Ends are always matched, rows and columns at least once, beyond the valid cells nothing."""
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(1, 6, 6, generator=generator, dtype=torch.float64).requires_grad_()
    soft_dtw(cost, torch.tensor([5]), torch.tensor([4]), 0.1).sum().backward()
    share = cost.grad[0]
    assert share[0, 0] == pytest.approx(1) and share[4, 3] == pytest.approx(1)
    assert (share >= 0).all() and (share <= 1 + 1e-9).all()
    assert (share[:5].sum(1) >= 1 - 1e-9).all()
    assert (share[:, :4].sum(0) >= 1 - 1e-9).all()
    assert (share[5:] == 0).all() and (share[:, 4:] == 0).all()


def test_gradcheck_soft_dtw():
    cost = torch.rand(2, 4, 5, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([4, 3])
    columns = torch.tensor([5, 2])

    def value(cost):
        return soft_dtw(cost, rows, columns, 0.3)
    assert torch.autograd.gradcheck(value, cost)


@pytest.mark.parametrize('shape', [(5, 7), (7, 5), (1, 4), (4, 1), (1, 1)])
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
    losses = []
    for a, b in sequences(clips):
        total = slow_dtw(squared_distances(a[0], b[0]), soft)
        total += 0.5 * (spread(*a) + spread(*b))
        losses.append(total / clips[0].shape[2])
    return sum(losses) / len(losses)


@pytest.mark.parametrize('gap, near', [(10, True), (11, False)])
@pytest.mark.parametrize('length', [12, 30, 70, 1000])
def test_lav_window_is_in_whole_frames(gap, near, length):
    """At d = 2 a pair outside the window costs nothing; inside it costs d, at any length."""
    z = torch.eye(2, dtype=torch.float64).expand(1, 2, 2, 2)
    time = torch.tensor([[[0, gap], [0, gap]]])
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    value = lav(z, time, torch.full((1, 2), length), valid)
    total = slow_dtw([[0., 2.], [2., 0.]], soft)
    if near:
        total += 0.5 * 2 * (2 + 2)
    assert value.item() == pytest.approx(total / 2, rel=1e-9)


# -------------------------------------------------------------------------------------------- GTA

def cost_and_arrival(a, b):
    """D(a, b), and softmax over a's frames of minus the table, {(i, j): weight}."""
    cost = []
    below = [logsumexp([x @ y / 0.1 for x in a]) for y in b]
    for x in a:
        cost.append([below[j] - x @ b[j] / 0.1 for j in range(len(b))])
    table = slow_table(cost, expected)
    weights = {}
    for j in range(len(b)):
        total = logsumexp([-table[i, j] for i in range(len(a))])
        for i in range(len(a)):
            weights[i, j] = math.exp(-table[i, j] - total)
    return table[len(a) - 1, len(b) - 1], weights


def slow_gta(clips):
    losses = []
    for views in sequences(clips):
        a = views[0][0]
        b = views[1][0]
        n = len(a)
        there_cost, A = cost_and_arrival(a, b)
        back_cost, B = cost_and_arrival(b, a)
        cycle = 0.
        for i in range(n):
            P = []
            for k in range(n):
                P.append(sum(A[k, j] * B[j, i] for j in range(len(b))))
            assert sum(P) == pytest.approx(1)
            for k in range(n):
                y = 0.1 / n
                if k == i:
                    y += 0.9
                cycle -= y * (P[k] - logsumexp(P)) / n
        losses.append(cycle + 0.1 * there_cost + 0.1 * back_cost)
    return sum(losses) / len(losses)


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


@pytest.mark.parametrize('pair', [0, 1])
def test_gta_table_is_the_authors(pair):
    golden = read_golden(GOLDEN)
    a = golden[f'gta/{pair}/a']
    b = golden[f'gta/{pair}/b']
    cost = -(a @ b.T / 0.1).log_softmax(0)
    table = alignment_table(cost[None], expected_maximum, 0.1)[0]
    torch.testing.assert_close(table, golden[f'gta/{pair}/table_ab'], rtol=1e-9, atol=0)


def test_gta_cycles_from_the_first_sequence_alone():
    """The two distances are the same whichever sequence is first, the cycle is not."""
    clips = batch()
    swapped = [x.flip(1) for x in clips]
    assert abs(compute('gta', clips) - compute('gta', swapped)) > 1e-3
    heavy = dict(weight=1e6)
    torch.testing.assert_close(compute('gta', clips, **heavy), compute('gta', swapped, **heavy),
                               rtol=1e-6, atol=0)


def test_gta_numbers_of_its_definition():
    """20 equal embeddings a view: each D is 20 log 20. One frame: its contrastive cost is 0."""
    z = torch.ones(1, 2, 20, 1, dtype=torch.float64)
    about = torch.arange(20).expand(1, 2, 20), torch.full((1, 2), 20)
    value = gta(z, *about, torch.ones(1, 2, 20, dtype=torch.bool), weight=1.)
    distances = 2 * 20 * math.log(20)
    assert 2.17 < value - distances < 3.08
    one = torch.arange(20) < torch.tensor([[[1], [1]]])
    assert gta(z, *about, one).item() == pytest.approx(0, abs=1e-12)


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


# ------------------------------------------------------------------------------------ definitions

@pytest.mark.parametrize('name, slow', [('lav', slow_lav), ('gta', slow_gta)])
@pytest.mark.parametrize('counts', [FULL, PADDED], ids=['full', 'padded'])
def test_equals_its_definition(name, slow, counts):
    clips = batch(counts)
    value = slow(clips)
    assert compute(name, clips).item() == pytest.approx(value, rel=1e-6)
    in_float32 = compute(name, (clips[0].float(), *clips[1:]))
    assert in_float32.dtype == torch.float32
    assert in_float32.item() == pytest.approx(value, rel=1e-5)
