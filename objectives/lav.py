"""Learning by aligning videos in time (paper, Table 4)."""
import torch
import torch.nn.functional as F

from objectives.alignment import alignment_table, soft_maximum, total_cost
from objectives.objective import objective, squared_distance


@objective
def lav(z, time, length, valid, *, gamma=0.1, weight=0.5, window=10, margin=2.):
    """Two sequences align in order, the frames of each stay apart.

    z: the embedding, unit length. For the two sequences a and b of a video, with t = time / length,
        L    = (S(a, b) + weight (C(a) + C(b))) / T,   mean over videos
        S    = -gamma log sum over alignments of exp(-sum of their |a_i - b_j|^2 / gamma)
        C(a) = sum_ij  d_ij                                    if i, j are at most `window` apart
                       (1 + (t_i - t_j)^2) max(0, margin - d_ij)  else;   d_ij = |a_i - a_j|^2
    S, soft-DTW, becomes the cost of the best alignment as gamma -> 0. C (contrastive inverse
    difference moment) keeps all frames from meeting in one point.

    Haresh et al., Learning by Aligning Videos in Time, CVPR 2021 (the paper's [21]);
    Cuturi and Blondel, Soft-DTW: a Differentiable Loss Function for Time-Series, ICML 2017.
    """
    T = z.shape[2]
    a, b = z.unbind(1)                                                # (B, T, D), (B, T, D)
    rows, columns = valid.sum(-1).clamp(min=1).unbind(1)              # (B,), (B,)
    table = alignment_table(squared_distance(a, b), soft_maximum, gamma)
    alignment = total_cost(table, rows, columns)                      # (B,)

    distance = squared_distance(z, z)                                 # (B, 2, T, T)
    # in whole frames, so that no rounding decides who is near
    frames_apart = time[..., :, None] - time[..., None, :]
    near = frames_apart.abs() <= window
    t = time.to(z.dtype) / length[..., None]                          # (B, 2, T)
    time_apart = t[..., :, None] - t[..., None, :]
    push = (1 + time_apart.square()) * F.relu(margin - distance)
    spread = torch.where(near, distance, push)
    both = valid[..., :, None] & valid[..., None, :]
    spread = (spread * both).sum((1, 2, 3))                           # C(a) + C(b): (B,)

    return ((alignment + weight * spread) / T).mean()
