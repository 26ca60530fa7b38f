"""The bench: what it compares with is the same, and all of its parts run, also those for a GPU."""
from functools import partial

import pytest
import torch

import bench
from speed import beside, measure
from speed.training import batch_of, made_videos, prepared, released_stepper, stepper, work_of

DATASET, CHANGES = bench.TINY_STEP


@pytest.mark.parametrize('part', list(bench.PARTS))
def test_every_part_runs(part, capsys):
    """Also what only a GPU is asked for: the same code in small."""
    bench.main(['--tiny', '--only', part])
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith('  ')]
    assert rows
    assert min(map(len, rows)) > 45        # none without a value


def test_the_released_form_of_a_step_is_the_same_step():
    """One batch, the same weights and the same dropout: loss and weights after the step agree."""
    ours, our_weights = after_a_step(stepper)
    theirs, their_weights = after_a_step(partial(released_stepper, dtype=torch.float32))
    torch.testing.assert_close(ours, theirs)
    _, untrained = prepared(DATASET, **CHANGES)
    moved = (our_weights - flat(untrained)).norm()
    assert moved > 0
    assert (our_weights - their_weights).norm() < 0.02 * moved


def after_a_step(make):
    s, model = prepared(DATASET, **CHANGES)
    step = make(s, model)
    torch.manual_seed(1)
    loss = step(batch_of(s, made_videos(bench.TINY, s)))
    return loss, flat(model)


def flat(model):
    return torch.cat([weight.flatten() for weight in model.parameters()]).detach()


def test_the_work_of_a_frame_is_what_pytorch_counts():
    """Of the backbone, run on the CPU; there PyTorch passes over the two products of attention."""
    s, model = prepared(DATASET, **CHANGES)
    images = torch.randn(1, 3, s.image_size, s.image_size)
    counted = measure.flops(lambda: model.features(images))
    tokens = 1 + model.backbone.grid ** 2
    attention = len(model.backbone.blocks) * 4 * tokens ** 2 * model.backbone.width
    frozen, trained = work_of(s)
    assert 2 * frozen == counted + attention
    rows = [weight for weight in model.mtf.blocks.parameters() if weight.dim() == 2]
    assert trained > s.entities * sum(weight.numel() for weight in rows)


def test_a_job_is_done_in_two_checkouts(monkeypatch, capsys):
    job = 'labelled frames of 300,000'
    monkeypatch.setattr(beside, 'JOBS', {job: None})
    monkeypatch.setattr(beside, 'write_files', lambda folder: None)
    beside.compare_checkouts(str(beside.ROOT), runs=1)
    line, = [line for line in capsys.readouterr().out.splitlines() if job in line]
    assert line.endswith(' 0.0e+00')          # the same project, the same result
