"""DINOv3 (Simeoni et al., 2025): what it changed in DINOv2 with registers.

    positions  are not added: queries and keys are turned by angles that depend on their place, so
               that the product of two depends on how far apart they are (RoPE, Su et al., 2021)
    registers  (storage tokens) and CLS are not turned
    biases     of keys are masked; names.py multiplies by the mask that comes with the weights
"""
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from backbones.dino import BASE, LARGE, SMALL, row
from backbones.dinov2 import DINOv2WithRegisters, ScaledBlock
from mtf import Attention


def rotate(x, cosine, sine):
    """Turn channel i with channel i + D/2. x (F, heads, S, D); cosine, sine (S, D/2), float32."""
    a, b = x.float().chunk(2, -1)                                 # (F, heads, S, D/2)
    turned = torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)
    return turned.to(x.dtype)


class RotaryAttention(Attention):
    def split_heads(self, x, cosine, sine):
        """x (F, S, C) -> queries, keys, values, each (F, heads, S, D)."""
        query, key, value = super().split_heads(x)
        return rotate(query, cosine, sine), rotate(key, cosine, sine), value


class RotaryBlock(ScaledBlock):
    def __init__(self, width, heads, hidden, **options):
        super().__init__(width, heads, hidden, **options)
        self.attn = RotaryAttention(width, heads)


class DINOv3(DINOv2WithRegisters):
    block = RotaryBlock
    eps = 1e-5

    def __init__(self, layers=None, *, heads, **sizes):
        super().__init__(layers, trained_size=224, heads=heads, **sizes)
        del self.pos_embed
        Q = self.width // heads // 4
        periods = 100 ** (torch.arange(Q) / Q)                    # (Q,)
        self.rope_embed = nn.Module()                             # the files round to bfloat16
        self.rope_embed.register_buffer('periods', periods.bfloat16().float())

    def positions(self, rows, columns):
        return 0.                                                 # nothing is added to the tokens

    def angles(self, rows, columns):
        """Of all patches, row by row (P, D/2): first by the row, then by the column."""
        periods = self.rope_embed.periods.float()                 # (Q,), Q = D/4
        y = 2 * (torch.arange(rows, device=periods.device) + 0.5) / rows - 1
        x = 2 * (torch.arange(columns, device=periods.device) + 0.5) / columns - 1
        place = torch.cartesian_prod(y, x)                        # (P, 2)
        angles = 2 * math.pi * place[..., None] / periods         # (P, 2, Q)
        return rearrange(angles, 'p yx q -> p (yx q)')

    def block_arguments(self, images):
        rows, columns = (side // self.patch_size for side in images.shape[-2:])
        angles = self.angles(rows, columns)                       # (P, D/2)
        angles = F.pad(angles, (0, 0, self.prefix, 0))            # 0: CLS and registers stay
        return dict(cosine=angles.cos(), sine=angles.sin())       # (prefix + P, D/2)


WHERE = ('they are gated: ask for them at https://github.com/facebookresearch/dinov3 or, as '
         'facebook/dinov3-..., at Hugging Face, then give the file by --weights FILE')

DINOV3 = {}
for name, sizes in dict(dinov3_vits16=SMALL, dinov3_vitb16=BASE, dinov3_vitl16=LARGE).items():
    DINOV3[name] = row(DINOv3, sizes, 16, None, where=WHERE, float16=False)
