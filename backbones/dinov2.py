"""DINOv2 (Oquab et al., TMLR 2024): what it changed in DINO's ViT.

    block      each branch is scaled channel by channel (LayerScale) before it is added
    registers  four more tokens behind CLS, where the blocks may note what is no patch's own
               (Darcet et al., Vision Transformers Need Registers, ICLR 2024); in the `_reg` models
    positions  trained on 37 x 37 patches of 14 pixels, pictures of 518; 224 give 16 x 16
"""
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from backbones.dino import BASE, SMALL
from model import Backbone, ViT
from mtf import Block


class LayerScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.gamma * x


class ScaledBlock(Block):
    """DINO's block, with a LayerScale at the end of each branch. rotation: of DINOv3 alone."""

    def __init__(self, width, heads, hidden, **options):
        super().__init__(width, heads, hidden, **options)
        self.ls1 = LayerScale(width)
        self.ls2 = LayerScale(width)

    def forward(self, x, **rotation):
        x = x + self.ls1(self.attn(self.norm1(x), **rotation))
        return x + self.ls2(self.mlp(self.norm2(x)))


class DINOv2(ViT):
    block = ScaledBlock


class DINOv2WithRegisters(DINOv2):
    prefix = 5                                                    # CLS and four registers

    def __init__(self, layers=None, **sizes):
        super().__init__(layers, **sizes)
        self.register_tokens = nn.Parameter(torch.empty(1, 4, self.width))
        nn.init.trunc_normal_(self.register_tokens, std=0.02)

    def tokens(self, images):
        x = super().tokens(images)                                # (F, 1 + P, C)
        registers = self.register_tokens.expand(len(x), -1, -1)   # they have no position
        return torch.cat([x[:, :1], registers, x[:, 1:]], 1)      # (F, 5 + P, C)

    def interpolate(self, code, rows, columns):
        """As these models were released: by size, with antialias, another bicubic kernel."""
        # on the CPU where it is Apple's GPU: PyTorch 2.6 has no such kernel there
        device = 'cpu' if code.device.type == 'mps' else code.device
        resized = F.interpolate(code.to(device), (rows, columns), mode='bicubic', antialias=True)
        return resized.to(code.device)


LARGE = dict(width=1024, depth=24, heads=16)


def row(kind, file, sizes):
    return Backbone(
        partial(kind, trained_size=518, patch_size=14, **sizes),
        layers=sizes['depth'], image_size=224, patch_size=14, multiple_of=14,
        weights=f'https://dl.fbaipublicfiles.com/dinov2/{file}_pretrain.pth')


DINOV2 = {}
for name, sizes in dict(dinov2_vits14=SMALL, dinov2_vitb14=BASE, dinov2_vitl14=LARGE).items():
    DINOV2[name] = row(DINOv2, f'{name}/{name}', sizes)
    DINOV2[f'{name}_reg'] = row(DINOv2WithRegisters, f'{name}/{name}_reg4', sizes)
