"""Actor focus: how much of the attention lies on the actor (what Figures 1 and 3 show), in numbers.

    python evaluate.py CHECKPOINT --focus

Of the val frames: each entity of the models and of an untrained one, and the backbone's CLS heads.
"""
import math

import torch

from pictures.canvas import spaced
from pictures.figures import look_at

MEASURES = ('mass', 'area', 'ratio', 'iou', 'entropy')


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


def mean_focus(looks, kind):
    """[Look] -> [{measure: mean over the frames that show the actor}], one each of the 'entities'
    or 'heads'; [] where there are none."""
    attention = [getattr(look, kind) for look in looks]
    if not attention or attention[0] is None:
        return []
    measures = focus(torch.cat(attention), torch.cat([look.actor for look in looks]))
    there = measures['area'][:, 0] > 0
    parts = []
    for k in range(attention[0].shape[1]):
        part = {name: values[there, k].mean().item() for name, values in measures.items()}
        parts.append(part | {'ratio': part['mass'] / part['area']})
    return parts


def focus_rows(networks, videos, frames=8):
    """{name: model}, of one backbone; some frames of each video -> [(model, part, measures)]."""
    rows = []
    for name, network in networks.items():
        looks = []
        for video in videos:
            look = look_at(network, video, spaced(video.frames, frames))
            if look.actor is not None and look.actor.any():
                looks.append(look._replace(images=None))
        for k, values in enumerate(mean_focus(looks, 'entities'), 1):
            rows.append((name, f'entity {k}', values))
    for k, values in enumerate(mean_focus(looks, 'heads'), 1):
        rows.append(('backbone', f'CLS head {k}', values))
    return rows


def print_focus(networks, videos):
    rows = focus_rows(networks, videos)
    if not rows:
        return print('note: no focus table: no actor is known (masks, boxes), or the pooler has no '
                     'attention')
    print('\nattention on the actor in val frames')
    print(' ' * 40 + ''.join(f'{measure:>9}' for measure in MEASURES))
    for model, part, values in rows:
        numbers = ''.join(f'{values[measure]:9.3f}' for measure in MEASURES)
        print(f'{model.removesuffix("/checkpoint.pt")[-26:]:27}{part:13}{numbers}')
