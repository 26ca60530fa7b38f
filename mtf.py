"""Multi-entity Temporal Fusion (paper, section 3.4): all entities of all frames in one transformer.

    entities (B, T, N, d), valid (B, T)  ->  one embedding a frame (B, T, D), not normalised

B clips (in training the two views of every video), T frames, N entities of width d, H the width of
the transformer. Each entity of each frame is a token that attends to all entities of all frames; a
one-hot id tells the entities apart, a position code the frames.
"""
from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017) of B sequences of S tokens of width C.
    rotation: of DINOv3's subclass alone (backbones/dinov3.py), whose split_heads takes it."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def split_heads(self, x):
        """x (B, S, C) -> queries, keys, values (B, h, S, c): h heads of width c = C/h."""
        return rearrange(self.qkv(x), 'b s (three h c) -> three b h s c', three=3, h=self.heads)

    def forward(self, x, mask=None, **rotation):
        """x (B, S, C); mask bool, broadcast to (B, heads, S, S): True where a row's
        token may look at a column's."""
        query, key, value = self.split_heads(x, **rotation)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.proj(rearrange(out, 'b h s c -> b s (h c)'))

    def attention_map(self, x, mask=None, **rotation):
        """The attention (B, heads, S, S), for pictures: the fused kernel never writes it down."""
        query, key, _ = self.split_heads(x, **rotation)
        logits = query @ key.mT / query.shape[-1] ** 0.5
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        return logits.softmax(-1)


class Block(nn.Module):
    """A pre-norm transformer block: DINO's over CLS and patches of a frame (GELU, eps 1e-6),
    MTF's over the entities of all frames (CARL: pre-norm too, ReLU, eps 1e-5, dropout)."""

    def __init__(self, width, heads, hidden, *, activation=nn.GELU, eps=1e-6, dropout=0.):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = nn.Sequential(OrderedDict(
            fc1=nn.Linear(width, hidden), activation=activation(), fc2=nn.Linear(hidden, width)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask=None):
        x = x + self.dropout(self.attn(self.norm1(x), mask))
        return x + self.dropout(self.mlp(self.norm2(x)))


def position_code(frames, trained_frames, width, device=None):
    """Sine code of the place in the sequence, not of the frame's number in the video -> (T, H).
    CARL: the places are spread over 0 .. trained_frames-1. Those of a training clip, padding too,
    are 0, 1, 2 ...; those of a whole video, be it longer or shorter, lie closer or farther apart.
    And channel c has the exponent c/H, where Vaswani et al. give 2i and 2i+1 the same."""
    position = torch.linspace(0, trained_frames - 1, frames, device=device)    # (T,)
    channel = torch.arange(width, device=device)                               # (H,)
    angle = position[:, None] / 10000 ** (channel / width)                     # (T, H)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


def readout_cls(tokens):
    """The first entity is the output token, the paper's CLS style. (B, T, N, H) -> (B, T, H)."""
    return tokens[:, :, 0]


def readout_avg(tokens):
    return tokens.mean(2)


READOUTS = {'cls': readout_cls, 'avg': readout_avg}


class MTF(nn.Module):
    """entity_width: d; num_entities: N; append_ids: see lstp.py; frames: T of the training clips;
    width: H; hidden: of the blocks' MLPs; embedding: D; merge: so many neighbouring frames share
    tokens (future work, section 6)."""

    def __init__(self, entity_width, num_entities, *, frames, append_ids=True, fc_width=512,
                 width=256, depth=3, heads=8, hidden=1024, embedding=128, readout='cls',
                 dropout=0.1, merge=1):
        super().__init__()
        self.frames = frames
        self.width = width
        self.merge = merge
        self.readout = READOUTS[readout]
        ids = torch.eye(num_entities) if append_ids else None
        self.register_buffer('ids', ids, persistent=False)
        inputs = entity_width + num_entities if append_ids else entity_width
        # CARL: two FC layers, each with dropout (of an id, too), BatchNorm, ReLU; one to width H
        self.fc = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(inputs, fc_width),
            nn.BatchNorm1d(fc_width), nn.ReLU(),
            nn.Dropout(dropout), nn.Linear(fc_width, fc_width),
            nn.BatchNorm1d(fc_width), nn.ReLU(),
            nn.Linear(fc_width, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            block = Block(width, heads, hidden, activation=nn.ReLU, eps=1e-5, dropout=dropout)
            self.blocks.append(block)
        self.out = nn.Linear(width, embedding)
        for block in self.blocks:
            # Xavier's bound depends on the shape; Q, K and V, in one matrix, each get their own
            for weight in (*block.attn.qkv.weight.chunk(3), block.attn.proj.weight,
                           block.mlp.fc1.weight, block.mlp.fc2.weight):
                nn.init.xavier_uniform_(weight)

    def forward(self, entities, valid=None):
        """entities (B, T, N, d), valid bool (B, T), False where a clip is padded -> (B, T, D)."""
        b, t, n, _ = entities.shape
        if self.ids is not None:
            ids = self.ids.to(entities).expand(b, t, n, n)
            entities = torch.cat([entities, ids], -1)                          # (B, T, N, d+N)
        # CARL: BatchNorm over B*T*N rows, padding too; over all processes: running/processes.py
        x = self.fc(rearrange(entities, 'b t n d -> (b t n) d'))
        x = rearrange(x, '(b t n) h -> b t n h', b=b, t=t)
        code = position_code(t, self.frames, self.width, x.device)
        x = self.dropout(x + rearrange(code, 't h -> t 1 h'))
        if self.merge > 1:
            x, valid = merge_frames(x, valid, self.merge)             # T becomes ceil(T/merge)
        # one sequence a clip: every entity of every frame
        x = rearrange(x, 'b t n h -> b (t n) h')
        mask = None if valid is None else repeat(valid, 'b t -> b 1 1 (t n)', n=n)
        for block in self.blocks:
            x = block(x, mask)                            # nobody looks at a frame of padding
        # CARL: no LayerNorm after the last block
        x = rearrange(x, 'b (t n) h -> b t n h', n=n)
        frame = self.readout(x)                                       # (B, ceil(T/merge), H)
        if self.merge > 1:
            frame = repeat(frame, 'b t h -> b (t k) h', k=self.merge)[:, :t]
        return self.out(frame)                                                 # (B, T, D)


def merge_frames(x, valid, k):
    """Average each entity's tokens over k neighbouring frames, padding left out:
    x (B, T, N, H), valid bool (B, T) or None -> (B, G, N, H), bool (B, G), G = ceil(T/k)."""
    if valid is None:
        valid = x.new_ones(x.shape[:2], dtype=torch.bool)
    missing = (-x.shape[1]) % k                           # frames short of a whole group
    x = rearrange(F.pad(x, (0, 0, 0, 0, 0, missing)), 'b (t k) n h -> b t k n h', k=k)
    keep = rearrange(F.pad(valid.to(x), (0, missing)), 'b (t k) -> b t k 1 1', k=k)
    count = keep.sum(2)                                                        # (B, G, 1, 1)
    return (x * keep).sum(2) / count.clamp(min=1), count[:, :, 0, 0] > 0
