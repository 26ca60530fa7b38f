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

from backbones.dino import BASE, LARGE, SMALL, row
from model import ViT
from mtf import Block


class ScaledBlock(Block):
    """DINO's block, with a LayerScale at the end of each branch. rotation: of DINOv3 alone."""

    def __init__(self, width, heads, hidden, **options):
        super().__init__(width, heads, hidden, **options)
        self.ls1 = nn.ParameterDict(dict(gamma=torch.ones(width)))
        self.ls2 = nn.ParameterDict(dict(gamma=torch.ones(width)))

    def forward(self, x, **rotation):
        x = x + self.ls1.gamma * self.attn(self.norm1(x), **rotation)
        return x + self.ls2.gamma * self.mlp(self.norm2(x))


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


DINOV2 = {}
for name, sizes in dict(dinov2_vits14=SMALL, dinov2_vitb14=BASE, dinov2_vitl14=LARGE).items():
    for kind, in_name, in_file in (DINOv2, '', ''), (DINOv2WithRegisters, '_reg', '_reg4'):
        address = f'https://dl.fbaipublicfiles.com/dinov2/{name}/{name}{in_file}_pretrain.pth'
        make = partial(kind, trained_size=518)
        DINOV2[name + in_name] = row(make, sizes, 14, address, multiple_of=14)
