"""Time-contrastive networks (paper, Table 4; named as future work in section 6)."""
from einops import einsum

from objectives.objective import NEVER, masked_mean, objective


@objective
def tcn(z, time, length, valid, *, weight=0.002):
    """Self-supervised TCN: an anchor picks its own neighbour out of the clip's.

    z: the embedding, unit length, of clips drawn as anchor, positive, anchor, positive, ...; a
    positive is taken 1 to 5 frames before its anchor. Each view is a clip of its own. With anchors
    a_i and positives q_i, the n-pairs loss is
        L = -log(exp(a_i.q_i) / sum_j exp(a_i.q_j)) + weight/4 (|a_i|^2 + |q_i|^2)
    mean over a video's pairs, then over videos. A pair counts if both its frames are valid.

    Sermanet et al., Time-Contrastive Networks, ICRA 2018 (the paper's [40]); Sohn, Improved Deep
    Metric Learning with Multi-class N-pair Loss Objective, NeurIPS 2016.
    """
    anchor = z[:, :, :-1:2]                                           # (B, 2, T/2, D)
    positive = z[:, :, 1::2]                                          # (B, 2, T/2, D)
    both = valid[:, :, :-1:2] & valid[:, :, 1::2]                     # (B, 2, T/2)

    logits = einsum(anchor, positive, 'b v i d, b v j d -> b v i j')
    own = logits.diagonal(dim1=2, dim2=3)                             # a_i.q_i: (B, 2, T/2)
    logits = logits.masked_fill(~both[:, :, None], NEVER)
    entropy = logits.logsumexp(-1) - own                              # (B, 2, T/2)

    norms = anchor.square().sum(-1) + positive.square().sum(-1)
    pair_loss = entropy + weight / 4 * norms
    return masked_mean(pair_loss, both, (1, 2)).mean()
