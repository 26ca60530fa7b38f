"""Tiny ViTs for a CPU, pre-trained on drawn figures by experiments/pretrain_tiny.py.

tiny is DINO's ViT. On the synthetic set every patch of it knows the pose of the figure, wherever it
lies, and then it cannot matter where a pooler looks. So in tiny_local a patch attends, in each
block, to the eight around it and to itself, and never to CLS, which attends to all. After k blocks
it knows what lies within k patches, and nothing of what lies farther.
"""
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange

from model import Backbone, ViT
from mtf import Attention, Block


class LocalAttention(Attention):
    def forward(self, x, near):
        """x (F, S, C); near bool (S, S): may this token attend to that one?"""
        query, key, value = self.split_heads(x)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=near)
        return self.proj(rearrange(out, 'f h s c -> f s (h c)'))

    def attention_map(self, x, near):
        query, key, _ = self.split_heads(x)
        logits = query @ key.mT / query.shape[-1] ** 0.5
        return logits.masked_fill(~near, -torch.inf).softmax(-1)


class LocalBlock(Block):
    def __init__(self, width, heads, hidden, **options):
        super().__init__(width, heads, hidden, **options)
        self.attn = LocalAttention(width, heads)

    def forward(self, x, near):
        x = x + self.attn(self.norm1(x), near)
        return x + self.mlp(self.norm2(x))


class LocalViT(ViT):
    block = LocalBlock

    def block_arguments(self, images):
        rows, columns = (side // self.patch_size for side in images.shape[-2:])
        return dict(near=neighbours(rows, columns).to(images.device))


def neighbours(rows, columns):
    """Which token attends to which, bool (1 + P, 1 + P): CLS to all, patches to those around."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing='ij')
    place = torch.stack([y.flatten(), x.flatten()], -1)               # (P, 2)
    apart = (place[:, None] - place).abs().amax(-1)                   # (P, P)
    near = torch.ones(1 + len(place), 1 + len(place), dtype=torch.bool)
    near[1:, 1:] = apart <= 1
    near[1:, 0] = False
    return near


ASSETS = Path(__file__).parent.parent / 'assets'
SIZES = dict(trained_size=72, patch_size=6, width=96, depth=4, heads=3)


def row(vit, weights, image_size):
    return Backbone(partial(vit, **SIZES), layers=SIZES['depth'], image_size=image_size,
                    patch_size=SIZES['patch_size'], weights=ASSETS / weights)


TINY = {
    'tiny': row(ViT, 'tiny_vit.pt', 60),            # trained on 72: fewer patches, faster
    'tiny_local': row(LocalViT, 'tiny_local.pt', 72),
}
