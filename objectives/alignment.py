"""Aligning two sequences in order: the table that LAV's soft-DTW and GTA's smooth DTW both fill.

An alignment is a path through the table of costs, from the pair of first frames to the pair of last
ones, by steps down, right or diagonal. The cheapest way to each cell follows from its neighbours:
    r_ij = cost_ij + minimum(r_{i,j-1}, r_{i-1,j}, r_{i-1,j-1})
The two objectives differ in what stands for the minimum, which has to be smooth.
"""
import torch
import torch.nn.functional as F
from einops import rearrange

FAR = 1e10  # what the cells outside the table cost: no path goes there


def soft_minimum(neighbours, gamma):
    """-gamma log sum exp(-x / gamma) over dimension 0; never above the minimum."""
    return -gamma * torch.logsumexp(-neighbours / gamma, 0)


def expected_minimum(neighbours, gamma):
    """sum_k w_k x_k over dimension 0, w = softmax(-x / gamma); never below the minimum."""
    # FAR is finite: its weight is exactly 0, and 0 times infinity would not be.
    return (torch.softmax(-neighbours / gamma, 0) * neighbours).sum(0)


def alignment_table(cost, minimum, gamma):
    """cost (B, R, C) -> r (B, R, C), differentiable; minimum is one of the two functions above."""
    # A cell needs only its left, upper and upper left neighbours, so all cells of one anti-diagonal
    # i + j = k are computed at once. Row i pushed to the right by i turns them into columns:
    #     a b c           a b c . .
    #     d e f    ->     . d e f .        the dots cost FAR
    #     g h i           . . g h i
    R, C = cost.shape[1:]
    skewed = F.pad(cost, (0, R), value=FAR).flatten(1)[:, :-R]
    skewed = rearrange(skewed, 'b (r k) -> k b r', r=R)                      # (R + C - 1, B, R)

    last = skewed[0]
    before_last = torch.full_like(last, FAR)
    diagonals = [last]
    for costs in skewed[1:]:
        left = last
        above = one_row_down(last)
        above_left = one_row_down(before_last)
        neighbours = torch.stack((left, above, above_left))                  # (3, B, R)
        before_last = last
        last = costs + minimum(neighbours, gamma)
        diagonals.append(last)

    # and pushed back to the left
    table = rearrange(torch.stack(diagonals), 'k b r -> b (r k)')
    table = F.pad(table, (0, R))
    return rearrange(table, 'b (r k) -> b r k', r=R)[..., :C]


def one_row_down(diagonal):
    """(B, R): row i gets what row i - 1 had, the first row what lies outside the table."""
    return F.pad(diagonal[:, :-1], (1, 0), value=FAR)


def total_cost(table, rows, columns):
    """Of aligning the first rows[b] frames with the first columns[b]: table (B, R, C) -> (B,)."""
    pair = torch.arange(len(table), device=table.device)
    return table[pair, rows - 1, columns - 1]
