"""Where a run takes place: on which device, in how many processes. Nothing here is in the paper."""
import os
from collections import ChainMap
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from running.errors import UserError


def pick_device(name=None, local_rank=0):
    """The device of that name, or the best there is: cuda, mps, cpu. Errors: UserError."""
    there = dict(cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available(), cpu=True)
    found = [kind for kind in there if there[kind]]
    name = name or found[0]
    if name not in found:
        raise UserError(f'--device {name}: PyTorch does not find one here, only {", ".join(found)}')
    if name != 'cuda':
        return torch.device(name)
    if local_rank >= torch.cuda.device_count():
        raise UserError(f'process {local_rank} of this machine has no GPU of its own; '
                        f'--nproc_per_node {torch.cuda.device_count()} at most')
    torch.cuda.set_device(local_rank)
    return torch.device('cuda', local_rank)


def half_dtype(device):
    """The 16-bit type in which a frozen backbone is faster: bfloat16, also on a CPU that multiplies
    in it; float16 on a GPU without it; else None."""
    if device.type == 'cpu' and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    if device.type == 'cuda':
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if bfloat16 else torch.float16


def mixed_precision(device):
    """bfloat16 where the GPU has it, else float32: no loss scaling is ever needed."""
    if device.type == 'cuda' and half_dtype(device) == torch.bfloat16:
        return torch.autocast('cuda', dtype=torch.bfloat16)
    return nullcontext()


def on_device(tensors, device):
    """Copies of small CPU tensors. Not to wait for a copy is safe on CUDA alone."""
    return [tensor.to(device, non_blocking=device.type == 'cuda') for tensor in tensors]


def join_processes(device_name=None):
    """Join the others where torchrun started several -> rank, world size, this one's device."""
    rank = int(os.environ.get('RANK') or 0)               # some schedulers leave it set but empty
    world = int(os.environ.get('WORLD_SIZE') or 1)
    device = pick_device(device_name, int(os.environ.get('LOCAL_RANK') or 0))
    if world > 1 and not dist.is_initialized():
        if 'MASTER_ADDR' not in os.environ:
            raise UserError(f'WORLD_SIZE is {world}, but no MASTER_ADDR; start by torchrun')
        # what lies on the CPU goes by the CPU, and no GPU is waited for
        backend = 'cpu:gloo,cuda:nccl' if device.type == 'cuda' else 'gloo'
        # the first to finish its share of an evaluation may wait for hours
        dist.init_process_group(backend, timeout=timedelta(hours=12))
    return rank, world, device


def all_gather(value):
    """The list of what every process holds; any object that can be pickled. It goes by the CPU."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather(own):
    """Every process's dict merged into one, in rank 0; {} in the others."""
    shares = [own]
    if dist.is_initialized():
        shares = [None] * dist.get_world_size() if is_rank0() else None
        dist.gather_object(own, shares)
    return dict(ChainMap(*shares or []))


def wait_for_all():
    """At the end: a process that left with messages of others still in its threads could crash."""
    all_gather(None)


@contextmanager
def rank0_first():
    """What is in this block rank 0 does first, for instance fetching a file that all will read."""
    if not is_rank0():
        wait_for_all()
    try:
        yield
    finally:
        if is_rank0():
            wait_for_all()


def is_rank0():
    return not dist.is_initialized() or dist.get_rank() == 0


def print_rank0(*text, **options):
    if is_rank0():
        print(*text, **options)


# ----------------------------------------------------------------------------------------------
# BatchNorm over the rows of all processes, so that several train the same model as one does.
# PyTorch's SyncBatchNorm does this on CUDA only; here the CPU does the same: it can be tested.

class Total(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(context, values):
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context, gradient):
        return Total.forward(context, gradient)


class SharedBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d of rows (M, C), its statistics in training those of all processes' rows."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        rows = x.new_zeros(dist.get_world_size(), *x.shape)                # (processes, M, C)
        rows[dist.get_rank()] = x
        z = super().forward(Total.apply(rows).flatten(0, 1))
        return z.view_as(rows)[dist.get_rank()]                            # (M, C)


def share_batchnorm(module):
    """Make every BatchNorm1d in a module see the rows of all processes, where there are several."""
    for part in module.modules():
        if type(part) is nn.BatchNorm1d and dist.is_initialized():
            part.__class__ = SharedBatchNorm
