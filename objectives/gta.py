"""Global temporal alignment (paper, Table 4)."""
from einops import einsum, rearrange

from objectives.alignment import alignment_table, expected_maximum, total_cost
from objectives.objective import NEVER, masked_mean, objective


@objective
def gta(z, time, length, valid, *, temperature=0.1, smoothing=0.1, weight=0.1):
    """Smooth DTW with a contrastive cost, and a cycle through the whole alignment and back.

    z: the embedding, unit length. For a and b the two sequences of a video, n frames in a:
        c_ij   = -log softmax_i(a_i.b_j / temperature)               over a's frames, for each b_j
        r_ij   = c_ij + expected minimum of the neighbours left, above, above left   (alignment.py)
        D(a,b) = r at the last frames of both;  D(b,a) with the roles exchanged, its table r'
        A      = softmax_i(-r_ij),  B = softmax_j(-r'_ji)            each column sums to 1
        P      = (A B)^T                  row i: where a_i comes back to, (n, n), rows sum to 1
        cycle  = mean over a's frames of the cross-entropy of softmax_k(P_ik) with frame i,
                 label smoothing
        L      = cycle + weight (D(a,b) + D(b,a)),   mean over videos
    The contrastive cost, not the cycle, is what keeps all frames from meeting in one point.
    release: P, probabilities already, passes another softmax.

    Hadji et al., Representation Learning via Global Temporal Alignment and Cycle-Consistency,
    CVPR 2021 (the paper's [20]).
    """
    other = z.flip(1)                                                 # each one's partner
    logits = einsum(z, other, 'b v i d, b v j d -> b v i j') / temperature
    logits = logits.masked_fill(~valid[..., None], NEVER)
    cost = -logits.log_softmax(2)                                     # (B, 2, T, T)
    table = alignment_table(cost.flatten(0, 1), expected_maximum, temperature)
    table = rearrange(table, '(b v) i j -> b v i j', v=2)
    frames = valid.sum(-1).clamp(min=1)                               # (B, 2)
    distance = total_cost(table, frames, frames.flip(1))              # D(a,b), D(b,a)

    # Padded rows of the table cost 1e9 each: this softmax does not choose them.
    A, B = (-table).softmax(2).unbind(1)                              # (B, T, T), (B, T, T)
    own = valid[:, 0]                                                 # a's frames: (B, T)
    P = (A @ B).mT.masked_fill(~own[:, None], NEVER)                  # (B, T, T)
    log_P = P.log_softmax(-1)
    home = log_P.diagonal(dim1=1, dim2=2)                             # (B, T)
    anywhere = masked_mean(log_P, own[:, None], 2)                    # (B, T)
    entropy = -(1 - smoothing) * home - smoothing * anywhere
    cycle = masked_mean(entropy, own, 1)                              # (B,)

    both_exist = valid.any(-1).all(1)                                 # (B,)
    pair_loss = cycle + weight * distance.sum(1)
    return masked_mean(pair_loss, both_exist, 0)
