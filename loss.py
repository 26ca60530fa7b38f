"""SCL, by which the paper trains MV-Former (section 4), and the table of all objectives.

An objective is one function,
    loss(z, time, length, valid, **options) -> scalar
    z       (B, 2, T, D)        B videos, 2 views (or 2 videos of one action), T frames: embeddings
                                or what the objective's head makes of them, D wide
    time    (B, 2, T)    int64  each frame's number in its video (data.Clips may count every k-th)
    length  (B, 2)       int64  frames in that video, counted likewise
    valid   (B, 2, T)    bool   False = padding, which stands at a clip's end and counts for nothing
and the options that its row in OBJECTIVES asks for: settings of train.py by name, and
    labels  (B, 2, T)    int64  the frame's phase, -1 = unlabelled; no two actions share a number
    classifier                  a module that is trained with the model
    teacher (B, 2, T, K), centre (K,)    see objectives/distill.py

`@objective` turns autocast off and zeroes padded embeddings. NEVER is a logit of -1e9.

In einsums: b, c videos; v, w views; i, j, k frames; d channels. A new objective is one file in
objectives/ and one row here.
"""
import torch
from einops import einsum, rearrange
from torch import nn

from objectives.distill import Teacher, distill, distill_head
from objectives.gta import gta
from objectives.lav import lav
from objectives.objective import NEVER, Objective, masked_mean, objective
from objectives.sal import order_classifier, sal
from objectives.supervised import phase_classifier, supervised
from objectives.tcc import tcc
from objectives.tcn import tcn
from objectives.vsp import vsp, vsp_f, vsp_p


@objective
def scl(z, time, length, valid, *, negatives='single', sigma2=10., temperature=0.1):
    """Sequence contrastive loss: a frame resembles frames of the other view that are near in time.
    CARL: Chen et al., Frame-wise Action Representations for Long Videos via Sequence Contrastive
    Learning, CVPR 2022 (the paper's [9]).

    z: the projection head's output, unit length; length: of use to other objectives alone. For
    frame i of one view, at time s_i, over the frames j of the other:
        G_ij = exp(-(s_i - s_j)^2 / (2 sigma2)), each row divided by its sum
        p_ij = exp(z_i.z_j / temperature) / sum_{k in Neg(i)} exp(z_i.z_k / temperature)
        L_i  = sum_j G_ij (log G_ij - log(p_ij + 1e-6))
    which, with single negatives, is KL(G_i || p_i) but for the 1e-6. Where row G_i is 0 (no
    target), L_i = 0 counts in the mean: over a video's frames, both views, then over videos.
    negatives: Neg(i), the frames in p's denominator, j among them: 'single', the other view of the
    same video; 'batch', all of this process's batch but i's own view. sigma2: in frames^2.
    """
    target = time_target(time, valid, sigma2)                         # G: (B, 2, T, T)

    # Dimension 1 holds the two views: flip(1) puts each view's partner in its place.
    other = z.flip(1)
    other_valid = valid.flip(1)[:, :, None]                           # (B, 2, 1, T)
    logits = einsum(z, other, 'b v i d, b v j d -> b v i j') / temperature
    logits = logits.masked_fill(~other_valid, NEVER)                  # (B, 2, T, T)

    negative_logits = logits
    if negatives == 'batch':
        negative_logits = batch_logits(z, valid, temperature)         # (B, 2, T, B * 2 * T)
    log_normaliser = negative_logits.logsumexp(-1, keepdim=True)
    p = torch.exp(logits - log_normaliser)                            # (B, 2, T, T)

    # CARL: + 1e-6; without it padding, where G and p are 0, would give 0 log 0, no number.
    # xlogy(G, G) is G log G, and 0 where G is 0.
    divergence = torch.xlogy(target, target) - target * torch.log(p + 1e-6)
    return masked_mean(divergence.sum(-1), valid, (1, 2)).mean()


def time_target(time, valid, sigma2):
    """G (B, 2, T, T): how much frame i of a view should resemble frame j of the other view.

    A row sums to 1, or is 0 where the Gaussian underflows, all frames of the other view being more
    than about 14 sigma away (45 frames at sigma2 = 10): no target. A softmax of the exponents would
    take the nearest, however far.
    """
    gap = time[..., :, None] - time.flip(1)[..., None, :]             # (B, 2, T, T)
    target = torch.exp(-gap.float().square() / (2 * sigma2))
    target = target * valid.flip(1)[:, :, None]
    total = target.sum(-1, keepdim=True)
    return target / total.masked_fill(total == 0, 1)


def batch_logits(z, valid, temperature):
    """z (B, 2, T, D) -> z_i.z_k / temperature (B, 2, T, B * 2 * T), k not of i's own view."""
    B, views = z.shape[:2]
    own = torch.eye(B * views, dtype=torch.bool, device=z.device)
    # true where video b, view v is video c, view w
    own = rearrange(own, '(b v) (c w) -> b v 1 c w 1', v=views, w=views)
    logits = einsum(z, z, 'b v i d, c w k d -> b v i c w k') / temperature
    never = own | ~valid                                              # (B, 2, 1, B, 2, T)
    return logits.masked_fill(never, NEVER).flatten(3)


def projection_head(width, classes=None):
    """CARL: in training only, rows (M, D) -> (M, D). Only phase_classifier uses `classes`."""
    return nn.Sequential(
        nn.Linear(width, 128),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, width))


# The fields are explained in objectives/objective.py. No loss sees another process's embeddings:
# vsp, vsp_p, vsp_f, sal and SCL's 'batch' contrast or average over a process's own share of the
# batch, so that one process and four differ. The others take each video by itself, but for the
# centre of distill, a mean over all processes.
OBJECTIVES = {
    'scl': Objective(scl, head=projection_head, loss_on_head_output=True, unit_length=True,
                     settings=('negatives', 'sigma2', 'temperature')),
    'tcn': Objective(tcn, unit_length=True, interleaved=True),
    'tcc': Objective(tcc, allows_video_pairs=True),
    'vsp': Objective(vsp, unit_length=True, min_frames=3),
    'sal': Objective(sal, head=order_classifier, min_frames=3),
    'lav': Objective(lav, unit_length=True, allows_video_pairs=True),
    'gta': Objective(gta, unit_length=True, allows_video_pairs=True),
    'distill': Objective(distill, head=distill_head, loss_on_head_output=True, teacher=Teacher),
    'vsp_p': Objective(vsp_p, unit_length=True, labels=True, min_frames=3),
    'vsp_f': Objective(vsp_f, unit_length=True, labels=True, min_frames=3),
    'supervised': Objective(supervised, head=phase_classifier, loss_on_head_output=True,
                            labels=True),
}
