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

from model import Backbone, ViT


class LocalViT(ViT):
    def block_arguments(self, images):
        """Which token attends to which: CLS to all, patches to those around."""
        rows, columns = (side // self.patch_size for side in images.shape[-2:])
        y = torch.arange(rows, device=images.device)
        x = torch.arange(columns, device=images.device)
        place = torch.cartesian_prod(y, x)                            # (P, 2)
        apart = (place[:, None] - place).abs().amax(-1)               # (P, P)
        near = F.pad(apart <= 1, (1, 0), value=False)                 # (P, 1 + P), none sees CLS
        return dict(mask=F.pad(near, (0, 0, 1, 0), value=True))       # (1 + P, 1 + P), it sees all


ASSETS = Path(__file__).parent.parent / 'assets'
SIZES = dict(trained_size=72, patch_size=6, width=96, depth=4, heads=3)


def row(vit, weights, image_size):
    return Backbone(partial(vit, **SIZES), layers=SIZES['depth'], image_size=image_size,
                    patch_size=SIZES['patch_size'], weights=ASSETS / weights)


TINY = {
    'tiny': row(ViT, 'tiny_vit.pt', 60),            # trained on 72: fewer patches, faster
    'tiny_local': row(LocalViT, 'tiny_local.pt', 72),
}
