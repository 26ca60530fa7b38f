"""SCL against its definition in slow float64 loops, and what must hold of every objective alike."""
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from loss import OBJECTIVES, scl, without_target

B = 3
T = 12
D = 5
NAMES = sorted(OBJECTIVES)
WITH_DRAWS = ['vsp', 'vsp_p', 'vsp_f', 'sal']
WITHOUT_DRAWS = [name for name in NAMES if name not in WITH_DRAWS]
FULL = ((12, 12),) * 3
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


def compute(name, clips, **options):
    """The loss, with the same classifier and the same random draws at every call."""
    z = clips[0]
    row = OBJECTIVES[name]
    dtype = torch.promote_types(z.dtype, torch.float32)
    options = frame_options(name, clips) | options
    if row.teacher:
        options['centre'] = torch.linspace(-.2, .2, D, dtype=dtype, device=z.device)
    if row.head and not row.loss_on_head_output:
        options['classifier'] = make_classifier(dtype).to(z.device)
    torch.manual_seed(3)
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
    """Value within 1e-5, gradient within 1e-4 of its largest; in float64 both within 1e-8."""
    fine = z.dtype == torch.float64
    assert value.item() == pytest.approx(expected_value.item(), rel=1e-8 if fine else 1e-5)
    value.backward()
    largest = expected_grad.abs().max()
    error = (z.grad - expected_grad).abs().max()
    assert error <= largest * (1e-8 if fine else 1e-4)


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


@pytest.mark.parametrize('counts', [FULL, PADDED], ids=['full', 'padded'])
def test_scl_equals_its_definition(counts):
    clips = batch(counts)
    expected = slow_scl(clips)
    assert compute('scl', clips).item() == pytest.approx(expected, rel=1e-6)
    in_float32 = compute('scl', (clips[0].float(), *clips[1:]))
    assert in_float32.dtype == torch.float32
    assert in_float32.item() == pytest.approx(expected, rel=1e-5)


def test_scl_batch_negatives_equal_the_definition():
    clips = batch()
    expected = slow_scl(clips, 'batch')
    assert compute('scl', clips, negatives='batch').item() == pytest.approx(expected, rel=1e-6)
    assert abs(expected - slow_scl(clips)) > 0.1
    one = [x[1:2] for x in clips]  # with one video both rules name the same frames
    assert torch.equal(compute('scl', one, negatives='batch'), compute('scl', one))
    with pytest.raises(ValueError, match='single'):
        compute('scl', clips, negatives='none')


@pytest.mark.parametrize('option', [{'sigma2': 3.}, {'temperature': 0.5}])
def test_scl_options(option):
    clips = batch()
    expected = slow_scl(clips, **option)
    assert compute('scl', clips, **option).item() == pytest.approx(expected, rel=1e-6)


def read_golden(path):
    return {name: torch.from_numpy(np.asarray(array)) for name, array in np.load(path).items()}


def test_scl_golden():
    golden = read_golden(GOLDEN)
    about = golden['steps'], golden['seq_lens'], golden['masks'].bool()
    for i, expected in enumerate(golden['per_video_loss']):
        one = scl(golden['embs'][i:i + 1], *(x[i:i + 1] for x in about))
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=0)
    z = golden['embs'].requires_grad_()
    scl(z, *about).backward()
    largest = golden['per_video_mean_grad'].abs().max()
    assert (z.grad - golden['per_video_mean_grad']).abs().max() <= 1e-5 * largest


def test_scl_golden_frames_without_a_target():
    golden = read_golden(GOLDEN)
    z = golden['gaps_embs'].requires_grad_()
    steps = golden['gaps_steps']
    valid = torch.ones_like(steps, dtype=torch.bool)
    value = scl(z, steps, torch.full((1, 2), 900), valid)
    value.backward()
    torch.testing.assert_close(value, golden['gaps_loss'], rtol=1e-5, atol=0)
    largest = golden['gaps_grad'].abs().max()
    assert (z.grad - golden['gaps_grad']).abs().max() <= 1e-5 * largest


