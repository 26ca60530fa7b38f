"""Actor focus: how much of the attention lies on the actor (what Figures 1 and 3 show), in numbers.

    python evaluate.py CHECKPOINT --focus

Of the val frames: each entity of the models and of an untrained one, and the backbone's CLS heads.
"""
import math

import torch

from pictures.canvas import spaced
from pictures.figures import look_at


def focus(attention, actor):
    """attention (F, N, P) of N entities or heads over P patches, actor (F, P), its share of each
    -> {measure: (F, N)}.

    mass     share of the attention that lies on the actor: the measure to trust
    area     share of the frame that the actor covers: what attention that sees nothing would score
    iou      of the best covered patches, as many as its area comes to, with as many of the
             strongest ones
    entropy  of the attention, 1 = uniform; iou flatters attention that is nearly so
    """
    share = attention / attention.sum(-1, keepdim=True).clamp_min(1e-12)
    size = actor.sum(-1).round().clamp_min(1)[:, None]           # (F, 1), in patches
    own = rank(actor) < size                                     # (F, P)
    strongest = rank(share) < size[:, None]                      # (F, N, P)
    both = (own[:, None] & strongest).sum(-1)                    # (F, N)
    return {
        'mass': (share * actor[:, None]).sum(-1),
        'area': actor.mean(-1)[:, None].expand_as(both),
        'iou': both / (2 * size - both),
        'entropy': torch.special.entr(share).sum(-1) / math.log(share.shape[-1]),
    }


def rank(values):
    """The place of each value in the last dimension, 0 = the largest."""
    return values.argsort(-1, descending=True).argsort(-1)


def print_focus(networks, videos, frames=8):
    """{name: model}; some frames of each video, of which those that show the actor count. The heads
    are those of the last model's backbone."""
    *_, last = networks
    found = {}    # {(model, kind of part): [(F, N, measures) of each video]}
    for name, network in networks.items():
        for video in videos:
            look = look_at(network, video, spaced(video.frames, frames))
            if look.actor is None or not look.actor.any():
                continue
            shown = look.actor.any(-1)                           # (F,)
            seen = {(name, 'entity'): look.entities}
            if name == last:
                seen['backbone', 'CLS head'] = look.heads
            for key, attention in seen.items():
                if attention is not None:
                    measures = focus(attention[shown], look.actor[shown]).values()
                    found.setdefault(key, []).append(torch.stack([*measures], -1))
    if not found:
        return print('note: no focus table: no actor is known (masks, boxes), or the pooler has no '
                     'attention')
    print('\nattention on the actor in val frames')
    print(f'{"":40}{"mass":>9}{"area":>9}{"ratio":>9}{"iou":>9}{"entropy":>9}')
    for (model, kind), values in found.items():
        model = model.removesuffix('/checkpoint.pt')[-26:]
        for k, means in enumerate(torch.cat(values).mean(0), 1):
            mass, area, iou, entropy = means.tolist()
            print(f'{model:27}{f"{kind} {k}":13}'
                  f'{mass:9.3f}{area:9.3f}{mass / area:9.3f}{iou:9.3f}{entropy:9.3f}')
