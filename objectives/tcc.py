"""Temporal cycle-consistency (paper, Table 4)."""
from einops import einsum

from objectives.objective import NEVER, masked_mean, objective, squared_distance


@objective
def tcc(z, time, length, valid, *, temperature=0.1, smoothing=0.1, weight=0.001):
    """Temporal cycle-consistency: from a frame to its soft neighbour in the other sequence, and back.

    z: the embedding as it is, no head, no unit length (unit vectors make these softmaxes nearly uniform).
    For u and v the two sequences of a video, in both orders, with n valid frames in u and t = time / length:
        u'_i  = sum_j alpha_j v_j,   alpha = softmax_j(-|u_i - v_j|^2 / D / temperature)     there
        mu_i  = sum_k beta_k t_k,    beta  = softmax_k(-|u'_i - u_k|^2 / D / temperature)    and back
        var_i = sum_k beta_k (t_k - mu_i)^2
        y_i   = (1 - n smoothing/(n-1)) t_i + smoothing/(n-1) sum_k t_k                      smoothed label
        L     = (y_i - mu_i)^2 / var_i + weight log var_i
    mean over a video's frames, then over videos. Sequences of different videos of the batch do not meet.

    Dwibedi et al., Temporal Cycle-Consistency Learning, CVPR 2019 (the paper's [15]).
    """
    def nearest(query, key, allowed):  # (B, 2, T, D) twice, (B, 2, T) -> weights (B, 2, T, T)
        scores = -squared_distance(query, key) / z.shape[-1] / temperature
        return scores.masked_fill(~allowed[:, :, None], NEVER).softmax(-1)

    v = z.flip(1)
    there = nearest(z, v, valid.flip(1)) @ v                                 # (B, 2, T, D)
    back = nearest(there, z, valid)                                          # (B, 2, T, T)

    t = time.to(z.dtype) / length[..., None]                                 # (B, 2, T)
    mean = einsum(back, t, 'b v i k, b v k -> b v i')
    # A cycle that arrives at one frame alone has no variance: the floor keeps its loss finite.
    variance = (back * (t[:, :, None] - mean[..., None]).square()).sum(-1).clamp(min=1e-12)

    n = valid.sum(-1, keepdim=True).to(z.dtype)
    share = smoothing / (n - 1).clamp(min=1)
    label = (1 - n * share) * t + share * (t * valid).sum(-1, keepdim=True)
    cycle = (label - mean).square() / variance + weight * variance.log()     # (B, 2, T)
    return masked_mean(cycle, valid, (1, 2)).mean()
