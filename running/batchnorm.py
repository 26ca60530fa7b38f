"""BatchNorm over the rows of all processes, so that several train the same model as one does.

PyTorch's SyncBatchNorm does this on CUDA only; here the CPU does the same, and so it can be tested.
"""
import torch
import torch.distributed as dist
from torch import nn


class SumOverProcesses(torch.autograd.Function):
    """The sum of every process's tensor; and so is the sum of their gradients."""

    @staticmethod
    def forward(context, x):
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context, gradient):
        return SumOverProcesses.forward(context, gradient)


class SharedBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d of rows (M, C), its statistics in training those of all processes' rows."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        rows = x.float()
        sums = torch.cat([rows.sum(0), rows.new_full((1,), len(rows))])
        sums = SumOverProcesses.apply(sums)
        count = sums[-1]
        mean = sums[:-1] / count                                               # (C,)
        squares = (rows - mean).square().sum(0)
        variance = SumOverProcesses.apply(squares) / count                     # (C,)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        rows = (rows - mean) * (variance + self.eps).rsqrt()
        return (rows * self.weight + self.bias).to(x.dtype)


def share_batchnorm(module):
    """Make every BatchNorm1d in a module see the rows of all processes, where there are several."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for part in module.modules():
        if type(part) is nn.BatchNorm1d:
            part.__class__ = SharedBatchNorm
