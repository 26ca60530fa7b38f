"""Temporal cycle-consistency (paper, Table 4; named as future work in section 6)."""
from einops import einsum

from objectives.objective import NEVER, masked_mean, objective, squared_distance


def neighbours(query, key, allowed, temperature):
    """Soft nearest neighbours: query (B, 2, I, D), key (B, 2, J, D) -> weights (B, 2, I, J).

    allowed bool (B, 2, J): the keys to choose from.
    """
    distance = squared_distance(query, key) / query.shape[-1]
    scores = -distance / temperature
    scores = scores.masked_fill(~allowed[:, :, None], NEVER)
    return scores.softmax(-1)


@objective
def tcc(z, time, length, valid, *, temperature=0.1, smoothing=0.1, weight=0.001):
    """From a frame to its soft neighbour in the other sequence, and back.

    z: the embedding as it is: no head, no unit length, which would make these softmaxes nearly
    uniform. For u and v the two sequences of a video, in both orders, with n valid frames in u and
    t = time / length:
        u'_i  = sum_j alpha_j v_j,  alpha = softmax_j(-|u_i - v_j|^2 / D / temperature)    there
        mu_i  = sum_k beta_k t_k,   beta  = softmax_k(-|u'_i - u_k|^2 / D / temperature)   and back
        var_i = sum_k beta_k (t_k - mu_i)^2
        y_i   = (1 - n smoothing/(n-1)) t_i + smoothing/(n-1) sum_k t_k             smoothed label
        L     = (y_i - mu_i)^2 / var_i + weight log var_i
    mean over a video's frames, then over videos. Frames of different rows of the batch never meet.

    Dwibedi et al., Temporal Cycle-Consistency Learning, CVPR 2019 (the paper's [15]).
    """
    v = z.flip(1)                                                     # each one's partner
    alpha = neighbours(z, v, valid.flip(1), temperature)              # (B, 2, T, T)
    there = alpha @ v                                                 # (B, 2, T, D)
    beta = neighbours(there, z, valid, temperature)                   # (B, 2, T, T)

    t = time.to(z.dtype) / length[..., None]                          # (B, 2, T)
    mean = einsum(beta, t, 'b v i k, b v k -> b v i')
    deviation = t[:, :, None] - mean[..., None]                       # (B, 2, T, T)
    variance = (beta * deviation.square()).sum(-1)                    # (B, 2, T)
    # A cycle that arrives at one frame alone has no variance: the floor keeps its loss finite.
    variance = variance.clamp(min=1e-12)

    n = valid.sum(-1, keepdim=True).to(z.dtype)                       # (B, 2, 1)
    share = smoothing / (n - 1).clamp(min=1)
    total = (t * valid).sum(-1, keepdim=True)
    label = (1 - n * share) * t + share * total                       # (B, 2, T)

    error = (label - mean).square() / variance
    cycle = error + weight * variance.log()                           # (B, 2, T)
    return masked_mean(cycle, valid, (1, 2)).mean()
