"""DINO (Caron et al., ICCV 2021): the ViT of model.py in the sizes that were released. SMALL and
BASE are also those of DINOv2 and DINOv3."""
from functools import partial

from model import Backbone, ViT

SMALL = dict(width=384, depth=12, heads=6)
BASE = dict(width=768, depth=12, heads=12)


def row(size, patch_size, sizes):
    file = f'dino_{size}{patch_size}_pretrain'
    return Backbone(
        partial(ViT, trained_size=224, patch_size=patch_size, **sizes),
        layers=sizes['depth'], image_size=224, patch_size=patch_size,
        weights=f'https://dl.fbaipublicfiles.com/dino/{file}/{file}.pth')


DINO = {
    'dino_vitb8': row('vitbase', 8, BASE),
    'dino_vitb16': row('vitbase', 16, BASE),
    'dino_vits8': row('deitsmall', 8, SMALL),
    'dino_vits16': row('deitsmall', 16, SMALL),
}
