"""Learnable Spatial Token Pooling (paper, section 3.3) and its alternatives of Tables 3, 5 and 6.

A pooler turns the tokens of one frame into a few entity tokens, for every frame alike:

    patches (F, P, L*C), cls (F, C)  ->  entities (F, N, d), attention (F, N, P) or None

F frames, P patches, L*C channels of the L chosen backbone layers of width C, N entities of width d.
"release:" marks what is not in the paper but in the authors' code.
"""
import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import nn


class LSTP(nn.Module):
    """Single-head cross-attention: N learned queries, the same for all frames, attend to patches.

    disjoint: each patch keeps only the entity that attends to it most (future work, section 5.4).
    """
    needs_cls = False               # reads the backbone's CLS token
    multi_layer_by_default = True   # reads several layers unless told otherwise; else the last
    append_ids = True               # its tokens get a one-hot id in mtf.py
    attends = True                  # has an attention, which can be made disjoint

    def __init__(self, channels, cls_width=None, *, entities, width=384, disjoint=False):
        super().__init__()
        self.num_entities = entities
        self.width = width
        self.disjoint = disjoint
        # release: a query is its own vector + one that all share, both so initialised. One vector
        # would be the same function, but Adam, which moves each by a step, trains the sum faster.
        bound = 1 / math.sqrt(entities * width)
        self.own = nn.Parameter(torch.empty(entities, width).uniform_(-bound, bound))
        self.shared = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.key = nn.Linear(channels, width)
        self.value = nn.Linear(channels, width)

    def attend_plainly(self, patches):
        """The idea, for reading and for the tests. patches (F, P, L*C) -> as forward."""
        key = self.key(patches)                                                 # (F, P, d)
        value = self.value(patches)                                             # (F, P, d)
        logits = einsum(self.own + self.shared, key, 'n d, f p d -> f n p') / math.sqrt(self.width)
        attention = self.keep_strongest(logits.softmax(-1))                     # (F, N, P)
        entities = einsum(attention, value, 'f n p, f p d -> f n d')
        return entities, attention

    def forward(self, patches, cls=None):
        """patches (F, P, L*C) -> entities (F, N, d), attention (F, N, P).

        The same as attend_plainly, without projecting all P patches, by two identities:
            q . (W_k f + b_k) = (W_k^T q) . f + q . b_k      project the N queries instead
            A (W_v f + b_v)   = W_v (A f) + (sum of A) b_v   project what has been pooled
        The rows of A sum to 1, unless disjoint attention has taken patches from them.
        """
        query = self.own + self.shared                                          # (N, d)
        query_for_patches = query @ self.key.weight                             # (N, L*C), W_k^T q
        # cancels in the softmax; kept so that key.bias is in the graph, as DDP asks
        constant = query @ self.key.bias                                        # (N,)
        logits = F.linear(patches, query_for_patches.to(patches), constant.to(patches))
        logits = logits.float().mT / math.sqrt(self.width)                      # (F, N, P)
        attention = self.keep_strongest(logits.softmax(-1))                     # (F, N, P), float32
        pooled = einsum(attention.to(patches), patches, 'f n p, f p c -> f n c')
        entities = F.linear(pooled.to(self.value.weight), self.value.weight)    # (F, N, d)
        entities = entities + attention.sum(-1, keepdim=True) * self.value.bias
        return entities, attention

    def keep_strongest(self, attention):
        """disjoint: zero where another entity attends more to the same patch. (F, N, P)"""
        if not self.disjoint:
            return attention
        strongest = F.one_hot(attention.argmax(1), self.num_entities)           # (F, P, N)
        return attention * rearrange(strongest, 'f p n -> f n p')


class FixedWidth(nn.Module):
    """The fixed-width baseline (section 5.5): one layer splits the CLS token into N tokens."""
    needs_cls = True
    multi_layer_by_default = False
    append_ids = True
    attends = False

    def __init__(self, channels, cls_width, *, entities, width=384, **unused):
        super().__init__()
        self.num_entities = entities
        self.width = width
        self.split = nn.Linear(cls_width, width * entities)

    def forward(self, patches, cls):
        # release: channel by channel, (d, N)
        return rearrange(self.split(cls), 'f (d n) -> f n d', n=self.num_entities), None


class OneToken(nn.Module):
    """One token a frame, nothing learned (Table 6): the parent of the next three."""
    needs_cls = False
    multi_layer_by_default = False
    append_ids = False
    attends = False
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
