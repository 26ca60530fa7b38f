"""The bench: what it compares with is the same, and all of its parts run, also those for a GPU."""
import bench
import numpy as np
import pytest
import torch

import data
import evaluate
from backbones.weights import ModelError
from loss import scl
from model import BACKBONES
from speed import plain
from speed.measure import DEVICE
from speed.scores import embedded
from speed.training import batch_of, made_videos, prepared, released_stepper, stepper, work_of
from speed.trust import stop_after


@pytest.mark.parametrize('part', [part for part in bench.PARTS if part != 'startup'])
def test_every_part_runs(part, capsys):
    """Also what only a GPU is asked for: the same code in small."""
    bench.main(['--tiny', '--only', part])
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith('  ')]
    assert rows and all(len(line) > 46 for line in rows), lines


def test_every_size_names_what_there_is():
    for sizes in (bench.GPU, bench.CPU, bench.TINY):
        names = [name for name, _ in sizes.backbones] + [sizes.resumed]
        names += [changes['backbone'] for _, changes in sizes.steps if 'backbone' in changes]
        assert set(names) <= set(BACKBONES)
        assert {dataset for dataset, _ in sizes.steps + sizes.fed} <= set(data.DATASETS)


def test_the_released_form_of_a_step_is_the_same_step():
    """One batch, the same weights and the same dropout: loss and weights after the step agree."""
    dataset, changes = bench.TINY_STEP
    found = []
    for make in (stepper, lambda s, model: released_stepper(s, model, torch.float32)):
        s, model = prepared(dataset, **changes)
        batch = batch_of(s, made_videos(bench.TINY, s))
        step = make(s, model)
        torch.manual_seed(1)
        result = step(batch)
        loss = result[0] if isinstance(result, tuple) else result
        found.append((loss, torch.cat([weight.flatten() for weight in model.parameters()])))
    (ours, our_weights), (theirs, their_weights) = found
    torch.testing.assert_close(ours, theirs)
    untrained = torch.cat([weight.flatten() for weight in prepared(dataset, **changes)[1].parameters()])
    moved = (our_weights - untrained).norm()
    assert (our_weights - their_weights).norm() < 0.02 * moved
