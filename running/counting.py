"""What each part of a model costs: output shape, parameters, multiply-adds, as PyTorch counts."""
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

SECTIONS = {'backbone': '3.2', 'pool': '3.3'}             # of the paper; the rest is 3.4


def costs(model):
    """A model on the "meta" device -> for each part of it, in the order of a clip's way,
    (name, paper's section, output shape, parameters, trained?, multiply-adds)."""
    parts = {'backbone': model.backbone, 'pool': model.pool, 'mtf.fc': model.mtf.fc}
    for number, block in enumerate(model.mtf.blocks):
        parts[f'mtf.blocks.{number}'] = block
    parts['mtf.out'] = model.mtf.out
    shapes = {}
    for name, module in parts.items():
        module.register_forward_hook(partial(remember_shape, shapes, name))
    model.frames_at_once = {'meta': model.mtf.frames}     # a clip is one call of the backbone
    size = model.backbone.image_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, model.mtf.frames, 3, size, size))
    flops = counter.get_flop_counts()
    rows = []
    for name, module in parts.items():
        weights = list(module.parameters())
        parameters = sum(weight.numel() for weight in weights)
        trained = any(weight.requires_grad for weight in weights)
        own = flops.get(f'MVFormer.{name}', {})           # an average multiplies nothing
        macs = sum(own.values()) // 2
        rows.append((name, SECTIONS.get(name, '3.4'), shapes[name], parameters, trained, macs))
    return rows


def remember_shape(shapes, name, module, inputs, output):
    tensor = output if torch.is_tensor(output) else output[0]
    shapes[name] = tuple(tensor.shape)