@pytest.mark.parametrize('sigma2', [10., 90.])
def test_share_of_frames_without_a_target(sigma2):
    """Videos thinned out to 16 frames: those that lie far from all frames of the other view."""
    time = torch.arange(16) * torch.tensor([[5], [40], [200]])
    time = torch.stack((time, time + 7 * torch.arange(16)), 1)         # (3, 2, 16)
    valid = torch.ones_like(time, dtype=torch.bool)
    valid[2, 0, 9:] = False
    alone = 0
    for b, v, i in valid.nonzero().tolist():
        gaps = [abs(time[b, v, i] - s) for s in time[b, 1 - v][valid[b, 1 - v]]]
        alone += sum(gauss(gap, sigma2) for gap in gaps) == 0
    assert alone > 0
    share = without_target(time, valid, sigma2)
    assert share.item() == pytest.approx(alone / valid.sum().item())


def test_scl_reaches_zero_where_the_prediction_is_the_target():
    """Two frames a view, far apart in time, opposite in embedding: G is one-hot, and p to e^-20."""
    z = torch.tensor([[1., 0.], [-1., 0.]], dtype=torch.float64).expand(1, 2, 2, 2)
    time = torch.tensor([[[0, 90], [0, 90]]])
    length = torch.full((1, 2), 91)
    value = scl(z, time, length, torch.ones(1, 2, 2, dtype=torch.bool))
    assert abs(value.item()) < 2e-6


def test_gradcheck_scl_batch_negatives():
    z, *about = batch(((4, 4), (4, 3)), T=4)

    def value(z):
        return scl(z, *about, negatives='batch')
    assert torch.autograd.gradcheck(value, z.requires_grad_())


# --------------------------------------------------------------------- every objective: gradients

@pytest.mark.parametrize('name', NAMES)
def test_gradcheck(name):
    z, *about = of(name, ((6, 6), (6, 4)), T=6)

    def value(z):
        return compute(name, (z, *about))
    assert torch.autograd.gradcheck(value, z.requires_grad_())


# ----------------------------------------------------------------------- every objective: padding

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('name', NAMES)
def test_padding_never_matters(name, dtype):
    """Whatever stands in padded frames, the loss is the same and their gradient exactly zero."""
    z, *about = of(name, (*PADDED, (1, 2), (1, 1)), dtype)
    valid = about[-1]
    results = []
    for content in (0., 1e4, math.nan, math.inf):
        filled = z.masked_fill(~valid[..., None], content).requires_grad_()
        value = compute(name, (filled, *about))
        value.backward()
        assert value.isfinite() and filled.grad.isfinite().all()
        assert (filled.grad[~valid] == 0).all()
        assert filled.grad[valid].abs().max() > 0
        results.append((value, filled.grad))
    for value, grad in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(grad, results[0][1])


@pytest.mark.parametrize('name', ['distill', 'supervised', 'vsp_f', 'vsp_p'])
def test_what_is_said_of_padded_frames_never_matters(name):
    clips = of(name, (*PADDED, (0, 3)))
    padding = ~clips[-1]
    options = frame_options(name, clips)
    for option, content in (('labels', 1), ('teacher', math.nan)):
        if option in options:
            changed = options[option].clone()
            changed[padding] = content
            value = compute(name, clips, **{option: changed})
            assert torch.equal(value, compute(name, clips))


@pytest.mark.parametrize('name', WITHOUT_DRAWS)
def test_more_padding_changes_nothing(name):
    clips = of(name)
    z, time, length, valid = clips
    longer = F.pad(z, (0, 0, 0, 5)), F.pad(time, (0, 5)), length, F.pad(valid, (0, 5))
    options = frame_options(name, clips)
    if 'labels' in options:
        options['labels'] = F.pad(options['labels'], (0, 5))
    if 'teacher' in options:
        options['teacher'] = F.pad(options['teacher'], (0, 0, 0, 5))
    value = compute(name, longer, **options)
    if name == 'lav':  # divides by T itself
        value = value * (T + 5) / T
    torch.testing.assert_close(value, compute(name, clips), rtol=1e-9, atol=0)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('counts', [((1, 1), (1, 1)), ((0, 0), (0, 12)), ((2, 1), (0, 1))])
