"""What all objectives share: padding that cannot matter, and the table row that says what each needs."""
from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import torch


NEVER = -1e9  # a logit for what may not be chosen: finite, so that a row without any choice stays finite too
FAR = 1e10    # a cost that no path pays


def objective(loss):
    """What all objectives share: at least float32 inside, whatever comes in, and padding that cannot matter.

    Padded embeddings become zeros here, so nothing that stands there, be it NaN, reaches loss or gradient;
    the objectives still leave those frames out of their sums.
    """
    @wraps(loss)
    def shared(z, time, length, valid, **options):
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(torch.promote_types(z.dtype, torch.float32)).masked_fill(~valid[..., None], 0)
            return loss(z, time, length, valid, **options)
    return shared


def masked_mean(values, mask, dim):
    """Mean of `values` over `dim` where `mask` is True; 0 where it never is."""
    return (values * mask).sum(dim) / mask.sum(dim).clamp(min=1)


def squared_distance(x, y):
    """(..., I, D), (..., J, D) -> (..., I, J): |x_i - y_j|^2, by a product: (I, J, D) is never in memory."""
    return x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :] - 2 * x @ y.mT


class Objective(NamedTuple):
    """A row of loss.OBJECTIVES: all that other files must know of an objective."""
    loss: Callable                # loss(z, time, length, valid, **options) -> scalar
    head: Callable | None = None  # head(width, classes) -> what is trained on top of the embedding, dropped afterwards
    project: bool = False         # True: z passes the head; False: the loss gets the head as `classifier`
    unit: bool = False            # z has unit length
    interleaved: bool = False     # clips are drawn as anchor, positive, anchor, positive, ..., else as frames in order
    videos: bool = False          # the two sequences may be two videos of one action; else two views of one video
    labels: bool = False          # the loss gets the frames' phases as `labels` int64 (B, 2, T), -1 = unlabelled
    teacher: bool = False         # the loss gets `teacher` (B, 2, T, K) and `centre` (K,), which training keeps
    settings: tuple = ()          # the names of the settings that the loss gets as options
    least: int = 2                # frames that a clip must have
