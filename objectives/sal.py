"""Shuffle and learn (paper, Table 4)."""
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from objectives.objective import masked_mean, objective


def draw_triplets(valid, count=8):
    """Random triplets of different valid frames of a clip, each in order of time.

    valid (B, 2, T), T at least 3 -> positions int64 (B, 2, count, 3), and which of them exist,
    bool (B, 2, count): a clip with less than three valid frames has none.
    """
    B, views, T = valid.shape
    # Three frames at random without repetition: those that drew the three highest numbers.
    drawn = torch.rand(B, views, count, T, device=valid.device)
    drawn = drawn.masked_fill(~valid[:, :, None], -1)
    highest = drawn.topk(3).indices
    positions = highest.sort(-1).values                               # (B, 2, count, 3)
    exists = valid.sum(-1, keepdim=True) >= 3                         # (B, 2, 1)
    return positions, exists.expand(-1, -1, count)


@objective
def sal(z, time, length, valid, *, classifier):
    """Shuffle and learn: are these three frames in order?

    z: the embedding as it is. For frames a < b < c (`draw_triplets`) a classifier sees
    (z_a, z_b, z_c), class 1, and as often (z_b, z_a, z_c) or (z_a, z_c, z_b), which is class 0:
        L = cross-entropy, mean over the triplets of this process's batch
    The first frame shown is always earlier than the last: the middle is what tells. classifier:
    (..., 3 D) -> (..., 2), trained with the model.

    Misra et al., Shuffle and Learn: Unsupervised Learning using Temporal Order Verification,
    ECCV 2016 (the paper's [31]).
    """
    positions, exists = draw_triplets(valid)
    frames = z.take_along_dim(positions.flatten(2)[..., None], 2)
    frames = rearrange(frames, 'b v (n x) d -> b v n x d', x=3)
    a, b, c = frames.unbind(3)                                        # each (B, 2, triplets, D)

    ordered = torch.cat((a, b, c), -1)                                # (B, 2, triplets, 3 D)
    early = torch.cat((b, a, c), -1)
    late = torch.cat((a, c, b), -1)
    coin = torch.rand(exists.shape, device=z.device) < 0.5
    shuffled = torch.where(coin[..., None], early, late)

    in_order = F.log_softmax(classifier(ordered), -1)[..., 1]         # (B, 2, triplets)
    not_in_order = F.log_softmax(classifier(shuffled), -1)[..., 0]
    entropy = -(in_order + not_in_order) / 2
    return masked_mean(entropy, exists, (0, 1, 2))


def order_classifier(width, classes=None):
    """Three embeddings (..., 3 D) -> the logits of "shuffled" and "in order" (..., 2). A hidden
    layer, for a linear one adds up three scores and cannot compare frames."""
    return nn.Sequential(
        nn.Linear(3 * width, 128),
        nn.ReLU(),
        nn.Linear(128, 2))
