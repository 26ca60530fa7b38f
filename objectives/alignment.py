"""Aligning two sequences in order: the table that LAV's soft-DTW and GTA's smooth DTW both fill.

An alignment is a path through the table of costs, from the pair of first frames to the pair of last
ones, by steps down, right or diagonal. The cheapest way to each cell follows from its neighbours:
    r_ij = cost_ij + minimum(r_{i,j-1}, r_{i-1,j}, r_{i-1,j-1})
The two objectives differ in what stands for the minimum, which has to be smooth.
"""
import torch
import torch.nn.functional as F
from einops import rearrange
from torch.autograd.function import once_differentiable

from objectives.objective import NEVER


# Both smooth minima are maxima of scores, -cost / gamma. Outside the table all cells score NEVER.

def soft_maximum(left, above, above_left):
    """log sum exp(x) of the three neighbours; never below the maximum."""
    return torch.logaddexp(torch.logaddexp(left, above), above_left)


def expected_maximum(left, above, above_left):
    """sum_k w_k x_k of the three neighbours, w = softmax(x); never above the maximum."""
    x = torch.stack((left, above, above_left))
    # NEVER is finite: its weight is exactly 0, and 0 times infinity would not be.
    return (x.softmax(0) * x).sum(0)


def alignment_table(cost, maximum, gamma):
    """cost (B, R, C) -> r (B, R, C), differentiable once.

    maximum: one of the two functions above. gamma: how smooth, in units of the costs.
    """
    # A cell needs only its left, upper and upper left neighbours, so all cells of one anti-diagonal
    # i + j = k are computed at once. Row i pushed to the right by i turns them into columns:
    #     a b c           a b c . .
    #     d e f    ->     . d e f .        the dots score NEVER
    #     g h i           . . g h i
    R, C = cost.shape[1:]
    skewed = F.pad(-cost / gamma, (0, R), value=NEVER).flatten(1)[:, :-R]
    skewed = rearrange(skewed, 'b (r k) -> k b r', r=R)                      # (R + C - 1, B, R)
    table = Diagonals.apply(skewed, maximum)
    table = F.pad(rearrange(table, 'k b r -> b (r k)'), (0, R))              # pushed back again
    return -gamma * rearrange(table, 'b (r k) -> b r k', r=R)[..., :C]


def around(table):
    """All cells of a table with its rim (K + 2, B, R + 1), and their left, upper and upper left
    neighbours: four views, each (K, B, R)."""
    return table[2:, :, 1:], table[1:-1, :, 1:], table[1:-1, :, :-1], table[:-2, :, :-1]


class Diagonals(torch.autograd.Function):
    """Scores (K, B, R), a row an anti-diagonal -> those of the best ways to each cell (K, B, R).

    Twice as fast as autograd: the slopes of the maximum in all cells follow from the table at once.
    """

    @staticmethod
    def forward(ctx, scores, maximum):
        # the rim: a row above, and two diagonals before the first, where all paths start
        table = F.pad(scores, (1, 0, 0, 0, 2, 0), value=NEVER)               # (K + 2, B, R + 1)
        table[0, :, 0] = 0
        for cell, *neighbours in zip(*around(table)):
            cell.add_(maximum(*neighbours))
        ctx.maximum = maximum
        ctx.save_for_backward(table)
        return table[2:, :, 1:]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        _, *neighbours = around(*ctx.saved_tensors)
        with torch.enable_grad():
            neighbours = [x.detach().requires_grad_() for x in neighbours]   # 3 times (K, B, R)
            total = ctx.maximum(*neighbours).sum()
            slopes = torch.stack(torch.autograd.grad(total, neighbours), 1)  # (K, 3, B, R)
        total = F.pad(grad, (1, 0, 0, 0, 2, 0))                              # (K + 2, B, R + 1)
        # from the last diagonal to the first, each hands its gradient on to its neighbours
        for slope, cell, *neighbours in reversed(list(zip(slopes, *around(total)))):
            for neighbour, share in zip(neighbours, slope * cell):
                neighbour.add_(share)
        return total[2:, :, 1:], None


def total_cost(table, rows, columns):
    """Of aligning so many first rows (...) and columns (...) of each table (..., R, C) -> (...)."""
    row = table.take_along_dim(rows[..., None, None] - 1, -2)         # (..., 1, C)
    return row.take_along_dim(columns[..., None, None] - 1, -1)[..., 0, 0]
