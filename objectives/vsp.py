"""Video as stochastic process (paper, Table 4)."""
import torch
from einops import rearrange, repeat

from objectives.objective import NEVER, masked_mean, objective, squared_distance


def draw_bridges(valid, segments=5):
    """Random positions h < p < t, one triplet in each segment of a clip; segments overlap by a fifth.

    h lies in the first fifth of its segment, t in the last (to the frame), p anywhere between.
    valid (B, 2, T) -> positions int64 (B, 2, segments, 3), and which exist, bool (B, 2, segments): a clip
    with less than three valid frames has none. Drawn from the global random generator of the device.
    """
    n = valid.sum(-1, keepdim=True)                                          # (B, 2, 1)
    width = (n - 1) / (1 + 0.8 * (segments - 1))
    start = 0.8 * width * torch.arange(segments, device=valid.device)        # (B, 2, segments)
    r_h, r_p, r_t = torch.rand(3, *start.shape, device=valid.device)
    h = (start + 0.2 * width * r_h).floor().long()
    t = (start + width - 0.2 * width * r_t).ceil().long()
    t = torch.minimum(torch.maximum(t, h + 2), n - 1)                        # room for p, in short clips too
    h = torch.minimum(h, t - 2)
    p = h + 1 + (r_p * (t - h - 1)).long()
    exists = (n >= 3).expand_as(p)
    return torch.stack((h, p, t), -1) * exists[..., None], exists


@objective
def vsp(z, time, length, valid, *, segments=5):
    """Video as stochastic process: between two frames the embedding walks a Brownian bridge.

    z: the embedding, unit length. For a bridge from h over p to t, positions in the sampled clip,
        alpha = (p - h) / (t - h),   sigma = alpha (t - p)
        d(x)  = -|x - (1 - alpha) z_h - alpha z_t|^2 / (2 sigma^2)
        L     = -log(exp d(z_p) / (exp d(z_p) + sum_x exp d(x)))
    where x are the three points of every other bridge of the batch; mean over bridges, `segments` a clip
    (`draw_bridges`). A Brownian bridge's variance at p is sigma itself; the method's scale is its square.

    Zhang et al., Modeling Video as Stochastic Processes for Fine-Grained Video Representation Learning,
    CVPR 2023 (the paper's [54]).
    """
    positions, exists = draw_bridges(valid, segments)
    index = repeat(positions, 'b v s x -> b v (s x) d', d=z.shape[-1])
    points = rearrange(z.gather(2, index), 'b v (s x) d -> (b v s) x d', x=3)  # (M, 3, D), M bridges
    h, p, t = rearrange(positions, 'b v s x -> x (b v s)').to(z.dtype)
    exists = exists.flatten()                                                # (M,)

    alpha = (p - h) / (t - h).clamp(min=2)                                   # clamps: for what does not exist
    sigma = (alpha * (t - p)).clamp(min=0.5)
    expected = torch.lerp(points[:, 0], points[:, 2], alpha[:, None])        # (M, D)
    d = -squared_distance(expected, points.flatten(0, 1)) / (2 * sigma.square()[:, None])
    d = rearrange(d, 'm (k x) -> m k x', x=3)                                # bridge m, point x of bridge k
    own = torch.eye(len(d), dtype=torch.bool, device=z.device)
    hit = d[..., 1].diagonal()                                               # (M,)
    rivals = d.masked_fill((own | ~exists)[..., None], NEVER).flatten(1)     # (M, 3M)
    return masked_mean(torch.logaddexp(hit, rivals.logsumexp(-1)) - hit, exists, 0)
