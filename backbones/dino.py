"""DINO (Caron et al., ICCV 2021): the ViT of model.py in the sizes released, SMALL and BASE.
DINOv2 and DINOv3 have these too, and LARGE; `row` makes the rows of all three."""
from functools import partial

from model import Backbone, ViT

SMALL = dict(width=384, depth=12, heads=6)
BASE = dict(width=768, depth=12, heads=12)
LARGE = dict(width=1024, depth=24, heads=16)


def row(make, sizes, patch_size, weights, **others):
    make = partial(make, patch_size=patch_size, **sizes)
    depth = sizes['depth']
    return Backbone(make, layers=depth, image_size=224, patch_size=patch_size, weights=weights,
                    **others)


def dino(size, patch_size, sizes):
    make = partial(ViT, trained_size=224)
    file = f'dino_{size}{patch_size}_pretrain'
    address = f'https://dl.fbaipublicfiles.com/dino/{file}/{file}.pth'
    return row(make, sizes, patch_size, address)


DINO = {
    'dino_vitb8': dino('vitbase', 8, BASE),
    'dino_vitb16': dino('vitbase', 16, BASE),
    'dino_vits8': dino('deitsmall', 8, SMALL),
    'dino_vits16': dino('deitsmall', 16, SMALL),
}
