"""Learning by aligning videos in time (paper, Table 4)."""
import torch
import torch.nn.functional as F
from einops import rearrange

from objectives.objective import FAR, objective, squared_distance


def soft_dtw(cost, rows, columns, gamma=0.1):
    """The cost of aligning two sequences in order, smoothed so that every alignment has a say.

    cost (B, R, C): of matching frame i of one sequence with frame j of the other; rows, columns (B,) int64:
    the first rows[b] by columns[b] of it count. Returns (B,), differentiable: the last r_ij that counts, with
        r_ij = cost_ij + softmin(r_{i-1,j}, r_{i,j-1}, r_{i-1,j-1})      steps down, right, diagonal
        softmin(x) = -gamma log sum exp(-x / gamma)
    which becomes the DTW distance as gamma -> 0.

    Cuturi and Blondel, Soft-DTW: a Differentiable Loss Function for Time-Series, ICML 2017.
    """
    # r_ij needs only its left, upper and upper left neighbours, so all cells of an anti-diagonal i + j = k
    # are computed at once. Row i pushed to the right by i turns anti-diagonals into columns: row i has
    # cost[i, k - i] in column k, or FAR where that is outside.
    R, C = cost.shape[1:]
    skewed = F.pad(cost, (0, R), value=FAR).flatten(1)[:, :-R]
    skewed = rearrange(skewed, 'b (r k) -> k b r', r=R)                      # (R + C - 1, B, R)

    def from_above(diagonal):  # r_{i,k} -> r_{i-1,k}
        return F.pad(diagonal[:, :-1], (1, 0), value=FAR)

    before, last = torch.full_like(skewed[0], FAR), skewed[0]
    table = [last]
    for costs in skewed[1:]:
        neighbours = torch.stack((last, from_above(last), from_above(before)))  # left, above, above left
        before, last = last, costs - gamma * torch.logsumexp(-neighbours / gamma, 0)
        table.append(last)
    table = torch.stack(table)                                               # (R + C - 1, B, R)
    return table[rows + columns - 2, torch.arange(len(cost), device=cost.device), rows - 1]


@objective
def lav(z, time, length, valid, *, gamma=0.1, weight=0.5, window=10, margin=2.):
    """Learning by aligning videos in time: two sequences align in order, the frames of each stay apart.

    z: the embedding, unit length. For the two sequences a and b of a video, with t = time / length,
        L = (softDTW_gamma(|a_i - b_j|^2) + weight (C(a) + C(b))) / T,   mean over videos, and
        C(a) = sum_ij  d_ij                                      where frames i, j are at most `window` apart,
                       (1 + (t_i - t_j)^2) max(0, margin - d_ij)  else;   d_ij = |a_i - a_j|^2
    C (contrastive inverse difference moment) keeps all frames from meeting in one point.

    Haresh et al., Learning by Aligning Videos in Time, CVPR 2021 (the paper's [21]).
    """
    rows, columns = valid.sum(-1).clamp(min=1).unbind(1)                     # (B,), (B,)
    alignment = soft_dtw(squared_distance(z[:, 0], z[:, 1]), rows, columns, gamma)

    d = squared_distance(z, z)                                               # (B, 2, T, T)
    near = (time[..., :, None] - time[..., None, :]).abs() <= window  # whole frames: no rounding decides
    t = time.to(z.dtype) / length[..., None]
    apart = 1 + (t[..., :, None] - t[..., None, :]).square()
    spread = torch.where(near, d, apart * F.relu(margin - d))
    spread = (spread * (valid[..., :, None] & valid[..., None, :])).sum((1, 2, 3))   # (B,): C(a) + C(b)
    return ((alignment + weight * spread) / z.shape[2]).mean()
