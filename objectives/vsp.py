"""Video as stochastic process (paper, Table 4; named as future work in section 6)."""
import torch
from einops import rearrange

from objectives.objective import NEVER, masked_mean, objective, squared_distance


def draw_bridges(valid, segments=5):
    """Random positions h < p < t in each segment of a clip; segments overlap by a fifth.

    h lies in the first fifth of its segment, t in the last (to the frame), p anywhere between.
    valid (B, 2, T) -> int64 (B, 2, segments, 3); (0, 0, 0), no bridge, for less than three frames.
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
    bridges = torch.stack((h, p, t), -1)
    return bridges * (n >= 3)[..., None]


@objective
def vsp(z, time, length, valid, *, segments=5, bridges=None):
    """Video as stochastic process: between two frames the embedding walks a Brownian bridge.

    z: the embedding, unit length. For a bridge from h over p to t, positions in the sampled clip,
        alpha = (p - h) / (t - h),   sigma = alpha (t - p)
        d(x)  = -|x - (1 - alpha) z_h - alpha z_t|^2 / (2 sigma^2)
        L     = -log(exp d(z_p) / (exp d(z_p) + sum_x exp d(x)))
    where x are the three points of every other bridge of this process's batch; mean over bridges.
    A Brownian bridge's variance at p is sigma itself; the method's scale is its square.
    bridges: int64 (B, 2, S, 3), h < p < t; a row of another kind, as (0, 0, 0), is none. Without it
    `segments` a clip are drawn.

    Zhang et al., Modeling Video as Stochastic Processes for Fine-Grained Video Representation
    Learning, CVPR 2023 (the paper's [54]).
    """
    if bridges is None:
        bridges = draw_bridges(valid, segments)
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


def bridge_points(z, bridges):
    """The embeddings at h, p and t: z (B, 2, T, D), bridges (B, 2, S, 3) -> (B * 2 * S, 3, D)."""
    points = z.take_along_dim(bridges.flatten(2)[..., None], 2)
    return rearrange(points, 'b v (s x) d -> (b v s) x d', x=3)
