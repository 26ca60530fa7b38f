"""The objectives: SCL, which trains MV-Former (paper, section 4), and five others of the paper's Table 4.

The paper names MV-Former with TCC, TCN or VSP as future work (section 6). Here each is one pure function,
    loss(z, time, length, valid, **options) -> scalar
    z       (B, 2, T, D)        embeddings of B videos, 2 views (or 2 videos of one action), T frames
    time    (B, 2, T)    int64  each frame's number in its video;   length (B, 2) int64: frames in that video
    valid   (B, 2, T)    bool   False = padding, which stands at a clip's end and counts for nothing
`OBJECTIVES`, at the end, says what each one needs: which embedding, and how the frames are drawn.
In einsums: b, c videos; v, w views; i, j, k frames; d channels. Nothing here crosses GPUs or waits for one.
"""
import torch
from einops import einsum, rearrange
from torch import nn

from running.batchnorm import BatchNorm
from objectives.lav import lav, soft_dtw
from objectives.objective import NEVER, Objective, masked_mean, objective
from objectives.sal import draw_triplets, order_classifier, sal
from objectives.tcc import tcc
from objectives.tcn import tcn
from objectives.vsp import draw_bridges, vsp


@objective
def scl(z, time, length, valid, *, negatives='single', sigma2=10., temperature=0.1):
    """Sequence contrastive loss: a frame resembles the other view's frames as they are near to it in time.

    z: projection head's output, unit length. For frame i of one view, at s_i, over the frames j of the other:
        G_ij = exp(-(s_i - s_j)^2 / (2 sigma2)), each row divided by its sum           the target
        p_ij = exp(z_i.z_j / temperature) / sum_{k in Neg(i)} exp(z_i.z_k / temperature)
        L    = 1/(valid frames of both views) sum_ij G_ij (log G_ij - log(p_ij + 1e-6))
    for a video, both ways; then the mean over videos.
    negatives: Neg(i) is 'single', the other view of the same video, or 'batch', all frames but i's own view.
    sigma2: in frames^2. Views of videos that differ in length: s_i is first stretched to the other's length.

    Chen et al., Frame-wise Action Representations for Long Videos via Sequence Contrastive Learning,
    CVPR 2022 (the paper's [9]).
    """
    if negatives not in ('single', 'batch'):
        raise ValueError(f"negatives is 'single' or 'batch', not {negatives!r}")
    other = valid.flip(1)[:, :, None]                                        # (B, 2, 1, T)

    # In float32, and by a sum, not a softmax: a frame 46 or more away from all others underflows to a row of
    # zeros and has no target, rather than its nearest frame with weight 1.
    stretched = time.float() * (length.flip(1).float() / length)[..., None]
    gap = stretched[..., :, None] - time.flip(1).float()[..., None, :]       # (B, 2, T, T)
    target = torch.exp(-gap.square() / (2 * sigma2)) * other
    total = target.sum(-1, keepdim=True)
    target = target / total.masked_fill(total == 0, 1)

    logits = einsum(z, z.flip(1), 'b v i d, b v j d -> b v i j') / temperature
    logits = logits.masked_fill(~other, NEVER)
    if negatives == 'single':
        rivals = logits
    else:
        B, views, T, _ = z.shape
        own = torch.eye(B * views, dtype=torch.bool, device=z.device)
        own = rearrange(own, '(b v) (c w) -> b v 1 c w 1', v=views, w=views)
        rivals = einsum(z, z, 'b v i d, c w k d -> b v i c w k') / temperature
        rivals = rivals.masked_fill(own | ~valid, NEVER).flatten(3)          # (B, 2, T, B * 2 * T)
    p = torch.exp(logits - rivals.logsumexp(-1, keepdim=True))

    divergence = torch.xlogy(target, target) - target * torch.log(p + 1e-6)  # G log G is 0 where G is
    return masked_mean(divergence.sum(-1), valid, (1, 2)).mean()


def projection_head(width, classes=None):
    """SCL's, on the embedding (..., D), used in training only."""
    return nn.Sequential(nn.Linear(width, 128), BatchNorm(128), nn.ReLU(), nn.Linear(128, width))


OBJECTIVES = {
    'scl': Objective(scl, head=projection_head, project=True, unit=True, settings=('negatives',)),
    'tcn': Objective(tcn, unit=True, interleaved=True),
    'tcc': Objective(tcc, videos=True),
    'vsp': Objective(vsp, unit=True),
    'sal': Objective(sal, head=order_classifier, least=3),
    'lav': Objective(lav, unit=True, videos=True),
}
