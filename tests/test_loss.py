"""Every objective against its definition written out in slow float64 loops, and what else must hold of it."""
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import loss
from objectives import sal, vsp
from loss import OBJECTIVES

B, T, D = 3, 12, 5
NAMES = sorted(OBJECTIVES)
GOLDEN = Path(__file__).parent / 'golden' / 'scl.npz'


def batch(counts=((12, 12), (12, 7), (2, 9)), dtype=torch.float64, unit=True, T=T):
    """Random clips with counts[b][v] valid frames at random times; padding has the video's last frame."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor(counts)
    z = torch.randn(*counts.shape, T, D, generator=generator, dtype=torch.float64)
    z = F.normalize(z, dim=-1) if unit else z
    steps = torch.randint(1, 8, (*counts.shape, T), generator=generator)
    time = steps.cumsum(-1) - 1
    valid = torch.arange(T) < counts[..., None]
    last = (time * valid).amax(-1)
    time = torch.where(valid, time, last[..., None] + 2)
    return z.to(dtype), time, last + 3, valid


def make_classifier(dtype=torch.float64):
    torch.manual_seed(7)
    return torch.nn.Linear(3 * D, 2).to(dtype)


def compute(name, clips, **options):
    """The loss, with the same classifier and the same random draws at every call."""
    if name == 'sal':
        options['classifier'] = make_classifier(torch.promote_types(clips[0].dtype, torch.float32))
    torch.manual_seed(3)
    return OBJECTIVES[name].loss(*clips, **options)


# ---------------------------------------------------------------------------------- the definitions, in loops

def logsumexp(values):
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def sequences(clips):
    """(z, time, length, valid) -> [video][view] -> (z (n, D), times (n,), length) of the valid frames."""
    z, time, length, valid = clips
    return [[(z[b, v][valid[b, v]].double().numpy(), time[b, v][valid[b, v]].tolist(), length[b, v].item())
             for v in range(2)] for b in range(len(z))]


def slow_scl(clips, negatives='single', sigma2=10., temperature=0.1):
    videos = sequences(clips)
    losses = []
    for number, views in enumerate(videos):
        total, frames = 0., 0
        for a, b in ((0, 1), (1, 0)):
            (za, sa, na), (zb, sb, nb) = views[a], views[b]
            if negatives == 'single':
                rivals = list(zb)
            else:
                rivals = [z for other in range(len(videos)) for v in range(2) if (other, v) != (number, a)
                          for z in videos[other][v][0]]
            for i in range(len(za)):
                frames += 1
                gauss = [np.float32(math.exp(-(sa[i] * nb / na - s) ** 2 / (2 * sigma2))) for s in sb]
                if sum(gauss) == 0:
                    continue
                below = logsumexp([za[i] @ z / temperature for z in rivals])
                for j in range(len(zb)):
                    g = float(gauss[j]) / float(sum(gauss))
                    if g > 0:
                        p = math.exp(za[i] @ zb[j] / temperature - below)
                        total += g * (math.log(g) - math.log(p + 1e-6))
        losses.append(total / frames)
    return sum(losses) / len(losses)


def slow_tcn(clips):
    losses = []
    for views in sequences(clips):
        values = []
        for z, _, _ in views:
            pairs = [(z[2 * n], z[2 * n + 1]) for n in range(len(z) // 2)]
            for i, (anchor, positive) in enumerate(pairs):
                value = logsumexp([anchor @ other for _, other in pairs]) - anchor @ positive
                values.append(value + 0.25 * 0.002 * (anchor @ anchor + positive @ positive))
        losses.append(sum(values) / len(values))
    return sum(losses) / len(losses)


def slow_tcc(clips):
    def softmax(scores):
        return [math.exp(score - logsumexp(scores)) for score in scores]

    losses = []
    for views in sequences(clips):
        values = []
        for a, b in ((0, 1), (1, 0)):
            (u, times, length), (v, _, _) = views[a], views[b]
            t, n = [s / length for s in times], len(u)
            for i in range(n):
                alpha = softmax([-((u[i] - y) ** 2).sum() / D / 0.1 for y in v])
                there = sum(weight * y for weight, y in zip(alpha, v))
                beta = softmax([-((there - x) ** 2).sum() / D / 0.1 for x in u])
                mu = sum(weight * s for weight, s in zip(beta, t))
                var = sum(weight * (s - mu) ** 2 for weight, s in zip(beta, t))
                label = [0.1 / (n - 1) + (1 - n * 0.1 / (n - 1)) * (k == i) for k in range(n)]
                target = sum(weight * s for weight, s in zip(label, t))
                values.append((target - mu) ** 2 / var + 0.001 * math.log(var))
        losses.append(sum(values) / len(values))
    return sum(losses) / len(losses)


def slow_vsp(clips):
    torch.manual_seed(3)
    positions, exists = loss.draw_bridges(clips[3])
    bridges = [(clips[0][b, v].double().numpy(), positions[b, v, s].tolist())
               for b in range(len(positions)) for v in range(2) for s in range(5) if exists[b, v, s]]
    values = []
    for one, (z, (h, p, t)) in enumerate(bridges):
        alpha = (p - h) / (t - h)
        sigma = alpha * (t - p)

        def d(x):
            return -((x - (1 - alpha) * z[h] - alpha * z[t]) ** 2).sum() / (2 * sigma ** 2)
        rivals = [d(y[position]) for other, (y, three) in enumerate(bridges) if other != one
                  for position in three]
        values.append(logsumexp([d(z[p]), *rivals]) - d(z[p]))
    return sum(values) / len(values)


def slow_sal(clips):
    classifier = make_classifier()
    torch.manual_seed(3)
    positions, exists = loss.draw_triplets(clips[3])
    coin = torch.rand(exists.shape) < 0.5
    values = []
    for b, v, k in exists.nonzero().tolist():
        a, m, c = (clips[0][b, v, position].double() for position in positions[b, v, k].tolist())
        wrong = (m, a, c) if coin[b, v, k] else (a, c, m)
        for three, label in (((a, m, c), 1), (wrong, 0)):
            logits = classifier(torch.cat(three)).tolist()
            values.append(logsumexp(logits) - logits[label])
    return sum(values) / len(values)


def alignments(rows, columns):
    """Every path from (0, 0) to (rows - 1, columns - 1) by steps down, right and diagonal."""
    if rows == columns == 1:
        return [[(0, 0)]]
    shorter = [(rows - 1, columns), (rows, columns - 1), (rows - 1, columns - 1)]
    return [path + [(rows - 1, columns - 1)] for r, c in shorter if r and c for path in alignments(r, c)]


def slow_dtw(cost, gamma):
    """Soft-DTW by its recursion over single cells (hard for gamma 0)."""
    r = {(-1, -1): 0.}
    for i in range(len(cost)):
        for j in range(len(cost[0])):
            before = [r[cell] for cell in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if cell in r]
            best = -gamma * logsumexp([-x / gamma for x in before]) if gamma else min(before)
            r[i, j] = cost[i][j] + best
    return r[len(cost) - 1, len(cost[0]) - 1]


def slow_lav(clips):
    losses = []
    for views in sequences(clips):
        (za, _, _), (zb, _, _) = views
        total = slow_dtw([[((x - y) ** 2).sum() for y in zb] for x in za], 0.1)
        for z, times, length in views:
            for i in range(len(z)):
                for j in range(len(z)):
                    d = ((z[i] - z[j]) ** 2).sum()
                    if abs(times[i] - times[j]) <= 10:
                        total += 0.5 * d
                    else:
                        dt = times[i] / length - times[j] / length
                        total += 0.5 * (1 + dt ** 2) * max(0., 2 - d)
        losses.append(total / clips[0].shape[2])
    return sum(losses) / len(losses)


SLOW = {'scl': slow_scl, 'tcn': slow_tcn, 'tcc': slow_tcc, 'vsp': slow_vsp, 'sal': slow_sal, 'lav': slow_lav}


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('counts', [((12, 12),) * 3, ((12, 12), (12, 7), (2, 9))], ids=['full', 'padded'])
def test_equals_its_definition(name, counts):
    clips = batch(counts, unit=OBJECTIVES[name].unit)
    expected = SLOW[name](clips)
    assert compute(name, clips).item() == pytest.approx(expected, rel=1e-6)
    in_float32 = compute(name, (clips[0].float(), *clips[1:]))
    assert in_float32.dtype == torch.float32
    assert in_float32.item() == pytest.approx(expected, rel=2e-3 if name == 'tcc' else 1e-5)


def test_scl_batch_negatives_equal_the_definition():
    clips = batch()
    expected = slow_scl(clips, 'batch')
    assert compute('scl', clips, negatives='batch').item() == pytest.approx(expected, rel=1e-6)
    assert abs(expected - slow_scl(clips)) > 0.1
    one = [x[1:2] for x in clips]                      # with one video both rules name the same frames
    assert torch.equal(compute('scl', one, negatives='batch'), compute('scl', one))
    with pytest.raises(ValueError, match='single'):
        compute('scl', clips, negatives='none')


@pytest.mark.parametrize('option', [{'sigma2': 3.}, {'temperature': 0.5}])
def test_scl_options(option):
    clips = batch()
    assert compute('scl', clips, **option).item() == pytest.approx(slow_scl(clips, **option), rel=1e-6)


def test_scl_golden():
    golden = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN).items()}
    about = golden['steps'], golden['seq_lens'], golden['masks'].bool()
    for i, expected in enumerate(golden['per_video_loss']):
        one = loss.scl(golden['embs'][i:i + 1], *(x[i:i + 1] for x in about))
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=0)
    z = golden['embs'].requires_grad_()
    loss.scl(z, *about).backward()
    largest = golden['per_video_mean_grad'].abs().max()
    assert (z.grad - golden['per_video_mean_grad']).abs().max() <= 1e-5 * largest


def test_scl_golden_frames_without_a_target():
    golden = {name: torch.from_numpy(array) for name, array in np.load(GOLDEN).items()}
    z, steps = golden['gaps_embs'].requires_grad_(), golden['gaps_steps']
    value = loss.scl(z, steps, torch.full((1, 2), 900), torch.ones_like(steps, dtype=torch.bool))
    value.backward()
    torch.testing.assert_close(value, golden['gaps_loss'], rtol=1e-5, atol=0)
    assert (z.grad - golden['gaps_grad']).abs().max() <= 1e-5 * golden['gaps_grad'].abs().max()


# ---------------------------------------------------------------------------------------------- gradients

@pytest.mark.parametrize('name', NAMES)
def test_gradcheck(name):
    clips = batch(((6, 6), (6, 4)), unit=OBJECTIVES[name].unit, T=6)
    assert torch.autograd.gradcheck(lambda z: compute(name, (z, *clips[1:])), clips[0].requires_grad_())


def test_gradcheck_scl_batch_negatives():
    z, *about = batch(((4, 4), (4, 3)), T=4)
    assert torch.autograd.gradcheck(lambda z: loss.scl(z, *about, negatives='batch'), z.requires_grad_())


def test_gradcheck_soft_dtw():
    cost = torch.rand(2, 4, 5, dtype=torch.float64, requires_grad=True)
    rows, columns = torch.tensor([4, 3]), torch.tensor([5, 2])
    assert torch.autograd.gradcheck(lambda cost: loss.soft_dtw(cost, rows, columns, 0.3), cost)


# ------------------------------------------------------------------------------------------------ padding

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('name', NAMES)
def test_padding_never_matters(name, dtype):
    """Whatever stands in padded frames, the loss is the same and their gradient exactly zero."""
    z, *about = batch(((12, 12), (12, 7), (2, 9), (1, 2), (1, 1)), dtype, unit=OBJECTIVES[name].unit)
    valid = about[-1]
    results = []
    for content in (0., 1e4, math.nan, math.inf):
        filled = z.masked_fill(~valid[..., None], content).requires_grad_()
        value = compute(name, (filled, *about))
        value.backward()
        assert value.isfinite() and filled.grad.isfinite().all()
        assert (filled.grad[~valid] == 0).all() and filled.grad[valid].abs().max() > 0
        results.append((value, filled.grad))
    for value, grad in results[1:]:
        assert torch.equal(value, results[0][0]) and torch.equal(grad, results[0][1])


@pytest.mark.parametrize('name', NAMES)
def test_more_padding_changes_nothing(name, monkeypatch):
    z, time, length, valid = batch(unit=OBJECTIVES[name].unit)
    torch.manual_seed(3)
    triplets = loss.draw_triplets(valid)
    monkeypatch.setattr(sal, 'draw_triplets', lambda valid, count: triplets)   # its draws depend on T
    longer = F.pad(z, (0, 0, 0, 5)), F.pad(time, (0, 5)), length, F.pad(valid, (0, 5))
    share = (T + 5) / T if name == 'lav' else 1                                # LAV divides by T itself
    value = compute(name, (z, time, length, valid))
    torch.testing.assert_close(compute(name, longer) * share, value, rtol=1e-9, atol=0)


@pytest.mark.parametrize('name', NAMES)
def test_clips_without_anything_to_learn_from_stay_finite(name):
    for counts in (((1, 1), (1, 1)), ((0, 0), (0, 12)), ((2, 1), (0, 1))):
        z, *about = batch(counts, torch.float32, unit=OBJECTIVES[name].unit)
        z.requires_grad_()
        value = compute(name, (z, *about))
        value.backward()
        assert value.isfinite() and z.grad.isfinite().all()


@pytest.mark.parametrize('name', NAMES)
def test_collapsed_and_far_embeddings_stay_finite(name):
    z, *about = batch(dtype=torch.float32)
    for extreme in (torch.ones_like(z) / D ** 0.5, -z.abs(), z * 100 if not OBJECTIVES[name].unit else z * 0):
        extreme = extreme.clone().requires_grad_()
        value = compute(name, (extreme, *about))
        value.backward()
        assert value.isfinite() and extreme.grad.isfinite().all()


@pytest.mark.parametrize('name', NAMES)
def test_autocast_changes_nothing(name):
    clips = batch(dtype=torch.float32, unit=OBJECTIVES[name].unit)
    expected = compute(name, clips)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(compute(name, clips), expected)


# --------------------------------------------------------------------------------------------- invariances

@pytest.fixture
def same_draws(monkeypatch):
    """The draws of `batch`, made once, are handed out ever after, in an order that can be set."""
    torch.manual_seed(3)
    valid = batch()[-1]
    bridges, triplets = loss.draw_bridges(valid), loss.draw_triplets(valid)
    coin = torch.rand(triplets[1].shape)

    def arrange(order):  # order: indexes (B, 2, ...)
        monkeypatch.setattr(vsp, 'draw_bridges', lambda valid, segments: [x[order] for x in bridges])
        monkeypatch.setattr(sal, 'draw_triplets', lambda valid, count: [x[order] for x in triplets])
        monkeypatch.setattr(torch, 'rand', lambda *shape, **_: coin[order])
    return arrange


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('order', [[2, 0, 1], (slice(None), [1, 0])], ids=['videos', 'views'])
def test_order_of_videos_and_of_views_is_free(name, order, same_draws):
    clips = batch(unit=OBJECTIVES[name].unit)
    same_draws(slice(None))
    expected = compute(name, clips)
    same_draws(order)
    torch.testing.assert_close(compute(name, [x[order] for x in clips]), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize('name', ['scl', 'tcn', 'tcc', 'lav'])
def test_videos_weigh_the_same(name):
    """One video's loss, then the mean. (VSP and SaL: the mean over the batch's bridges and triplets.)"""
    clips = batch(unit=OBJECTIVES[name].unit)
    each = [compute(name, [x[b:b + 1] for x in clips]) for b in range(B)]
    torch.testing.assert_close(compute(name, clips), sum(each) / B, rtol=1e-9, atol=0)


@pytest.mark.parametrize('negatives, floor', [('single', 0.), ('batch', math.log(5))])
def test_scl_falls_as_matching_frames_get_nearer(negatives, floor):
    """... down to what is left where frames match: five equal frames of three videos share the batch's p."""
    first = torch.eye(T, dtype=torch.float64).expand(3, T, T)
    second = torch.randn(3, T, T, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    time = 20 * torch.arange(T).expand(3, 2, T)  # so far apart that each frame has one match alone
    length, valid = torch.full((3, 2), 20 * T), torch.ones(3, 2, T, dtype=torch.bool)
    values = []
    for share in torch.linspace(0, 1, 11, dtype=torch.float64):
        nearer = F.normalize(torch.lerp(F.normalize(second, dim=-1), first, share), dim=-1)
        z = torch.stack((first, nearer), 1)
        values.append(loss.scl(z, time, length, valid, negatives=negatives).item())
    assert all(later < earlier for earlier, later in zip(values, values[1:]))
    assert values[-1] == pytest.approx(floor, abs=1e-3)


def test_scl_reaches_zero_where_the_prediction_is_the_target():
    """Two frames a view, far apart in time and opposite in embedding: G is one-hot and so is p, to e^-20."""
    z = torch.tensor([[1., 0.], [-1., 0.]], dtype=torch.float64).expand(1, 2, 2, 2)
    time, length = torch.tensor([[[0, 90], [0, 90]]]), torch.full((1, 2), 91)
    value = loss.scl(z, time, length, torch.ones(1, 2, 2, dtype=torch.bool))
    assert abs(value.item()) < 2e-6


def test_tcc_has_no_gradient_at_a_perfect_cycle():
    """Frames far apart, the same in both sequences, in whatever order: every cycle comes home for certain."""
    _, *about = batch(((12, 12),))
    u = 60 * torch.eye(T, dtype=torch.float64)
    v = u[torch.randperm(T, generator=torch.Generator().manual_seed(0))]
    z = torch.stack((u, v))[None].requires_grad_()
    loss.tcc(z, *about).backward()
    assert (z.grad == 0).all()

    two_alike = u.clone()
    two_alike[4] = u[5] + 0.1  # now frame 4 may come home to 5
    z = torch.stack((two_alike, v))[None].requires_grad_()
    loss.tcc(z, *about).backward()
    assert z.grad.abs().max() > 1e-3


@pytest.mark.parametrize('gamma', [1., 0.1])
def test_soft_dtw_is_the_soft_minimum_over_all_alignments(gamma):
    cost = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, columns = torch.tensor([4, 2, 1]), torch.tensor([5, 5, 3])
    values = loss.soft_dtw(cost, rows, columns, gamma)
    for b in range(3):
        paths = alignments(rows[b].item(), columns[b].item())
        totals = [sum(cost[b, i, j].item() for i, j in path) for path in paths]
        assert values[b].item() == pytest.approx(-gamma * logsumexp([-x / gamma for x in totals]), rel=1e-9)


def test_soft_dtw_becomes_dtw():
    cost = 4 * torch.rand(2, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, columns = torch.tensor([9, 5]), torch.tensor([7, 7])
    hard = [slow_dtw(cost[b, :rows[b], :columns[b]].tolist(), 0) for b in range(2)]
    hard = torch.tensor(hard, dtype=torch.float64)
    gaps = [hard - loss.soft_dtw(cost, rows, columns, gamma) for gamma in (1., 0.1, 0.01, 1e-4)]
    assert all((gap > -1e-9).all() for gap in gaps)  # soft is never above hard
    assert all((later < earlier + 1e-9).all() for earlier, later in zip(gaps, gaps[1:]))
    assert (gaps[0] > 0.1).all() and (gaps[-1] < 1e-6).all()
    assert loss.soft_dtw(cost.float(), rows, columns, 1e-4).allclose(hard.float(), rtol=1e-5)


def test_soft_dtw_gradient_is_the_expected_alignment():
    """Ends are always matched, every row and column at least once; beyond the valid cells nothing is."""
    cost = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss.soft_dtw(cost.requires_grad_(), torch.tensor([5]), torch.tensor([4]), 0.1).sum().backward()
    share = cost.grad[0]
    assert share[0, 0] == pytest.approx(1) and share[4, 3] == pytest.approx(1)
    assert (share >= 0).all() and (share <= 1 + 1e-9).all()
    assert (share[:5].sum(1) >= 1 - 1e-9).all() and (share[:, :4].sum(0) >= 1 - 1e-9).all()
    assert (share[5:] == 0).all() and (share[:, 4:] == 0).all()


@pytest.mark.parametrize('gap, near', [(10, True), (11, False)])
def test_lav_window_is_in_whole_frames(gap, near):
    """At d = 2 a pair outside the window costs nothing; inside it costs d, whatever the video's length."""
    z = torch.eye(2, dtype=torch.float64).expand(1, 2, 2, 2)
    for length in (12, 30, 70, 1000):
        time = torch.tensor([[[0, gap], [0, gap]]])
        value = loss.lav(z, time, torch.full((1, 2), length), torch.ones(1, 2, 2).bool())
        expected = slow_dtw([[0., 2.], [2., 0.]], 0.1) + near * 0.5 * 2 * (2 + 2)
        assert value.item() == pytest.approx(expected / 2, rel=1e-9)


# ------------------------------------------------------------------------------------------- random choices

def test_bridges_span_their_segments():
    counts = torch.tensor([[3, 4], [5, 8], [16, 40], [80, 77], [0, 2], [1, 80]])
    valid = torch.arange(80) < counts[..., None]
    seen = set()
    for seed in range(200):
        torch.manual_seed(seed)
        positions, exists = loss.draw_bridges(valid)
        assert positions.shape == (6, 2, 5, 3) and exists.shape == (6, 2, 5)
        assert torch.equal(exists, (counts >= 3)[..., None].expand(-1, -1, 5))
        assert (positions >= 0).all() and (positions < valid.shape[2]).all()
        h, p, t = positions.unbind(-1)
        assert ((h < p) & (p < t) & (t < counts[..., None]))[exists].all()
        # 80 frames, last position 79: segments of 79 / 4.2 = 18.8, one every 15.05
        for s, (first, _, last) in enumerate(positions[3, 0].tolist()):
            start, end = s * 0.8 * 79 / 4.2, s * 0.8 * 79 / 4.2 + 79 / 4.2
            assert start - 1 <= first <= start + 0.2 * 79 / 4.2 and end - 0.2 * 79 / 4.2 <= last <= end + 1
        seen.add(tuple(positions[3, 0, 2].tolist()))
    firsts, middles, lasts = (set(column) for column in zip(*seen))
    assert len(firsts) >= 4 and len(lasts) >= 4 and len(middles) >= 12  # all of it is drawn, and widely


def test_triplets_are_three_different_valid_frames_in_order():
    counts = torch.tensor([[3, 4], [12, 8], [2, 1]])
    valid = torch.arange(12) < counts[..., None]
    torch.manual_seed(0)
    positions, exists = loss.draw_triplets(valid, 400)
    a, b, c = positions.unbind(-1)
    assert torch.equal(exists, (counts >= 3)[..., None].expand(-1, -1, 400))
    assert ((a < b) & (b < c) & (c < counts[..., None]))[exists].all()
    assert set(map(tuple, positions[0, 1].tolist())) == set(combinations(range(4), 3))


def test_sal_learns_what_order_is():
    """Where embeddings tell the time, the classifier finds the shuffled triplets; where not, it guesses."""
    valid = torch.ones(4, 2, T, dtype=torch.bool)
    time = torch.arange(T).expand(4, 2, T)
    clock = torch.linspace(-1, 1, T)[:, None].expand(4, 2, T, D)
    torch.manual_seed(0)
    for z, low, high in ((clock, 0., 0.1), (torch.ones_like(clock), 0.6931, 0.7)):
        classifier = torch.nn.Sequential(torch.nn.Linear(3 * D, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
        optimiser = torch.optim.Adam(classifier.parameters(), lr=0.02)
        for _ in range(300):
            value = loss.sal(z, time, torch.full((4, 2), T), valid, classifier=classifier)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        assert low <= value.item() < high


@pytest.mark.parametrize('name', ['vsp', 'sal'])
def test_draws_follow_the_seed(name):
    clips, options = batch(), {'classifier': make_classifier()} if name == 'sal' else {}
    torch.manual_seed(0)
    first, second = (OBJECTIVES[name].loss(*clips, **options) for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(OBJECTIVES[name].loss(*clips, **options), first) and first != second


# ----------------------------------------------------------------------------------------------- the hot path

class Count(TorchDispatchMode):
    operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('name', [*NAMES, 'scl batch'])
def test_no_loop_over_videos_and_nothing_waits(name):
    """As many operations for nine videos as for two; on the meta device reading a value is an error."""
    name, *negatives = name.split()
    more = {'negatives': negatives[0]} if negatives else {}
    counts = []
    for videos in (2, 9):
        z, *about = (x.to('meta') for x in batch(((12, 7),) * videos, torch.float32))
        if name == 'sal':
            more['classifier'] = torch.nn.Linear(3 * D, 2, device='meta')
        with Count() as count:  # on the undecorated function: autocast does not know the meta device
            value = OBJECTIVES[name].loss.__wrapped__(z.requires_grad_(), *about, **more)
            value.backward()
        assert value.shape == () and value.device.type == 'meta'
        counts.append(count.operations)
    assert counts[0] == counts[1]
