"""Supervised training on the phase labels, the upper bound beside the rows of the paper's Table 4:
the same model, with a linear classifier in place of SCL's projection head."""
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from objectives.objective import masked_mean, objective


@objective
def supervised(z, time, length, valid, *, labels):
    """Cross-entropy of each labelled frame: mean over a video's, both views, then over videos.

    z: the classifier's logits (B, 2, T, classes). labels int64 (B, 2, T): 0 .. classes-1; frames of
    -1, unlabelled, count for nothing, and a video without labels counts 0.
    """
    labelled = valid & (labels >= 0)                                  # (B, 2, T)
    target = labels.masked_fill(~labelled, 0)
    logits = rearrange(z, 'b v t k -> b k v t')
    entropy = F.cross_entropy(logits, target, reduction='none')       # (B, 2, T)
    return masked_mean(entropy, labelled, (1, 2)).mean()


def phase_classifier(width, classes):
    """The embedding (..., D) -> a logit for each phase (..., classes)."""
    return nn.Linear(width, classes)
