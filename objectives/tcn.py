"""Time-contrastive networks (paper, Table 4)."""
from einops import einsum, rearrange

from objectives.objective import NEVER, masked_mean, objective


@objective
def tcn(z, time, length, valid, *, weight=0.002):
    """Time-contrastive network, self-supervised: an anchor picks its own neighbour out of the clip's.

    z: the embedding, unit length, of clips drawn as anchor, positive, anchor, positive, ...; a positive is
    taken 1 to 5 frames before its anchor. Each view is a clip of its own. With anchors a_i, positives q_i,
        L = -log(exp(a_i.q_i) / sum_j exp(a_i.q_j)) + weight/4 (|a_i|^2 + |q_i|^2)
    (n-pairs loss), mean over a video's pairs, then over videos. A pair counts if both frames are valid.

    Sermanet et al., Time-Contrastive Networks, ICRA 2018 (the paper's [40]); Sohn, Improved Deep Metric
    Learning with Multi-class N-pair Loss Objective, NeurIPS 2016.
    """
    even = z.shape[2] // 2 * 2
    anchor, positive = rearrange(z[:, :, :even], 'b v (n pair) d -> pair b v n d', pair=2)
    both = rearrange(valid[:, :, :even], 'b v (n pair) -> pair b v n', pair=2).all(0)  # (B, 2, T/2)

    logits = einsum(anchor, positive, 'b v i d, b v j d -> b v i j')
    hit = logits.diagonal(dim1=-2, dim2=-1)                                  # (B, 2, T/2)
    entropy = logits.masked_fill(~both[:, :, None], NEVER).logsumexp(-1) - hit
    norms = anchor.square().sum(-1) + positive.square().sum(-1)
    return masked_mean(entropy + weight / 4 * norms, both, (1, 2)).mean()
