"""SCL beside a plain loop; classification and progression beside the calls that the field makes."""
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

import data
import evaluate
from loss import scl
from speed import plain
from speed.beside import embedded
from speed.measure import DEVICE, compare, row


def contrast(sizes):
    """SCL of a batch at once beside one pair of views after the other."""
    rng = np.random.default_rng(0)
    videos, T, D = sizes.pairs
    z = F.normalize(torch.randn(videos, 2, T, D, device=DEVICE), dim=-1).requires_grad_()
    lengths = rng.integers(T // 2, 2 * T, videos)
    times = [data.two_views(rng, n, T) for n in lengths]
    time = torch.tensor(np.stack(times), device=DEVICE)
    length = torch.tensor(lengths, device=DEVICE)[:, None].expand(-1, 2)
    valid = time < length[..., None]

    def gradient(form):
        z.grad = None
        form(z, time, length, valid).backward()
        return z.grad

    row(f'SCL: {videos} videos, T {T}, D {D}', 'per pair', 'at once', 'faster', 'difference')
    difference = (gradient(plain.scl) - gradient(scl)).abs().max()
    compare('forward and backward', partial(gradient, plain.scl), partial(gradient, scl),
            f'{difference:.1e}', runs=sizes.runs)


# --------------------------------------------------------------------------------------------------
# Metrics

def earlier(sizes):
    """Classification and progression beside the field's calls of scikit-learn: L-BFGS at its
    default tolerance, and one regression after the other. How many predictions are those of the
    converged optimum: of L-BFGS as called, and of ours."""
    row('classifiers: phases, train frames', 'L-BFGS', 'here', 'faster', 'right there',
        'right here')
    for phases in (2, 4, 6):
        x, y = embedded(sizes.train, 1, 30, 110, phases)
        val, _ = embedded(sizes.val, 2, 30, 110, phases)
        x = np.concatenate(x)
        y = np.concatenate(y)
        val = np.concatenate(val)
        ours = partial(evaluate.fit_classifier, x, y)
        theirs = partial(plain.fit_by_lbfgs, x, y)
        converged = plain.fit_by_lbfgs(x, y, tol=1e-8).predict(val.astype(np.float64))
        right = []
        for fit in (theirs, ours):
            same = fit().predict(val) == converged
            right.append(f'{same.sum()} of {len(same)}')
        compare(f'{phases} phases, {len(x)} frames', theirs, ours, *right, runs=sizes.runs)
    row('progression: phases, train frames', 'a column', 'here', 'faster', 'difference')
    for phases in (2, 4, 6):
        train = embedded(sizes.train, 1, 30, 110, phases)
        val = embedded(sizes.val, 2, 30, 110, phases)
        theirs = partial(plain.progression, *train, *val, phases)
        ours = partial(evaluate.progression, *train, *val)
        difference = abs(theirs() - ours())
        compare(f'{phases} phases', theirs, ours, f'{difference:.1e}', runs=sizes.runs)
