"""TCN, TCC, LAV, SaL, VSP, VSP-P, VSP-F, distillation, supervised: each against its definition."""
import math
from itertools import combinations
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from loss import OBJECTIVES
from objectives.distill import Teacher, distill_head, momentum, new_centre
from objectives.sal import draw_triplets
from objectives.vsp import draw_bridges, draw_phases, phase_contrast
from test_alignment import slow_lav
from test_loss import (D, PADDED, batch, check_golden, compute, frame_options, logsumexp,
                       make_classifier, of, read_golden, sequences)

GOLDEN = Path(__file__).parent / 'golden' / 'objectives_more.npz'


# ---------------------------------------------------------------------- the definitions, in loops
# Each gives lists of values, one a video (SaL: one a batch): the loss is their means' mean.

def slow_tcn(clips):
    for views in sequences(clips):
        values = []
        for z, _, _ in views:
            anchors = z[0:len(z) // 2 * 2:2]
            positives = z[1::2]
            for i, (anchor, positive) in enumerate(zip(anchors, positives)):
                value = logsumexp([anchor @ other for other in positives]) - anchor @ positive
                values.append(value + 0.25 * 0.002 * (anchor @ anchor + positive @ positive))
        yield values


def mean(values):
    return sum(values) / max(1, len(values))


def softmax(scores):
    below = logsumexp(scores)
    return [math.exp(score - below) for score in scores]


def weighted(weights, values):
    return sum(weight * value for weight, value in zip(weights, values))


def slow_tcc(clips):
    for views in sequences(clips):
        values = []
        for a, b in ((0, 1), (1, 0)):
            u, times, length = views[a]
            v = views[b][0]
            t = [s / length for s in times]
            n = len(u)
            for i in range(n):
                alpha = softmax([-((u[i] - y) ** 2).sum() / D / 0.1 for y in v])
                there = weighted(alpha, v)
                beta = softmax([-((there - x) ** 2).sum() / D / 0.1 for x in u])
                mu = weighted(beta, t)
                var = weighted(beta, [(s - mu) ** 2 for s in t])
                label = [0.1 / (n - 1)] * n
                label[i] += 1 - n * 0.1 / (n - 1)
                values.append((weighted(label, t) - mu) ** 2 / var + 0.001 * math.log(var))
        yield values


def slow_sal(clips):
    classifier = make_classifier()
    torch.manual_seed(3)
    positions, exists = draw_triplets(clips[3])
    coin = torch.rand(exists.shape) < 0.5
    values = []
    for b, v, k in exists.nonzero().tolist():
        x, y, w = clips[0][b, v, positions[b, v, k]].double()
        wrong = (y, x, w) if coin[b, v, k] else (x, w, y)
        for three, label in (((x, y, w), 1), (wrong, 0)):
            logits = classifier(torch.cat(three)).tolist()
            values.append(logsumexp(logits) - logits[label])
    yield values


def slow_supervised(clips):
    labels = frame_options('supervised', clips)['labels']
    z, _, _, valid = clips
    for b in range(len(z)):
        values = []
        for v, i in valid[b].nonzero().tolist():
            label = labels[b, v, i].item()
            if label != -1:
                values.append(-math.log(softmax(z[b, v, i].tolist())[label]))
        yield values


# scl: test_loss.py; gta: test_alignment.py; the others: golden numbers below
SLOW = {'tcn': slow_tcn, 'tcc': slow_tcc, 'lav': slow_lav, 'sal': slow_sal,
        'supervised': slow_supervised}


@pytest.mark.parametrize('name', SLOW)
def test_equals_its_definition(name):
    clips = of(name)
    expected = mean([mean(values) for values in SLOW[name](clips)])
    assert compute(name, clips).item() == pytest.approx(expected, rel=1e-6)
    in_float32 = compute(name, (clips[0].float(), *clips[1:]))
    assert in_float32.dtype == torch.float32
    assert in_float32.item() == pytest.approx(expected, rel=2e-3 if name == 'tcc' else 1e-5)


# ------------------------------------------------------------------------- what is drawn at random

def test_triplets_are_three_different_valid_frames_in_order():
    counts = torch.tensor([[3, 4], [12, 8], [2, 1]])
    valid = torch.arange(12) < counts[..., None]
    torch.manual_seed(0)
    positions, exists = draw_triplets(valid, 400)
    a, b, c = positions.unbind(-1)
    assert torch.equal(exists, (counts >= 3)[..., None].expand(-1, -1, 400))
    assert ((a < b) & (b < c) & (c < counts[..., None]))[exists].all()
    assert set(map(tuple, positions[0, 1].tolist())) == set(combinations(range(4), 3))


def test_bridges_span_their_segments():
    """80 frames, last position 79: segments of 79 / 4.2 = 18.8, one every 15.05."""
    counts = torch.tensor([[80, 80]] * 60 + [[3, 4], [16, 40], [0, 2]])
    exists = (counts >= 3)[..., None].expand(-1, -1, 5)
    torch.manual_seed(0)
    bridges = draw_bridges(torch.arange(80) < counts[..., None])
    h, p, t = bridges.unbind(-1)
    assert ((0 <= h) & (h < p) & (p < t) & (t < counts[..., None]))[exists].all()
    assert (bridges[~exists] == 0).all()
    width = 79 / 4.2
    start = torch.arange(5) * 0.8 * width
    assert ((start - 1 <= h) & (h <= start + 0.2 * width))[:60].all()
    assert ((start + 0.8 * width <= t) & (t <= start + width + 1))[:60].all()
    for drawn, least in (h, 4), (p, 10), (t, 4):           # all is drawn, and widely
        assert len(drawn[:60, :, 2].unique()) >= least


def test_phases_are_the_stretches_of_one_label():
    """Of three frames or more; a label that comes back is another phase."""
    labels = torch.tensor([0, 0, 0, 1, 1, -1, -1, -1, 2, 2, 2, 2, 0, 0, 0]).expand(1, 2, 15)
    valid = torch.arange(15) < torch.tensor([[15], [11]])
    drawn = [draw_phases(labels, valid[None]) for _ in range(50)]
    h, p, t = drawn[0].unbind(-1)
    assert h.tolist() == [[[0, 8, 12, 0, 0], [0, 8, 0, 0, 0]]]
    assert t.tolist() == [[[2, 11, 14, 0, 0], [2, 10, 0, 0, 0]]]
    assert (p[t == 0] == 0).all()
    assert {bridges[0, 0, 1, 1].item() for bridges in drawn} == {9, 10}


# -------------------------------------------------------------------------------- golden numbers

def two_views(array):
    """(B, ...) -> (B, 2, ...): the second view is all zeros, and holds no bridge."""
    return torch.stack((array, torch.zeros_like(array)), 1)


@pytest.mark.parametrize('case', ['one', 'two'])
def test_vsp_golden_bridges(case):
    golden = read_golden(GOLDEN)
    z = two_views(golden[f'vsp_p/{case}/z']).double().requires_grad_()
    bridges = two_views(golden[f'vsp_p/{case}/bridges'])
    time = torch.arange(z.shape[2]).expand(z.shape[:3])
    valid = torch.ones_like(time, dtype=torch.bool)
    length = torch.full(z.shape[:2], z.shape[2])
    value = OBJECTIVES['vsp'].loss(z, time, length, valid, bridges=bridges)
    check_golden(value, z, golden[f'vsp_p/{case}/loss'], two_views(golden[f'vsp_p/{case}/grad']))


def test_vsp_f_golden_contrast():
    """The repaired term; the released one, a share that is minimised, has the other sign."""
    golden = read_golden(GOLDEN)
    z = golden['vsp_p/one/z'].double().requires_grad_()
    middles = z[torch.arange(6), golden['vsp_p/one/bridges'][:, 0, 1]]
    labels = 10 * golden['vsp_f/action'] + golden['vsp_f/phase']
    value = phase_contrast(middles, labels, torch.ones(6, dtype=torch.bool))
    check_golden(value, z, golden['vsp_f/repaired_loss'], golden['vsp_f/repaired_grad'])
    assert (z.grad * golden['vsp_f/released_grad']).sum() < 0


def test_vsp_f_is_the_walk_and_the_contrast():
    clips = of('vsp_f')
    labels = frame_options('vsp_f', clips)['labels']
    torch.manual_seed(3)
    bridges = draw_phases(labels, clips[3])
    walk = compute('vsp', clips, bridges=bridges)
    b, v, s = bridges[..., 1].nonzero(as_tuple=True)                  # of the bridges that exist
    p = bridges[b, v, s, 1]
    contrast = phase_contrast(clips[0][b, v, p], labels[b, v, p], p > 0)
    assert len(p) > 4 and contrast > 0
    torch.testing.assert_close(compute('vsp_f', clips, weight=2.), walk + 2 * contrast)


def test_distill_golden():
    golden = read_golden(GOLDEN)
    golden = {name.split('/')[1]: golden[name] for name in golden if 'frame_distill' in name}
    z = golden['student'].double().requires_grad_()
    about = golden['time'], golden['time'].amax(-1) + 1, golden['valid']
    value = OBJECTIVES['distill'].loss(z, *about, teacher=golden['teacher'],
                                       centre=golden['center'], window=golden['window'].item())
    check_golden(value, z, golden['loss'], golden['grad'])
    after = new_centre(golden['center'], golden['teacher'], golden['valid'])
    torch.testing.assert_close(after, golden['center_after'])


def test_distill_is_made_of_svt():
    """The authors' loss over 2 teacher and 10 student views, from ours of two views, one frame."""
    golden = read_golden(GOLDEN)
    student = golden['svt/student']                                   # (10, B, K)
    said = golden['svt/teacher'].transpose(0, 1)[:, :, None]          # (B, 2, 1, K)
    time = torch.zeros(said.shape[:3], dtype=torch.int64)
    about = time, time[..., 0] + 1, time == 0

    def both_ways(first, second):  # H(teacher 1, first) + H(teacher 0, second)
        z = torch.stack((student[first], student[second]), 1)[:, :, None]
        return 2 * OBJECTIVES['distill'].loss(z, *about, teacher=said, centre=golden['svt/center'])

    total = sum(both_ways(0, v) for v in range(1, 10))
    total += sum(both_ways(v, 1) for v in range(10) if v != 1)
    total -= 9 * both_ways(0, 1)
    assert (total / 18).item() == pytest.approx(golden['svt/loss'].item(), rel=1e-9)

    after = new_centre(golden['svt/center'], said, about[-1])
    torch.testing.assert_close(after, golden['svt/center_after'])
    values = [momentum(step / 12) for step in range(12)]
    assert values == pytest.approx(golden['svt/momentum'].tolist(), rel=1e-12)


def test_centre_is_that_of_all_processes(monkeypatch):
    """Two processes played one after the other: what the first sends, the second adds.

    Their numbers of valid frames differ, so that a mean of means would be another centre.
    """
    teacher, _, _, valid = batch((*PADDED, (4, 1)))
    centre = torch.ones(D, dtype=torch.float64)
    expected = new_centre(centre, teacher, valid)
    sent = []
    monkeypatch.setattr(dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(dist, 'all_reduce', lambda tensor: sent.append(tensor.clone()))
    new_centre(centre, teacher[0::2], valid[0::2])
    monkeypatch.setattr(dist, 'all_reduce', lambda tensor: tensor.add_(sent.pop(0)))
    value = new_centre(centre, teacher[1::2], valid[1::2])
    torch.testing.assert_close(value, expected)
    assert valid[0::2].sum() != valid[1::2].sum() and not sent


# ------------------------------------------------------------------------------------ the teacher

class Student(torch.nn.Module):
    """What a teacher must know of MVFormer."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(3, 8)
        self.mtf = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5))
        self.head = distill_head(8, logits=16)
        self.register_buffer('statistics', torch.zeros(2))

    def forward(self, clips, valid, project, unit_length):
        assert project and not unit_length
        return self.head(self.mtf(self.backbone(clips)))


def test_teacher_is_a_copy_on_the_same_backbone():
    """Its centre starts at its first mean. What a checkpoint keeps of it: test_train.py."""
    torch.manual_seed(0)
    student = Student()
    teacher = Teacher(student)
    assert teacher.model.backbone is student.backbone
    clips = torch.randn(4, 6, 3)
    valid = torch.arange(6) < torch.tensor([6, 6, 4, 1])[:, None]
    logits = teacher(clips, valid)['teacher'].flatten(0, 1)
    assert not logits.requires_grad
    mean = logits[valid].mean(0)
    torch.testing.assert_close(teacher.centre, mean)

    with torch.no_grad():
        for weight in (*student.parameters(), *student.buffers()):
            weight.add_(1)
    slow = teacher.model.head[0].weight.clone()
    teacher.follow(student, progress=0)
    torch.testing.assert_close(teacher.model.head[0].weight, slow + 0.004)
    assert torch.equal(teacher.model.statistics, student.statistics)
    torch.testing.assert_close(teacher.centre, mean)
    later = teacher(clips, valid)['teacher'].flatten(0, 1)[valid].mean(0)
    teacher.follow(student, progress=0)
    torch.testing.assert_close(teacher.centre, 0.9 * mean + 0.1 * later)
