"""The Vision Transformer of DINO (paper, section 3.2), written by hand."""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from backbones.weights import ModelError
from mtf import Block


class Features(NamedTuple):
    """What a backbone sees in F frames: patches (F, P, L*C) of the chosen layers, cls (F, C) or None."""
    patches: torch.Tensor
    cls: torch.Tensor | None


class ViT(nn.Module):
    """The Vision Transformer (Dosovitskiy et al., 2021) under the parameter names of DINO (Caron et al., 2021).

    layers: the blocks, counted from 1 as in the paper, whose outputs are the patch features; default the last.
    """

    def __init__(self, *, image_size, patch_size, width, depth, heads, layers=None):
        super().__init__()
        self.layers = list(layers or [depth])
        if not all(1 <= layer <= depth for layer in self.layers):
            raise ModelError(f'layers {self.layers}: this backbone has layers 1 to {depth}')
        self.patch_size, self.grid = patch_size, image_size // patch_size
        self.width, self.channels = width, width * len(self.layers)
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid ** 2, width))
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                nn.init.trunc_normal_(weight, std=0.02)
            elif name.endswith('bias'):
                nn.init.zeros_(weight)

    def positions(self, rows, columns):
        """Position code (1, 1 + rows*columns, C): for other sizes interpolated as DINO does; CLS keeps its own."""
        if rows == columns == self.grid:
            return self.pos_embed
        grid = rearrange(self.pos_embed[:, 1:], '1 (r c) d -> 1 d r c', r=self.grid).float()
        scale = (rows + 0.1) / self.grid, (columns + 0.1) / self.grid                     # 0.1: against rounding down
        grid = F.interpolate(grid, scale_factor=scale, mode='bicubic')
        grid = rearrange(grid, '1 d r c -> 1 (r c) d').to(self.pos_embed)
        return torch.cat([self.pos_embed[:, :1], grid], 1)

    def tokens(self, images):
        """images (F, 3, H, W) -> (F, 1+P, C), the CLS token first."""
        x = self.patch_embed.proj(images)                                                 # (F, C, rows, columns)
        positions = self.positions(*x.shape[-2:])
        cls = self.cls_token.expand(len(x), -1, -1)                                       # einops on it would compile twice
        return torch.cat([cls, rearrange(x, 'f c r k -> f (r k) c')], 1) + positions

    def forward(self, images):
        x, chosen = self.tokens(images), {}
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if number in self.layers:
                chosen[number] = x[:, 1:]                                                 # as they leave the block
        patches = torch.cat([chosen[layer] for layer in self.layers], -1)
        return Features(patches, self.norm(x[:, :1])[:, 0])

    def attention_map(self, images):
        """The last block's attention (F, heads, 1+P, 1+P), for pictures."""
        x = self.tokens(images)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.blocks[-1].attn.attention_map(self.blocks[-1].norm1(x))


from pathlib import Path
from functools import partial
class Backbone(NamedTuple):
    make: object
    layers: int
    image_size: int
    patch_size: int
    weights: object
    where: str = ''
    cls: bool = True


def row(patch, width, heads, depth, size, weights):
    def make(layers):
        return ViT(image_size=size, patch_size=patch, width=width, depth=depth, heads=heads, layers=layers)
    return Backbone(make, depth, size, patch, weights)


URL = 'https://dl.fbaipublicfiles.com/dino/'
DINO = {
    'dino_vitb8': row(8, 768, 12, 12, 224, URL + 'dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth'),
    'dino_vitb16': row(16, 768, 12, 12, 224, URL + 'dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth'),
    'dino_vits8': row(8, 384, 6, 12, 224, URL + 'dino_deitsmall8_pretrain/dino_deitsmall8_pretrain.pth'),
    'dino_vits16': row(16, 384, 6, 12, 224, URL + 'dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth'),
    'tiny': row(6, 96, 3, 4, 72, Path(__file__).parent.parent / 'assets' / 'tiny_vit.pt'),
}
