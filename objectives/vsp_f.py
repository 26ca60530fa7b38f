"""VSP-F, repaired: VSP-P, and phases of one name are alike (paper, Table 4: "frame labels")."""
import torch

from objectives.objective import NEVER, masked_mean, objective
from objectives.vsp import bridge_points, vsp
from objectives.vsp_p import draw_phases


def phase_contrast(middles, labels, exists, temperature=0.1):
    """Supervised contrast: middle frames (M, D), their labels (M,), which exist (M,) -> scalar.

    For each frame i that has a positive, a frame j != i of its label in this process's batch:
        -log(sum over positives j of exp(z_i.z_j / temperature) / sum over all j != i of the same)
    mean over those frames; 0 if there are none.
    """
    logits = middles @ middles.mT / temperature                       # (M, M)
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    others = exists & ~own
    positives = others & (labels[:, None] == labels)
    above = logits.masked_fill(~positives, NEVER).logsumexp(-1)       # (M,)
    below = logits.masked_fill(~others, NEVER).logsumexp(-1)          # (M,)
    has_positive = exists & positives.any(-1)
    return masked_mean(below - above, has_positive, 0)


@objective
def vsp_f(z, time, length, valid, *, labels, weight=1., temperature=0.1):
    """VSP-P + weight * `phase_contrast` of its bridges' middle frames.

    z: the embedding, unit length, of a clip of the whole video. No two actions may share a label.
    ours, repaired: the authors' code minimises the positives' share itself, without the -log, and
    so drives frames of one phase apart; and it matches the k-th bridge of one clip with the k-th of
    another, whatever their phases. So the published numbers are another loss's. Source: as vsp.py.
    """
    bridges = draw_phases(labels, valid)                              # (B, 2, S, 3)
    walk = vsp(z, time, length, valid, bridges=bridges)

    p = bridges[..., 1]                                               # (B, 2, S), 0 = no bridge
    middles = bridge_points(z, bridges)[:, 1]                         # (M, D), M = B * 2 * S
    phase = labels.gather(-1, p).flatten()                            # (M,)
    exists = (p > 0).flatten()
    contrast = phase_contrast(middles, phase, exists, temperature)
    return walk + weight * contrast