def test_clips_without_anything_to_learn_from_stay_finite(name, counts):
    z, *about = of(name, counts, torch.float32)
    z.requires_grad_()
    value = compute(name, (z, *about))
    value.backward()
    assert value.isfinite() and z.grad.isfinite().all()


@pytest.mark.parametrize('name', NAMES)
def test_collapsed_and_far_embeddings_stay_finite(name):
    z, *about = batch(dtype=torch.float32)
    scale = 0. if OBJECTIVES[name].unit_length else 100.
    for extreme in (torch.ones_like(z) / D ** 0.5, -z.abs(), z * scale):
        extreme = extreme.clone().requires_grad_()
        value = compute(name, (extreme, *about))
        value.backward()
        assert value.isfinite() and extreme.grad.isfinite().all()


@pytest.mark.parametrize('name', NAMES)
def test_autocast_changes_nothing(name):
    clips = of(name, dtype=torch.float32)
    expected = compute(name, clips)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(compute(name, clips), expected)


# ------------------------------------------------------------------- every objective: invariances

ORDERS = {'videos': [2, 0, 1], 'views': (slice(None), [1, 0])}
# GTA's cycle starts from the first sequence alone: see test_alignment.py
FREE = [(name, order) for name in WITHOUT_DRAWS for order in ORDERS]
FREE.remove(('gta', 'views'))


@pytest.mark.parametrize('name, which', FREE)
def test_order_of_videos_and_of_views_is_free(name, which):
    order = ORDERS[which]
    clips = of(name)
    options = frame_options(name, clips)
    expected = compute(name, clips)
    arranged = {option: value[order] for option, value in options.items()}
    value = compute(name, [x[order] for x in clips], **arranged)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize('name', WITHOUT_DRAWS)
def test_videos_weigh_the_same(name):
    """One video's loss, then the mean. (VSP, SaL: the mean over the batch's bridges, triplets.)"""
    clips = of(name)
    options = frame_options(name, clips)
    each = []
    for b in range(B):
        of_one = {option: value[b:b + 1] for option, value in options.items()}
        each.append(compute(name, [x[b:b + 1] for x in clips], **of_one))
    torch.testing.assert_close(compute(name, clips), sum(each) / B, rtol=1e-9, atol=0)


@pytest.mark.parametrize('name', WITH_DRAWS)
def test_draws_follow_the_seed(name):
    clips = of(name)
    options = frame_options(name, clips)
    if name == 'sal':
        options['classifier'] = make_classifier()
    loss = OBJECTIVES[name].loss
    torch.manual_seed(0)
    first = loss(*clips, **options)
    second = loss(*clips, **options)
    torch.manual_seed(0)
    assert torch.equal(loss(*clips, **options), first)
    assert first != second


# ---------------------------------------------------------------- every objective: its head -------

@pytest.mark.parametrize('name', NAMES)
def test_the_head_of_its_row_fits_the_loss(name):
    """Embedding of width 8 -> head, where z passes it -> loss -> a gradient for every weight."""
    row = OBJECTIVES[name]
    torch.manual_seed(0)
    embed = torch.nn.Linear(D, 8)
    modules = [embed]
    clips = batch(dtype=torch.float32)
    options = frame_options(name, clips)
    z = embed(clips[0])
    if row.head:
        head = row.head(8, 5 if row.labels else None)
        modules.append(head)
        if row.loss_on_head_output:
            z = head(z.flatten(0, 2)).unflatten(0, (B, 2, T))
        else:
            options['classifier'] = head
    if row.unit_length:
        z = F.normalize(z, dim=-1)
    if row.teacher:
        options['teacher'] = torch.randn(z.shape)
        options['centre'] = torch.zeros(z.shape[-1])
    value = row.loss(z, *clips[1:], **options)
    value.backward()
    assert value.shape == ()
    for module in modules:
        for weight in module.parameters():
            assert weight.grad.isfinite().all()
    assert embed.weight.grad.abs().max() > 0
