"""Learnable Spatial Token Pooling (paper, section 3.3) and its alternatives of Tables 3, 5 and 6.

A pooler turns the tokens of one frame into a few entity tokens, for every frame alike:

    patches (F, P, L*C), cls (F, C)  ->  entities (F, N, d), attention (F, N, P) or None

F frames, P patches, L*C channels of the L chosen backbone layers of width C, N entities of width d.
`POOLERS`, at the end, names them all; each class says what the rest of the model must know of it:
    needs_cls    it reads the backbone's CLS token
    many_layers  it reads several layers by default, else only the last
    append_ids   its tokens get a one-hot id in mtf.py
"""
import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import nn


class LSTP(nn.Module):
    """Single-head cross-attention: N learned queries, the same for every frame, look for entities.

    disjoint: each patch keeps only the entity that attends to it most (future work, section 5.4).
    """
    needs_cls = False
    many_layers = True
    append_ids = True

    def __init__(self, channels, cls_width=None, *, entities, width=384, disjoint=False):
        super().__init__()
        self.entities = entities
        self.width = width
        self.disjoint = disjoint
        bound = 1 / math.sqrt(entities * width)
        # A query is the sum of its own vector and one that all share. One parameter would compute
        # the same, but Adam moves every parameter by a step of its own: the sum moves twice as far.
        self.own = nn.Parameter(torch.empty(entities, width).uniform_(-bound, bound))
        self.shared = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.key = nn.Linear(channels, width)
        self.value = nn.Linear(channels, width)

    def attend_plainly(self, patches):
        """The idea: keys and values of all patches, softmax, weighted sum."""
        query = self.own + self.shared                                          # (N, d)
        key = self.key(patches)                                                 # (F, P, d)
        value = self.value(patches)                                             # (F, P, d)
        logits = einsum(query, key, 'n d, f p d -> f n p') / math.sqrt(self.width)
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
        folded = query @ self.key.weight                                        # (N, L*C)
        constant = query @ self.key.bias                                        # (N,)
        logits = F.linear(patches, folded.to(patches), constant.to(patches))    # (F, P, N)
        logits = rearrange(logits.float(), 'f p n -> f n p') / math.sqrt(self.width)
        attention = self.keep_strongest(logits.softmax(-1))                     # (F, N, P)
        pooled = einsum(attention.to(patches), patches, 'f n p, f p c -> f n c')
        entities = F.linear(pooled.to(self.value.weight), self.value.weight)    # (F, N, d)
        entities = entities + attention.sum(-1, keepdim=True) * self.value.bias
        return entities, attention

    def keep_strongest(self, attention):
        """disjoint: zero where another entity attends more to the same patch. (F, N, P)"""
        if not self.disjoint:
            return attention
        strongest = F.one_hot(attention.argmax(1), self.entities)               # (F, P, N)
        return attention * rearrange(strongest, 'f p n -> f n p')


class FixedWidth(nn.Module):
    """The fixed-width baseline (section 5.5): one layer splits the CLS token into N tokens."""
    needs_cls = True
    many_layers = False
    append_ids = True

    def __init__(self, channels, cls_width, *, entities, width=384, disjoint=False):
        super().__init__()
        self.entities = entities
        self.width = width
        self.split = nn.Linear(cls_width, width * entities)

    def forward(self, patches, cls):
        return rearrange(self.split(cls), 'f (d n) -> f n d', n=self.entities), None


class OneToken(nn.Module):
    """One token a frame, nothing learned (Table 6): the parent of the three below."""
    needs_cls = False
    many_layers = False
    append_ids = False
    entities = 1

    def __init__(self, channels, cls_width=None, **ignored):
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
