"""Video as stochastic process (paper, Table 4; named as future work in section 6): VSP, and with
phase labels VSP-P ("phase labels" there) and VSP-F, repaired ("frame labels").

Zhang et al., Modeling Video as Stochastic Processes for Fine-Grained Video Representation Learning,
CVPR 2023 (the paper's [54]).

A bridge is three positions h < p < t in the sampled clip, int64; (0, 0, 0) is none.
"""
import torch
import torch.nn.functional as F
from einops import rearrange

from objectives.objective import NEVER, masked_mean, objective, squared_distance


@objective
def vsp(z, time, length, valid, *, bridges=None):
    """Video as stochastic process: between two frames the embedding walks a Brownian bridge.

    z: the embedding, unit length. For a bridge from h over p to t,
        alpha = (p - h) / (t - h),   sigma = alpha (t - p)
        d(x)  = -|x - (1 - alpha) z_h - alpha z_t|^2 / (2 sigma^2)
        L     = -log(exp d(z_p) / (exp d(z_p) + sum_x exp d(x)))
    where x are the three points of every other bridge of this process's batch; mean over bridges.
    A Brownian bridge's variance at p is sigma itself; the method's scale is its square.
    bridges: (B, 2, S, 3); without them they are drawn.
    """
    if bridges is None:
        bridges = draw_bridges(valid)
    points = bridge_points(z, bridges)                                # (M, 3, D), M bridges
    h, p, t = rearrange(bridges, 'b v s x -> x (b v s)')              # each (M,)
    exists = (h < p) & (p < t)

    # the clamps change only bridges that do not exist
    alpha = (p - h) / (t - h).clamp(min=2).to(z.dtype)
    sigma = (alpha * (t - p)).clamp(min=0.5)
    z_h, _, z_t = points.unbind(1)                                    # each (M, D)
    expected = torch.lerp(z_h, z_t, alpha[:, None])                   # (M, D)
    distance = squared_distance(expected, points.flatten(0, 1))       # (M, 3M)
    d = -distance / (2 * sigma.square()[:, None])
    d = rearrange(d, 'm (k x) -> m k x', x=3)                         # bridge m, point x of k

    own = torch.eye(len(d), dtype=torch.bool, device=z.device)
    never = (own | ~exists)[..., None]
    positive = d[..., 1].diagonal()                                   # d(z_p): (M,)
    negatives = d.masked_fill(never, NEVER).flatten(1)                # (M, 3M)
    negatives = negatives.logsumexp(-1)
    entropy = torch.logaddexp(positive, negatives) - positive
    return masked_mean(entropy, exists, 0)


def draw_bridges(valid, segments=5):
    """Random bridges, one in each segment of a clip; segments overlap by a fifth.

    h lies in the first fifth of its segment, t in the last (to the frame), p anywhere between.
    valid (B, 2, T) -> (B, 2, segments, 3); none where less than three frames are valid.
    """
    n = valid.sum(-1, keepdim=True)                                   # (B, 2, 1)
    width = (n - 1) / (1 + 0.8 * (segments - 1))
    number = torch.arange(segments, device=valid.device)
    start = 0.8 * width * number                                      # (B, 2, segments)
    r_h, r_p, r_t = torch.rand(3, *start.shape, device=valid.device)
    h = (start + 0.2 * width * r_h).floor().long()
    t = (start + width - 0.2 * width * r_t).ceil().long()
    # room for p, in short clips too
    t = torch.minimum(torch.maximum(t, h + 2), n - 1)
    h = torch.minimum(h, t - 2)
    p = h + 1 + (r_p * (t - h - 1)).long()
    return torch.stack((h, p, t), -1) * (n >= 3)[..., None]


def bridge_points(z, bridges):
    """The embeddings at h, p and t: z (B, 2, T, D), bridges (B, 2, S, 3) -> (B * 2 * S, 3, D)."""
    points = z.take_along_dim(bridges.flatten(2)[..., None], 2)
    return rearrange(points, 'b v (s x) d -> (b v s) x d', x=3)


@objective
def vsp_p(z, time, length, valid, *, labels):
    """VSP with one bridge a phase: `labels` say where phases begin and end, not which are alike.

    z: the embedding, unit length, of a clip of the whole video.
    ours: the authors' code shows one phase a clip of Penn Action, and so another time code than in
    evaluation; of FineGym and Pouring the whole video, as here, but two phases of it.
    """
    return vsp(z, time, length, valid, bridges=draw_phases(labels, valid))


def draw_phases(labels, valid):
    """A bridge over each phase of a clip that three of its frames show.

    A phase is a stretch of frames of one label; a label that comes back later is another phase.
    labels int64 (B, 2, T), -1 = unlabelled, valid bool (B, 2, T) -> (B, 2, T // 3, 3): h the
    phase's first frame, t its last, p at random between; none in the rest.
    """
    T = labels.shape[-1]
    phase = labels.masked_fill(~valid, -1)
    changes = phase[..., 1:] != phase[..., :-1]
    begins = F.pad(changes, (1, 0), value=True)                       # (B, 2, T)
    stretch = begins.cumsum(-1)
    together = stretch[..., :, None] == stretch[..., None, :]
    size = together.sum(-1)                                           # frames of i's stretch

    # The first frames of all phases, sorted to the front: there are T // 3 at most.
    position = torch.arange(T, device=labels.device)
    carries = begins & (phase >= 0) & (size >= 3)
    first = torch.where(carries, position, T)
    first = first.sort(-1).values[..., :T // 3]                       # (B, 2, T // 3)
    h = first.clamp(max=T - 1)
    t = h + size.gather(-1, h) - 1
    share = torch.rand(h.shape, device=labels.device)
    p = h + 1 + (share * (t - h - 1)).long()
    return torch.stack((h, p, t), -1) * (first < T)[..., None]


@objective
def vsp_f(z, time, length, valid, *, labels, weight=1.):
    """VSP-P, and phases of one name are alike: + weight * `phase_contrast` of the middle frames.

    z: the embedding, unit length, of a clip of the whole video. No two actions may share a label.
    ours, repaired: the authors' code minimises the positives' share itself, without the -log, and
    so drives frames of one phase apart; and it matches the k-th bridge of one clip with the k-th of
    another, whatever their phases. So the published numbers are another loss's.
    """
    bridges = draw_phases(labels, valid)                              # (B, 2, S, 3)
    walk = vsp(z, time, length, valid, bridges=bridges)

    p = bridges[..., 1]                                               # (B, 2, S), 0 = no bridge
    middles = bridge_points(z, bridges)[:, 1]                         # (M, D), M = B * 2 * S
    phase = labels.gather(-1, p).flatten()                            # (M,)
    return walk + weight * phase_contrast(middles, phase, exists=(p > 0).flatten())


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
