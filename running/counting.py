"""What a model costs: output shapes, parameters, multiply-adds of its parts, as PyTorch counts."""
import time

import torch

from running.processes import print_rank0


def count(model, inputs, parts):
    """Run a model once -> {part: (output shape, parameters, trained?, multiply-adds)}.

    parts: {name: module} by the names that they have in the model. On the "meta" device this takes
    no memory and no time.
    """
    from torch.utils.flop_counter import FlopCounterMode  # late: slow to import
    shapes = {}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for name, module in parts.items():
            module.register_forward_hook(remember_shape(shapes, name))
        model(inputs)
    flops = counter.get_flop_counts()
    counts = {}
    for name, module in parts.items():
        parameters = sum(weight.numel() for weight in module.parameters())
        trained = any(weight.requires_grad for weight in module.parameters())
        own = flops.get(f'{type(model).__name__}.{name}', {})      # an average multiplies nothing
        counts[name] = shapes[name], parameters, trained, sum(own.values()) // 2
    return counts


def remember_shape(shapes, name):
    """A forward hook that notes a module's output shape; the rows of several calls add up."""
    def hook(module, inputs, output):
        tensor = output if torch.is_tensor(output) else output[0]
        shapes.setdefault(name, [0, *tensor.shape[1:]])
        shapes[name][0] += len(tensor)
    return hook


@torch.no_grad()
def say_if_slow(model, frames, size):
    """Before a run on a CPU: how long its frames take in the backbone, from a trial of two."""
    images = torch.zeros(2, 3, size, size)
    seconds = []
    for _ in range(3):                                    # the first call prepares
        begin = time.perf_counter()
        model.features(images)
        seconds.append(time.perf_counter() - begin)
    hours = min(seconds) / 2 * frames / 3600
    if hours > 1:
        print_rank0(f'the backbone takes {hours:.0f} hours or more on this CPU. A GPU is faster, '
                    f'--versions 4 lets it see each video once; --backbone tiny is for trials')
