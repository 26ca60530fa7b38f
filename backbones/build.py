"""A backbone by its name, with its weights: frozen, or with parts that are trained."""
import sys

import torch

from backbones.weights import load_weights
from lstp import POOLERS
from model import backbones
from running.errors import UserError


def build_backbone(name, *, weights=None, layers=None, image_size=None):
    """The backbone with its weights, frozen, in eval mode.

    weights: a file, None for the official ones, or 'random': always the same draw, to try speed
    and memory without a download. Errors: UserError.
    """
    row = backbones()[name]
    image_size = image_size or row.image_size
    if image_size < row.patch_size:
        raise UserError(f'--image-size {image_size}: {name} needs at least {row.patch_size}')
    if image_size % row.multiple_of:
        raise UserError(f'--image-size {image_size}: {name} needs a multiple of {row.multiple_of}')
    layers = [row.layers] if layers is None else layers
    if not layers or not set(layers) <= set(range(1, row.layers + 1)):
        raise UserError(f'--layers {",".join(map(str, layers))}: give numbers from 1 to '
                        f'{row.layers}, the layers of {name}')
    if weights is None and row.weights is None:
        raise UserError(f'{name}: has no official weights to fetch; {row.where}')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = row.make(layers)
    if weights != 'random':
        sentence = load_weights(backbone, weights or row.weights)
        if sentence:
            print(f'{name}: {sentence}', file=sys.stderr)
    backbone.image_size = image_size
    return backbone.requires_grad_(False).eval()


def unfreeze(backbone, s):
    """Let the parts named in train_backbone be trained, e.g. ['layer4']. Errors: UserError."""
    parts = dict(backbone.named_children()) | dict(backbone.named_parameters(recurse=False))
    for name in s.train_backbone:
        if name not in parts:
            raise UserError(f'--train-backbone {name}: {s.backbone} has the parts '
                            f'{", ".join(parts)}')
        parts[name].requires_grad_(True)
    side = 4 * backbone.patch_size
    # it needs a gradient itself, so that there is a graph where no trained part acts
    picture = torch.zeros(1, 3, side, side, requires_grad=True)
    trained = {name: weight for name, weight in backbone.named_parameters() if weight.requires_grad}
    with torch.enable_grad():                             # also where a model is only evaluated
        patches, cls = backbone(picture)
        used = cls if POOLERS[s.pool].needs_cls else patches
        gradients = torch.autograd.grad(used.sum(), trained.values(), allow_unused=True)
    for name, gradient in zip(trained, gradients):
        if gradient is None:
            raise UserError(f'--train-backbone {",".join(s.train_backbone)}: {name} does not act '
                            f'on what pool {s.pool} reads, layers {s.layers}; choose other parts')


def to_half(backbone, name, dtype):
    """Let a frozen backbone compute in 16 bits, where it works in them. dtype: bfloat16, float16 or
    None, as running.processes.half_dtype says."""
    if dtype == torch.bfloat16 or dtype == torch.float16 and backbones()[name].float16:
        backbone.to(dtype)
