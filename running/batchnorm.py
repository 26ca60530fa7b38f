"""BatchNorm over the rows of all processes, so that several train the same model as one does.

PyTorch's SyncBatchNorm does this on CUDA only; here the CPU does the same, and so it can be tested.
"""
import torch
import torch.distributed as dist
from torch import nn


class AllRows(torch.autograd.Function):
    """The rows (M, C) of every process, by rank; the gradient of a row is the sum of theirs."""

    @staticmethod
    def forward(context, rows):
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context, gradient):
        total = gradient.clone()
        dist.all_reduce(total)
        return own_rows(total)


def own_rows(rows):
    return rows.chunk(dist.get_world_size())[dist.get_rank()]


class SharedBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d of rows (M, C), its statistics in training those of all processes' rows."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        return own_rows(super().forward(AllRows.apply(x)))


def share_batchnorm(module):
    """Make every BatchNorm1d in a module see the rows of all processes, where there are several."""
    for part in module.modules():
        if type(part) is nn.BatchNorm1d and dist.is_initialized():
            part.__class__ = SharedBatchNorm
