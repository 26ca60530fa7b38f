"""VSP-P: Brownian bridges over the phases of the action (paper, Table 4: "phase labels")."""
import torch
import torch.nn.functional as F

from objectives.objective import objective
from objectives.vsp import vsp


def draw_phases(labels, valid):
    """A bridge over each phase of a clip that three of its frames show.

    A phase is a stretch of frames of one label; a label that comes back later is another phase.
    labels int64 (B, 2, T), -1 = unlabelled, valid bool (B, 2, T) -> int64 (B, 2, T // 3, 3): h the
    phase's first frame, t its last, p at random between; (0, 0, 0), no bridge, in the rest.
    """
    T = labels.shape[-1]
    phase = labels.masked_fill(~valid, -1)
    changes = phase[..., 1:] != phase[..., :-1]
    begins = F.pad(changes, (1, 0), value=True)                       # (B, 2, T)
    stretch = begins.cumsum(-1)
    together = stretch[..., :, None] == stretch[..., None, :]
    size = together.sum(-1)                                           # frames of i's stretch

    # The first frames of all phases, sorted to the front: there are T // 3 at most.
    position = torch.arange(T, device=labels.device)
    carries = begins & (phase >= 0) & (size >= 3)
    first = torch.where(carries, position, T)
    first = first.sort(-1).values[..., :T // 3]                       # (B, 2, T // 3)
    exists = first < T
    h = first.clamp(max=T - 1)
    t = h + size.gather(-1, h) - 1
    share = torch.rand(h.shape, device=labels.device)
    p = h + 1 + (share * (t - h - 1)).long()
    bridges = torch.stack((h, p, t), -1)
    return bridges * exists[..., None]


@objective
def vsp_p(z, time, length, valid, *, labels):
    """VSP with one bridge a phase: `labels` say where phases begin and end, not which are alike.

    z: the embedding, unit length, of a clip of the whole video.
    ours: the authors' code shows one phase a clip of Penn Action, and so another time code than in
    evaluation; of FineGym and Pouring the whole video, as here, but two phases of it. Source: as
    vsp.py.
    """
    bridges = draw_phases(labels, valid)
    return vsp(z, time, length, valid, bridges=bridges)
