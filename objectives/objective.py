"""What all objectives share: padding that cannot matter, and the row that says what each needs."""
from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import torch

NEVER = -1e9  # a logit for forbidden choices; finite, so that a fully masked row gives no NaN


class Objective(NamedTuple):
    """A row of loss.OBJECTIVES: all that other files must know of an objective."""
    # loss(z, time, length, valid, **options) -> scalar
    loss: Callable
    # head(width, classes) -> what is trained on top of the embedding and dropped afterwards; width
    # is the embedding's, classes the number of labels
    head: Callable | None = None
    # True: z is the head's output; False: z is the embedding, and a head comes as `classifier`
    loss_on_head_output: bool = False
    unit_length: bool = False  # z is L2-normalised
    interleaved: bool = False  # clips are drawn as anchor, positive, anchor, positive, ...
    # the two sequences may be two videos of one action; else they are two views of one video
    allows_video_pairs: bool = False
    labels: bool = False       # the loss gets `labels`: see loss.py
    # teacher(model) -> a slow copy; the loss gets its `teacher` and `centre`: see distill.py
    teacher: Callable | None = None
    settings: tuple = ()       # names of those that the loss gets as options
    min_frames: int = 2        # that a clip must have


def objective(loss):
    """Decorates every objective: at least float32 inside, and padded embeddings, even NaN, are 0
    with no gradient; the objectives still leave those frames out of their sums."""
    @wraps(loss)
    def shared(z, time, length, valid, **options):
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(torch.promote_types(z.dtype, torch.float32))
            z = z.masked_fill(~valid[..., None], 0)
            return loss(z, time, length, valid, **options)
    return shared


def masked_mean(values, mask, dim):
    """Mean of `values` over `dim` where `mask` is True; 0 where it never is."""
    return (values * mask).sum(dim) / mask.sum(dim).clamp(min=1)


def squared_distance(x, y):
    """|x_i - y_j|^2: x (..., I, D), y (..., J, D) -> (..., I, J).

    By |x|^2 + |y|^2 - 2 x.y, so that the differences, (..., I, J, D), are never in memory.
    """
    x_squared = x.square().sum(-1)[..., :, None]
    y_squared = y.square().sum(-1)[..., None, :]
    return x_squared + y_squared - 2 * x @ y.mT
