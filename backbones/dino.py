"""DINO's Vision Transformer (paper, section 3.2): from single frames to patch features.

    images (F, 3, H, W), normalised RGB -> patches (F, P, L*C), CLS token (F, C)

F frames of P patches each; C the width, L the number of blocks whose outputs are kept. First comes
what the other files know of any backbone: `Features`, which it returns, and `Backbone`, its table
row. What DINOv2 and DINOv3 changed in this ViT is in dinov2.py and dinov3.py.
"""
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from backbones.weights import ModelError
from mtf import Block


class Features(NamedTuple):
    """What a backbone makes of F frames."""
    patches: torch.Tensor          # (F, P, L*C), of the chosen layers, without the final norm
    cls: torch.Tensor | None       # (F, C), with the final norm; None where there is no CLS token


class Backbone(NamedTuple):
    """A row of model.BACKBONES: all that other files must know of a backbone."""
    make: Callable                 # make(layers) -> the module, with random weights
    layers: int                    # how many there are to choose from; 1: a single feature map
    image_size: int                # pixels a side of a frame, unless told otherwise
    patch_size: int                # pixels a side; a picture cannot be smaller
    weights: str | Path | None     # address or file of the official weights
    where: str = ''                # where to get them, where `weights` is None
    cls: bool = True               # has a CLS token
    multiple_of: int = 1           # pixels: the sides of a picture are whole numbers of it


class ViT(nn.Module):
    """The Vision Transformer (Dosovitskiy et al., ICLR 2021) of DINO (Caron et al., ICCV 2021).

    layers: blocks, counted from 1 as in the paper, whose outputs are the patch features; the last
    by default. trained_size: pixels a side of the pictures that its positions were trained on; the
    frames' own is image_size, which build_backbone sets. Errors: ModelError for no such layer.
    """
    block = Block                  # dinov2.py and dinov3.py replace these
    eps = 1e-6                     # of LayerNorm
    prefix = 1                     # tokens before the patches: CLS; dinov2.py adds registers

    def __init__(self, layers=None, *, trained_size, patch_size, width, depth, heads):
        super().__init__()
        self.layers = list(layers or [depth])
        if min(self.layers) < 1 or max(self.layers) > depth:
            raise ModelError(f'layers {self.layers}: this backbone has layers 1 to {depth}')
        self.image_size = trained_size
        self.patch_size = patch_size
        self.width = width
        self.channels = width * len(self.layers)
        self.trained_grid = trained_size // patch_size
        # a module that only holds another: DINO's files call this layer patch_embed.proj
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.trained_grid ** 2, width))
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            self.blocks.append(self.block(width, heads, 4 * width, eps=self.eps))
        self.norm = nn.LayerNorm(width, eps=self.eps)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                nn.init.trunc_normal_(weight, std=0.02)
            elif name.endswith('bias'):
                nn.init.zeros_(weight)

    @property
    def grid(self):
        """Patches a side of a picture of image_size; trained_grid is that of the positions."""
        return self.image_size // self.patch_size

    def positions(self, rows, columns):
        """The position code (1, 1 + rows*columns, C) of CLS and patches."""
        if rows == columns == self.trained_grid:
            return self.pos_embed
        cls, patches = self.pos_embed.split([1, self.trained_grid ** 2], 1)
        patches = rearrange(patches, '1 (r c) d -> 1 d r c', r=self.trained_grid)
        patches = self.interpolate(patches.float(), rows, columns)
        patches = rearrange(patches, '1 d r c -> 1 (r c) d')
        return torch.cat([cls, patches.to(cls.dtype)], 1)

    def interpolate(self, grid, rows, columns):
        """(1, C, M, M) -> (1, C, rows, columns).

        The + 0.1 guards against rounding down. It shifts the grid a little; DINO does the same and
        its features depend on it.
        """
        M = self.trained_grid
        factors = (rows + 0.1) / M, (columns + 0.1) / M
        return F.interpolate(grid, scale_factor=factors, mode='bicubic')

    def tokens(self, images):
        """images (F, 3, H, W) -> the tokens that enter the first block (F, prefix + P, C).

        Here the prefix is CLS alone; registers, which have no position, come in dinov2.py.
        """
        x = self.patch_embed.proj(images)                         # (F, C, rows, columns)
        positions = self.positions(*x.shape[-2:])
        x = rearrange(x, 'f c rows columns -> f (rows columns) c')
        cls = self.cls_token.expand(len(x), -1, -1)               # (F, 1, C)
        return torch.cat([cls, x], 1) + positions                 # (F, 1 + P, C)

    def block_arguments(self, images):
        """What every block is given beside the tokens: nothing here, a rotation in DINOv3."""
        return {}

    def forward(self, images):
        """images (F, 3, H, W) -> Features.

        release: patches as they leave a block, WITHOUT the final norm, which was trained on the
        last block's output alone; CLS with it, as DINO.
        """
        x = self.tokens(images)                                   # (F, prefix + P, C)
        arguments = self.block_arguments(images)
        chosen = {}
        for number, block in enumerate(self.blocks, 1):
            x = block(x, **arguments)
            if number in self.layers:
                chosen[number] = x[:, self.prefix:]               # (F, P, C)
        patches = torch.cat([chosen[number] for number in self.layers], -1)
        return Features(patches, self.norm(x[:, 0]))              # (F, P, L*C), (F, C)

    def attention_map(self, images):
        """images (F, 3, H, W) -> the last block's attention, CLS over patches, (F, heads, P)."""
        x = self.tokens(images)
        arguments = self.block_arguments(images)
        for block in self.blocks[:-1]:
            x = block(x, **arguments)
        last = self.blocks[-1]
        attention = last.attn.attention_map(last.norm1(x), **arguments)
        return attention[:, :, 0, self.prefix:]                   # of (F, heads, S, S)


ADDRESS = 'https://dl.fbaipublicfiles.com/dino/'
SMALL = dict(width=384, depth=12, heads=6)
BASE = dict(width=768, depth=12, heads=12)


def row(weights, patch_size, sizes):
    return Backbone(partial(ViT, trained_size=224, patch_size=patch_size, **sizes),
                    layers=sizes['depth'], image_size=224, patch_size=patch_size, weights=weights)


DINO = {
    'dino_vitb8': row(ADDRESS + 'dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth', 8, BASE),
    'dino_vitb16': row(ADDRESS + 'dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth', 16, BASE),
    'dino_vits8': row(ADDRESS + 'dino_deitsmall8_pretrain/dino_deitsmall8_pretrain.pth', 8, SMALL),
    'dino_vits16': row(
        ADDRESS + 'dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth', 16, SMALL),
}
