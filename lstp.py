"""Learnable Spatial Token Pooling (paper, section 3.3) and its alternatives of Tables 3, 5 and 6.

A pooler turns the tokens of one frame into a few entity tokens, for every frame alike:

    patches (F, P, L*C), cls (F, C)  ->  entities (F, N, d), attention (F, N, P) or None

F frames (in code F is torch.nn.functional), P patches, L*C channels of the L chosen backbone layers
of width C, N entities of width d. The marks say where a line comes from if not from the paper:
`CARL:` the method it builds on, `release:` the authors' code, `ours:` neither. Unmarked widths,
rates and initial weights are the release's.
"""
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn


class Pooler(nn.Module):
    """Made of channels (L*C) and cls_width (C); has num_entities (N), width (d), and what model.py
    asks of each kind."""
    needs_cls = False               # True: it reads the CLS token, which not every backbone has
    append_ids = False              # True: its tokens get a one-hot id in mtf.py, to be told apart
    multi_layer_by_default = False  # True: it reads several layers, unless told otherwise


class LSTP(Pooler):
    """Cross-attention: N learned queries, the same for all frames, attend to the patches of each.
    release: one head, no projection of queries or output.
    disjoint: each patch keeps only the entity that attends to it most (future work, section 5.4).
    """
    append_ids = True
    multi_layer_by_default = True

    def __init__(self, channels, cls_width=None, *, entities, width=384, disjoint=False):
        super().__init__()
        self.num_entities = entities
        self.width = width
        self.disjoint = disjoint
        # release: a query is its own vector + one that all share, both uniform within the bound.
        # One would be the same function, but Adam moves each by about lr, the sum by up to 2 lr.
        bound = 1 / math.sqrt(entities * width)
        self.own = nn.Parameter(torch.empty(entities, width).uniform_(-bound, bound))
        self.shared = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.key = nn.Linear(channels, width)
        self.value = nn.Linear(channels, width)

    def attend_plainly(self, patches):
        """The idea, which `forward` computes faster: the same input and output."""
        query = self.own + self.shared                                          # (N, d)
        key = self.key(patches)                                                 # (F, P, d)
        value = self.value(patches)                                             # (F, P, d)
        logits = query @ key.mT / math.sqrt(self.width)                         # (F, N, P)
        attention = self.keep_strongest(logits.softmax(-1))
        return attention @ value, attention                                     # (F, N, d)

    def forward(self, patches, cls=None):
        """patches (F, P, L*C) -> entities (F, N, d), attention (F, N, P). No patch is projected,
        only the N queries and the N pooled vectors:
            q . (W_k f + b_k) = (W_k^T q) . f + q . b_k
            A (W_v f + b_v)   = W_v (A f) + (sum of A) b_v
        For three layers of a ViT-B/8 that is 13.5 million multiply-adds a frame, not 1,389 million.
        """
        query = self.own + self.shared                                          # (N, d)
        for_patches = query @ self.key.weight                                   # (N, L*C), W_k^T q
        # q . b_k is the same for all patches, so the softmax cancels it; but
        # DistributedDataParallel wants every parameter used
        constant = query @ self.key.bias                                        # (N,)
        logits = F.linear(patches, for_patches, constant) / math.sqrt(self.width)   # (F, P, N)
        attention = self.keep_strongest(logits.mT.softmax(-1))                  # (F, N, P)
        pooled = attention @ patches                                            # (F, N, L*C)
        entities = F.linear(pooled, self.value.weight)                          # (F, N, d)
        # the sum is 1, unless disjoint attention has taken patches from an entity
        return entities + attention.sum(-1, keepdim=True) * self.value.bias, attention

    def keep_strongest(self, attention):
        """disjoint: zero where another entity attends more to the same patch. (F, N, P)"""
        if self.disjoint:
            strongest = F.one_hot(attention.argmax(1), self.num_entities)       # (F, P, N)
            attention = attention * strongest.mT
        return attention


class FixedWidth(Pooler):
    """The fixed-width baseline (section 5.5): one layer splits the CLS token into N tokens."""
    needs_cls = True
    append_ids = True

    def __init__(self, channels, cls_width, *, entities, width=384, **unused):
        super().__init__()
        self.num_entities = entities
        self.width = width
        self.split = nn.Linear(cls_width, width * entities)

    def forward(self, patches, cls):
        # release: N varies fastest
        return rearrange(self.split(cls), 'f (d n) -> f n d', n=self.num_entities), None


class OneToken(Pooler):
    """One token a frame, nothing learned (Table 6): the parent of the next three."""
    num_entities = 1

    def __init__(self, channels, cls_width=None, **unused):
        super().__init__()
        self.width = cls_width if self.needs_cls else channels


class ClsToken(OneToken):
    needs_cls = True

    def forward(self, patches, cls):
        return cls[:, None], None                                               # (F, 1, C)


class AveragePool(OneToken):
    def forward(self, patches, cls=None):
        return patches.mean(1, keepdim=True), None                              # (F, 1, L*C)


class MaxPool(OneToken):
    def forward(self, patches, cls=None):
        return patches.amax(1, keepdim=True), None                              # (F, 1, L*C)


POOLERS = {'lstp': LSTP, 'fwb': FixedWidth, 'cls': ClsToken, 'avg': AveragePool, 'max': MaxPool}
