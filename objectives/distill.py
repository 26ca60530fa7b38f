"""Frame distillation, after DINO and SVT (not in the paper's Table 4): a frame says what a slow
copy of the model, the teacher, says of the other view's nearest frame. There are no negatives.

ours: frame by frame, with no published number; SVT distils a view to one vector, without time, and
has many small crops besides. In each step the teacher sees the same two views, `distill` compares
what both say, and after the optimiser's step the teacher follows (`Teacher.follow`).
"""
import copy
import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from objectives.objective import masked_mean, objective


@objective
def distill(z, time, length, valid, *, teacher, centre, window=3, student_temperature=0.1,
            teacher_temperature=0.04):
    """Frame distillation: z, teacher (B, 2, T, K) logits of `distill_head`; centre (K,) -> scalar.

    For frame i of one view, j is the frame of the other view nearest in time, the earlier of two:
        q_j = softmax((teacher_j - centre) / teacher_temperature)        no gradient
        p_i = softmax(z_i / student_temperature)
        L_i = -sum_k q_jk log p_ik        where |s_i - s_j| <= window, in frames; else no target
    mean over a video's frames that have a target, both views (0 if none), then over videos.
    Without the centre all frames may come to say the same.

    Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021 (the paper's
    [7]); Ranasinghe et al., Self-supervised Video Transformer, CVPR 2022.
    """
    other = time.flip(1)                                              # each view's partner
    gap = (time[..., :, None] - other[..., None, :]).abs()            # (B, 2, T, T)
    gap = gap.masked_fill(~valid.flip(1)[:, :, None], 2 ** 31)        # beyond any window
    nearest = gap.argmin(-1)                                          # (B, 2, T)
    has_target = valid & (gap.amin(-1) <= window)

    logits = teacher.detach().to(z.dtype).masked_fill(~valid[..., None], 0)
    q = ((logits - centre) / teacher_temperature).softmax(-1)
    q = q.flip(1).take_along_dim(nearest[..., None], 2)               # (B, 2, T, K)
    log_p = (z / student_temperature).log_softmax(-1)
    entropy = -(q * log_p).sum(-1)                                    # (B, 2, T)
    return masked_mean(entropy, has_target, (1, 2)).mean()


class Prototypes(nn.Module):
    """Cosine similarity with each of K learned vectors: DINO's last layer, its rows of length 1."""

    def __init__(self, width, count):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, width))

    def forward(self, x):
        """(..., width) -> (..., count), each between -1 and 1."""
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


def distill_head(width, classes=None, logits=1024, hidden=512, bottleneck=128):
    """DINO's head: (..., D) -> (..., logits). DINO and SVT, on large sets: 65,536, 2,048, 256."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(),
        nn.Linear(hidden, hidden), nn.GELU(),
        nn.Linear(hidden, bottleneck),
        Prototypes(bottleneck, logits))


class Teacher(nn.Module):
    """A slow copy of the model, on the same backbone, and the centre (K,) of its logits."""

    def __init__(self, model):
        super().__init__()
        self.model = copy.deepcopy(model, {id(model.backbone): model.backbone}).eval()
        self.register_buffer('centre', torch.zeros_like(model.head[-1].weight[:, 0]))

    @torch.no_grad()
    def forward(self, clips, valid):
        """Two views a video (B * 2, T, 3, H, W), valid (B * 2, T) -> what distill takes besides."""
        logits = self.model(clips, valid, project=True, unit_length=False)
        valid = valid.to(clips.device, non_blocking=clips.is_cuda)
        # ours: DINO and SVT start with a centre of 0; so all embeddings met within 25 steps
        unset = (self.centre == 0).all()
        mean = new_centre(self.centre, logits, valid, momentum=0)
        self.centre.copy_(torch.where(unset, mean, self.centre))
        self.next_centre = new_centre(self.centre, logits, valid)
        return dict(teacher=rearrange(logits, '(b v) t k -> b v t k', v=2), centre=self.centre)

    @torch.no_grad()
    def follow(self, student, progress):
        """After a step: the centre follows the logits, the copy the student. progress: 0 to 1."""
        self.centre.copy_(self.next_centre)
        for slow, fast in zip(self.model.parameters(), student.parameters(), strict=True):
            if slow is not fast:
                slow.lerp_(fast, 1 - momentum(progress))
        # BatchNorm's statistics are the student's: in eval mode the copy gathers none of its own
        for slow, fast in zip(self.model.buffers(), student.buffers(), strict=True):
            slow.copy_(fast)

    def trained_state(self):
        """What a checkpoint keeps: the copy without the shared backbone, and the centre."""
        state = self.state_dict()
        return {key: state[key] for key in state if not key.startswith('model.backbone.')}


def new_centre(centre, teacher, valid, momentum=0.9):
    """The centre (K,) follows the mean of the logits (..., K) of all processes' valid frames."""
    logits = teacher.masked_fill(~valid[..., None], 0)
    total = logits.flatten(0, -2).sum(0)                              # (K,)
    count = valid.sum().to(logits.dtype)
    if dist.is_initialized():
        dist.all_reduce(total)
        dist.all_reduce(count)
    return momentum * centre + (1 - momentum) * total / count.clamp(min=1)


def momentum(progress):
    """How much of itself the teacher keeps, at progress 0 to 1: from 0.996 to 1 by a cosine."""
    return 1 - 0.004 * (1 + math.cos(math.pi * progress)) / 2
