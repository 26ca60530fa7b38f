"""The objectives: SCL, which trains MV-Former (paper, section 4), and five others of the paper's Table 4.

The paper names MV-Former with TCC, TCN or VSP as future work (section 6). Here each is one pure function,
    loss(z, time, length, valid, **options) -> scalar
    z       (B, 2, T, D)        embeddings of B videos, 2 views (or 2 videos of one action), T frames
    time    (B, 2, T)    int64  each frame's number in its video;   length (B, 2) int64: frames in that video
    valid   (B, 2, T)    bool   False = padding, which stands at a clip's end and counts for nothing
`LOSSES`, at the end, says what each one needs: which embedding, and how the frames are drawn.
In einsums: b, c videos; v, w views; i, j, k frames; d channels. Nothing here crosses GPUs or waits for one.
"""
from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat

NEVER = -1e9  # a logit for what may not be chosen: finite, so that a row without any choice stays finite too
FAR = 1e10    # a cost that no path pays


def objective(loss):
    """What all objectives share: at least float32 inside, whatever comes in, and padding that cannot matter.

    Padded embeddings become zeros here, so nothing that stands there, be it NaN, reaches loss or gradient;
    the objectives still leave those frames out of their sums.
    """
    @wraps(loss)
    def shared(z, time, length, valid, **options):
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(torch.promote_types(z.dtype, torch.float32)).masked_fill(~valid[..., None], 0)
            return loss(z, time, length, valid, **options)
    return shared


def masked_mean(values, mask, dim):
    """Mean of `values` over `dim` where `mask` is True; 0 where it never is."""
    return (values * mask).sum(dim) / mask.sum(dim).clamp(min=1)


def squared_distance(x, y):
    """(..., I, D), (..., J, D) -> (..., I, J): |x_i - y_j|^2, by a product: (I, J, D) is never in memory."""
    return x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :] - 2 * x @ y.mT


# ---------------------------------------------------------------------------------------------------- SCL

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


# ---------------------------------------------------------------------------------------------------- TCN

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


# ---------------------------------------------------------------------------------------------------- TCC

@objective
def tcc(z, time, length, valid, *, temperature=0.1, smoothing=0.1, weight=0.001):
    """Temporal cycle-consistency: from a frame to its soft neighbour in the other sequence, and back.

    z: the embedding as it is, no head, no unit length (unit vectors make these softmaxes nearly uniform).
    For u and v the two sequences of a video, in both orders, with n valid frames in u and t = time / length:
        u'_i  = sum_j alpha_j v_j,   alpha = softmax_j(-|u_i - v_j|^2 / D / temperature)     there
        mu_i  = sum_k beta_k t_k,    beta  = softmax_k(-|u'_i - u_k|^2 / D / temperature)    and back
        var_i = sum_k beta_k (t_k - mu_i)^2
        y_i   = (1 - n smoothing/(n-1)) t_i + smoothing/(n-1) sum_k t_k                      smoothed label
        L     = (y_i - mu_i)^2 / var_i + weight log var_i
    mean over a video's frames, then over videos. Sequences of different videos of the batch do not meet.

    Dwibedi et al., Temporal Cycle-Consistency Learning, CVPR 2019 (the paper's [15]).
    """
    def nearest(query, key, allowed):  # (B, 2, T, D) twice, (B, 2, T) -> weights (B, 2, T, T)
        scores = -squared_distance(query, key) / z.shape[-1] / temperature
        return scores.masked_fill(~allowed[:, :, None], NEVER).softmax(-1)

    v = z.flip(1)
    there = nearest(z, v, valid.flip(1)) @ v                                 # (B, 2, T, D)
    back = nearest(there, z, valid)                                          # (B, 2, T, T)

    t = time.to(z.dtype) / length[..., None]                                 # (B, 2, T)
    mean = einsum(back, t, 'b v i k, b v k -> b v i')
    # A cycle that arrives at one frame alone has no variance: the floor keeps its loss finite.
    variance = (back * (t[:, :, None] - mean[..., None]).square()).sum(-1).clamp(min=1e-12)

    n = valid.sum(-1, keepdim=True).to(z.dtype)
    share = smoothing / (n - 1).clamp(min=1)
    label = (1 - n * share) * t + share * (t * valid).sum(-1, keepdim=True)
    cycle = (label - mean).square() / variance + weight * variance.log()     # (B, 2, T)
    return masked_mean(cycle, valid, (1, 2)).mean()


# ---------------------------------------------------------------------------------------------------- VSP

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


# ---------------------------------------------------------------------------------------------------- SaL

def draw_triplets(valid, count=8):
    """Random triplets of different valid frames of a clip, each in order of time. T must be 3 or more.

    valid (B, 2, T) -> positions int64 (B, 2, count, 3), and which exist, bool (B, 2, count): a clip with
    less than three valid frames has none. Drawn from the global random generator of the device.
    """
    lots = torch.rand(*valid.shape[:2], count, valid.shape[2], device=valid.device)
    positions = lots.masked_fill(~valid[:, :, None], -1).topk(3).indices     # (B, 2, count, 3)
    return positions.sort(-1).values, (valid.sum(-1, keepdim=True) >= 3).expand(-1, -1, count)


