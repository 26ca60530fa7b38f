"""SCL against its definition in slow float64 loops, and what must hold of every objective alike."""
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from loss import OBJECTIVES, scl

B = 3
T = 12
D = 5
NAMES = sorted(OBJECTIVES)
DRAWN = ['vsp', 'vsp_p', 'vsp_f', 'sal']    # their loss depends on random draws
NOT_DRAWN = [name for name in NAMES if name not in DRAWN]
PADDED = ((12, 12), (12, 7), (2, 9))
GOLDEN = Path(__file__).parent / 'golden' / 'scl.npz'


# ---------------------------------------------------------------- clips, and an objective on them

def batch(counts=PADDED, dtype=torch.float64, unit=True, T=T):
    """Random clips with counts[b][v] valid frames at random times; padding has the video's end."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor(counts)
    shape = (*counts.shape, T)
    z = torch.randn(*shape, D, generator=generator, dtype=torch.float64)
    if unit:
        z = F.normalize(z, dim=-1)
    time = torch.randint(1, 8, shape, generator=generator).cumsum(-1) - 1
    valid = torch.arange(T) < counts[..., None]
    last = (time * valid).amax(-1)
    time = torch.where(valid, time, last[..., None] + 2)
    return z.to(dtype), time, last + 3, valid


def make_classifier(dtype=torch.float64):
    torch.manual_seed(7)
    return torch.nn.Linear(3 * D, 2).to(dtype)


def frame_options(name, clips):
    """What an objective asks to know of each frame: its label, or what the teacher says of it."""
    z, time, _, _ = clips
    row = OBJECTIVES[name]
    options = {}
    if row.labels:
        options['labels'] = torch.where(time < 4, -1, time // 16 % D)
    if row.teacher:
        generator = torch.Generator().manual_seed(1)
        teacher = torch.randn(z.shape, generator=generator, dtype=torch.float64)
        options['teacher'] = teacher.to(z.device, z.dtype)
    return options


def compute(name, clips, seed=3, **options):
    """The loss, with the same classifier and the same random draws at every call."""
    z = clips[0]
    row = OBJECTIVES[name]
    dtype = torch.promote_types(z.dtype, torch.float32)
    options = frame_options(name, clips) | options
    if row.teacher:
        options['centre'] = torch.linspace(-.2, .2, D, dtype=dtype, device=z.device)
    if row.head and not row.loss_on_head_output:
        options['classifier'] = make_classifier(dtype).to(z.device)
    torch.manual_seed(seed)
    return row.loss(*clips, **options)


def of(name, *args, **kwargs):
    """`batch`, its embeddings as this objective wants them."""
    return batch(*args, unit=OBJECTIVES[name].unit_length, **kwargs)


def logsumexp(values):
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def sequences(clips):
    """(z, time, length, valid) -> [video][view] -> (z (n, D), times (n,), length), valid frames."""
    z, time, length, valid = clips
    videos = []
    for b in range(len(z)):
        views = []
        for v in range(2):
            there = valid[b, v]
            frames = z[b, v][there].detach().double().numpy()
            views.append((frames, time[b, v][there].tolist(), length[b, v].item()))
        videos.append(views)
    return videos


def check_golden(value, z, expected_value, expected_grad):
    """Value and gradient (of its largest) within 1e-5; in float64 both within 1e-8."""
    fine = z.dtype == torch.float64
    assert value.item() == pytest.approx(expected_value.item(), rel=1e-8 if fine else 1e-5)
    value.backward()
    largest = expected_grad.abs().max()
    error = (z.grad - expected_grad).abs().max()
    assert error <= largest * (1e-8 if fine else 1e-5)


# -------------------------------------------------------------------------------------------- SCL

def gauss(gap, sigma2):
    return float(np.float32(math.exp(-gap ** 2 / (2 * sigma2))))


def slow_scl(clips, negatives='single', sigma2=10., temperature=0.1):
    videos = sequences(clips)
    losses = []
    for number, views in enumerate(videos):
        total = 0.
        frames = 0
        for a, b in ((0, 1), (1, 0)):
            z_a, s_a, _ = views[a]
            z_b, s_b, _ = views[b]
            others = list(z_b)
            if negatives == 'batch':
                others = all_but(videos, number, a)
            for i in range(len(z_a)):
                frames += 1
                g = [gauss(s_a[i] - s, sigma2) for s in s_b]
                if sum(g) == 0:
                    continue
                below = logsumexp([z_a[i] @ z / temperature for z in others])
                for j in range(len(z_b)):
                    share = g[j] / sum(g)
                    if share > 0:
                        p = math.exp(z_a[i] @ z_b[j] / temperature - below)
                        total += share * (math.log(share) - math.log(p + 1e-6))
        losses.append(total / frames)
    return sum(losses) / len(losses)


def all_but(videos, number, view):
    """The frames of all views but one."""
    frames = []
    for b in range(len(videos)):
        for v in range(2):
            if (b, v) != (number, view):
                frames.extend(videos[b][v][0])
    return frames


OPTIONS = [{}, {'negatives': 'batch'}, {'sigma2': 3.}, {'temperature': 0.5}]


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_scl_equals_its_definition(options):
    clips = batch()
    expected = slow_scl(clips, **options)
    assert compute('scl', clips, **options).item() == pytest.approx(expected, rel=1e-6)
    in_float32 = compute('scl', (clips[0].float(), *clips[1:]), **options)
    assert in_float32.dtype == torch.float32
    assert in_float32.item() == pytest.approx(expected, rel=1e-5)


def read_golden(path):
    return {name: torch.from_numpy(np.asarray(array)) for name, array in np.load(path).items()}


def test_scl_golden():
    golden = read_golden(GOLDEN)
    about = golden['steps'], golden['seq_lens'], golden['masks'].bool()
    for i, expected in enumerate(golden['per_video_loss']):
        one = scl(golden['embs'][i:i + 1], *(x[i:i + 1] for x in about))
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=0)
    z = golden['embs'].requires_grad_()
    check_golden(scl(z, *about), z, golden['per_video_loss'].mean(), golden['per_video_mean_grad'])


def test_scl_golden_frames_without_a_target():
    golden = read_golden(GOLDEN)
    z = golden['gaps_embs'].requires_grad_()
    valid = torch.ones_like(golden['gaps_steps'], dtype=torch.bool)
    value = scl(z, golden['gaps_steps'], torch.full((1, 2), 900), valid)
    check_golden(value, z, golden['gaps_loss'], golden['gaps_grad'])


# --------------------------------------------------------------------- every objective: gradients

@pytest.mark.parametrize('name, options', [(name, {}) for name in NAMES] + [('scl', OPTIONS[1])])
def test_gradcheck(name, options):
    z, *about = of(name, ((5, 5), (5, 4)), T=5)

    def value(z):
        return compute(name, (z, *about), **options)
    assert torch.autograd.gradcheck(value, z.requires_grad_(), fast_mode=True)


# ----------------------------------------------------------------------- every objective: padding

@pytest.mark.parametrize('name', NAMES)
def test_padding_never_matters(name):
    """Whatever stands in padded frames or is said of them, the loss is the same and their gradient
    exactly zero."""
    z, *about = of(name, (*PADDED, (1, 2), (0, 3)), torch.float32)
    padding = ~about[-1]
    options = frame_options(name, (z, *about))
    results = []
    for label, content in enumerate((0., 1e4, math.nan, math.inf), -1):
        filled = z.masked_fill(padding[..., None], content).requires_grad_()
        if 'labels' in options:
            options['labels'] = options['labels'].masked_fill(padding, label)
        if 'teacher' in options:
            options['teacher'] = options['teacher'].masked_fill(padding[..., None], content)
        value = compute(name, (filled, *about), **options)
        value.backward()
        assert (filled.grad[padding] == 0).all()
        assert filled.grad[~padding].abs().max() > 0
        results.append((value, filled.grad))
    for value, grad in results:
        assert torch.equal(value, results[0][0])
        assert torch.equal(grad, results[0][1])


@pytest.mark.parametrize('name', NAMES)
def test_loss_and_gradient_stay_finite(name):
    """Of clips with nothing to learn from, of collapsed embeddings, of far ones."""
    z, *about = batch(dtype=torch.float32)
    scale = 0. if OBJECTIVES[name].unit_length else 100.
    cases = [(extreme, *about) for extreme in (torch.ones_like(z) / D ** 0.5, -z.abs(), z * scale)]
    cases.append(of(name, ((1, 1), (1, 1)), torch.float32))
    cases.append(of(name, ((0, 0), (0, 12), (2, 1), (0, 1)), torch.float32))
    for z, *about in cases:
        z = z.clone().requires_grad_()
        value = compute(name, (z, *about))
        value.backward()
        assert value.isfinite() and z.grad.isfinite().all()


@pytest.mark.parametrize('name', NAMES)
def test_autocast_changes_nothing(name):
    clips = of(name, dtype=torch.float32)
    expected = compute(name, clips)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(compute(name, clips), expected)


@pytest.mark.parametrize('name', NOT_DRAWN)
def test_videos_weigh_the_same(name):
    """One video's loss, then the mean. (VSP, SaL: the mean over the batch's bridges, triplets.)"""
    clips = of(name)
    options = frame_options(name, clips)
    each = []
    for b in range(B):
        of_one = {option: value[b:b + 1] for option, value in options.items()}
        each.append(compute(name, [x[b:b + 1] for x in clips], **of_one))
    torch.testing.assert_close(compute(name, clips), sum(each) / B, rtol=1e-9, atol=0)


@pytest.mark.parametrize('name', DRAWN)
def test_draws_follow_the_seed(name):
    clips = of(name)
    first = compute(name, clips, seed=0)
    assert torch.equal(compute(name, clips, seed=0), first)
    assert first != compute(name, clips, seed=1)
