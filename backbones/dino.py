"""DINO (Caron et al., ICCV 2021): the ViT of model.py in the sizes that were released. The sizes are
also those of DINOv2 and DINOv3, and `row` makes their rows too."""
from functools import partial

from model import Backbone, ViT

SMALL = dict(width=384, depth=12, heads=6)
BASE = dict(width=768, depth=12, heads=12)
LARGE = dict(width=1024, depth=24, heads=16)


def row(make, sizes, patch_size, weights, **others):
    return Backbone(partial(make, patch_size=patch_size, **sizes), layers=sizes['depth'],
                    image_size=224, patch_size=patch_size, weights=weights, **others)


DINO = {}
for name, size, patch_size, sizes in [
        ('dino_vitb8', 'vitbase', 8, BASE), ('dino_vitb16', 'vitbase', 16, BASE),
        ('dino_vits8', 'deitsmall', 8, SMALL), ('dino_vits16', 'deitsmall', 16, SMALL)]:
    file = f'dino_{size}{patch_size}_pretrain'
    address = f'https://dl.fbaipublicfiles.com/dino/{file}/{file}.pth'
    DINO[name] = row(partial(ViT, trained_size=224), sizes, patch_size, address)