@objective
def sal(z, time, length, valid, *, classifier, triplets=8):
    """Shuffle and learn: are these three frames in order?

    z: the embedding as it is. For frames a < b < c (`draw_triplets`, `triplets` of them a view) a classifier
    sees (z_a, z_b, z_c), class 1, and as often (z_b, z_a, z_c) or (z_a, z_c, z_b), class 0:
        L = cross-entropy, mean over the triplets of the batch
    As in the original, the first frame shown is always earlier than the last: the middle is what tells.
    classifier: (..., 3 D) -> (..., 2), trained with the model. It wants a hidden layer: a linear one adds up
    three scores, one a frame, and cannot compare frames.

    Misra et al., Shuffle and Learn: Unsupervised Learning using Temporal Order Verification, ECCV 2016
    (the paper's [31]).
    """
    positions, exists = draw_triplets(valid, triplets)
    index = repeat(positions, 'b v n x -> b v (n x) d', d=z.shape[-1])
    a, b, c = rearrange(z.gather(2, index), 'b v (n x) d -> x b v n d', x=3)  # each (B, 2, triplets, D)
    coin = torch.rand(exists.shape, device=z.device)[..., None] < 0.5
    ordered = torch.cat((a, b, c), -1)                                       # (B, 2, triplets, 3 D)
    shuffled = torch.where(coin, torch.cat((b, a, c), -1), torch.cat((a, c, b), -1))
    in_order = F.log_softmax(classifier(ordered), -1)[..., 1]                # (B, 2, triplets)
    not_in_order = F.log_softmax(classifier(shuffled), -1)[..., 0]
    return masked_mean(-(in_order + not_in_order) / 2, exists, (0, 1, 2))


# ---------------------------------------------------------------------------------------------------- LAV

def soft_dtw(cost, rows, columns, gamma=0.1):
    """The cost of aligning two sequences in order, smoothed so that every alignment has a say.

    cost (B, R, C): of matching frame i of one sequence with frame j of the other; rows, columns (B,) int64:
    the first rows[b] by columns[b] of it count. Returns (B,), differentiable: the last r_ij that counts, with
        r_ij = cost_ij + softmin(r_{i-1,j}, r_{i,j-1}, r_{i-1,j-1})      steps down, right, diagonal
        softmin(x) = -gamma log sum exp(-x / gamma)
    which becomes the DTW distance as gamma -> 0.

    Cuturi and Blondel, Soft-DTW: a Differentiable Loss Function for Time-Series, ICML 2017.
    """
    # r_ij needs only its left, upper and upper left neighbours, so all cells of an anti-diagonal i + j = k
    # are computed at once. Row i pushed to the right by i turns anti-diagonals into columns: row i has
    # cost[i, k - i] in column k, or FAR where that is outside.
    R, C = cost.shape[1:]
    skewed = F.pad(cost, (0, R), value=FAR).flatten(1)[:, :-R]
    skewed = rearrange(skewed, 'b (r k) -> k b r', r=R)                      # (R + C - 1, B, R)

    def from_above(diagonal):  # r_{i,k} -> r_{i-1,k}
        return F.pad(diagonal[:, :-1], (1, 0), value=FAR)

    before, last = torch.full_like(skewed[0], FAR), skewed[0]
    table = [last]
    for costs in skewed[1:]:
        neighbours = torch.stack((last, from_above(last), from_above(before)))  # left, above, above left
        before, last = last, costs - gamma * torch.logsumexp(-neighbours / gamma, 0)
        table.append(last)
    table = torch.stack(table)                                               # (R + C - 1, B, R)
    return table[rows + columns - 2, torch.arange(len(cost), device=cost.device), rows - 1]


@objective
def lav(z, time, length, valid, *, gamma=0.1, weight=0.5, window=10, margin=2.):
    """Learning by aligning videos in time: two sequences align in order, the frames of each stay apart.

    z: the embedding, unit length. For the two sequences a and b of a video, with t = time / length,
        L = (softDTW_gamma(|a_i - b_j|^2) + weight (C(a) + C(b))) / T,   mean over videos, and
        C(a) = sum_ij  d_ij                                      where frames i, j are at most `window` apart,
                       (1 + (t_i - t_j)^2) max(0, margin - d_ij)  else;   d_ij = |a_i - a_j|^2
    C (contrastive inverse difference moment) keeps all frames from meeting in one point.

    Haresh et al., Learning by Aligning Videos in Time, CVPR 2021 (the paper's [21]).
    """
    rows, columns = valid.sum(-1).clamp(min=1).unbind(1)                     # (B,), (B,)
    alignment = soft_dtw(squared_distance(z[:, 0], z[:, 1]), rows, columns, gamma)

    d = squared_distance(z, z)                                               # (B, 2, T, T)
    near = (time[..., :, None] - time[..., None, :]).abs() <= window  # whole frames: no rounding decides
    t = time.to(z.dtype) / length[..., None]
    apart = 1 + (t[..., :, None] - t[..., None, :]).square()
    spread = torch.where(near, d, apart * F.relu(margin - d))
    spread = (spread * (valid[..., :, None] & valid[..., None, :])).sum((1, 2, 3))   # (B,): C(a) + C(b)
    return ((alignment + weight * spread) / z.shape[2]).mean()


class Objective(NamedTuple):
    loss: Callable
    head: bool    # z passes the projection head
    unit: bool    # z has unit length
    pairs: bool   # clips are drawn as anchor, positive, anchor, positive, ..., else as frames in order
    videos: bool  # the two sequences may be two videos of one action; else two views of one video


# SaL takes one thing more, to be trained with the model: a classifier of 3 D numbers into two classes.
LOSSES = {
    'scl': Objective(scl, head=True, unit=True, pairs=False, videos=False),
    'tcn': Objective(tcn, head=False, unit=True, pairs=True, videos=False),
    'tcc': Objective(tcc, head=False, unit=False, pairs=False, videos=True),
    'vsp': Objective(vsp, head=False, unit=True, pairs=False, videos=False),
    'sal': Objective(sal, head=False, unit=False, pairs=False, videos=False),
    'lav': Objective(lav, head=False, unit=True, pairs=False, videos=True),
}
