"""Learnable Spatial Token Pooling (paper, section 3.3) and the poolers it is compared with (Tables 3, 5 and 6).

A pooler turns the tokens of one frame into a few entity tokens, for every frame alike:

    patches (F, P, C_in), cls (F, C) -> entities (F, N, d), attention (F, N, P) or None

F frames, P patches, C_in = L*C channels of the chosen backbone layers, N entities of width d. `entities`, `width` and
`ids` (does MTF append a one-hot id?) tell the next stage, mtf.py, what arrives.
"""
import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import nn


class LSTP(nn.Module):
    """Single-head cross-attention in which N learned queries, the same for every frame, look for their entities.

    disjoint: each patch keeps only the entity that attends to it most (the paper's future work, section 5.4).
    """
    ids = True

    def __init__(self, channels, entities, width=384, disjoint=False):
        super().__init__()
        self.entities, self.width, self.disjoint = entities, width, disjoint
        bound = 1 / math.sqrt(entities * width)
        # a query is the sum of each entity's own and one that all share, both uniform
        self.own = nn.Parameter(torch.empty(entities, width).uniform_(-bound, bound))
        self.shared = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.key = nn.Linear(channels, width)
        self.value = nn.Linear(channels, width)

    def forward(self, patches, cls=None):
        """patches (F, P, C_in) -> entities (F, N, d), attention (F, N, P); its rows sum to 1 unless disjoint.

        The plain form projects all P patches to keys and values. Two identities spare that, exactly:
            q . (W_k f + b_k) = (W_k^T q) . f + q . b_k        fold the projection into the query
            A (W_v f + b_v)   = W_v (A f) + (sum of A) b_v     project what was pooled, not what is pooled
        """
        query = self.own + self.shared
        folded, constant = query @ self.key.weight, query @ self.key.bias       # (N, C_in), (N,)
        logits = F.linear(patches, folded.to(patches), constant.to(patches)).mT           # (F, N, P)
        attention = (logits.float() / math.sqrt(self.width)).softmax(-1)                  # (F, N, P)
        if self.disjoint:
            strongest = F.one_hot(attention.argmax(1), self.entities)                     # (F, P, N)
            attention = attention * rearrange(strongest, 'f p n -> f n p')
        pooled = einsum(attention.to(patches), patches, 'f n p, f p c -> f n c')
        entities = F.linear(pooled.to(self.value.weight), self.value.weight) + attention.sum(-1, keepdim=True) * self.value.bias
        return entities, attention


class FixedWidth(nn.Module):
    """The fixed-width baseline: the CLS token split into N tokens by one linear layer (paper, section 5.5)."""
    ids = True

    def __init__(self, channels, entities, width=384):
        super().__init__()
        self.entities, self.width = entities, width
        self.split = nn.Linear(channels, width * entities)

    def forward(self, patches, cls):
        return rearrange(self.split(cls), 'f (d n) -> f n d', n=self.entities), None


class OneToken(nn.Module):
    """One token a frame without any learning: 'cls', or the 'avg' or 'max' over the patches (Table 6)."""
    ids, entities = False, 1

    def __init__(self, channels, how):
        super().__init__()
        self.width, self.how = channels, how

    def forward(self, patches, cls):
        token = {'cls': lambda: cls, 'avg': lambda: patches.mean(1), 'max': lambda: patches.amax(1)}[self.how]()
        return token[:, None], None                                                       # (F, 1, C_in)
