"""Actor focus: how much of the attention lies on the actor (what Figures 1 and 3 show), in numbers.

    attention (F, N, P) of N entities or heads over P patches, actor (F, P): its share of each patch
"""
import math

import torch

from pictures.canvas import spaced
from pictures.figures import look_at

MEASURES = ('mass', 'area', 'ratio', 'iou', 'entropy')


def focus(attention, actor):
    """attention (F, N, P), actor (F, P) -> {measure: (F, N)}.

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


def looks_at(network, embedded, frames):
    """[Look] at some frames of each video whose actor is known, without the images."""
    looks = [look_at(network, one.video, spaced(one.frames, frames))._replace(images=None)
             for one in embedded]
    return [look for look in looks if look.actor is not None]


def mean_focus(looks, kind):
    """Mean over the frames that show the actor -> [{measure: value}], one each of the 'entities'
    or 'heads'; [] if there are none."""
    attention = [getattr(look, kind) for look in looks]
    if not attention or attention[0] is None:
        return []
    actor = torch.cat([look.actor for look in looks])
    there = actor.sum(-1) > 0
    parts = []
    means = focus(torch.cat(attention)[there], actor[there])
    for k in range(attention[0].shape[1]):
        part = {measure: values[:, k].mean().item() for measure, values in means.items()}
        parts.append(part | {'ratio': part['mass'] / part['area']})
    return parts


def focus_table(networks, embedded, frames=8):
    """Print and return [{'model', 'part', measure: value}] of val frames: every entity of each
    model, and the backbone's CLS heads. networks: {name: model}, of the same backbone."""
    rows = []
    for name, network in networks.items():
        looks = looks_at(network, embedded['val'], frames)
        for k, values in enumerate(mean_focus(looks, 'entities'), 1):
            rows.append({'model': name, 'part': f'entity {k}', **values})
    for k, values in enumerate(mean_focus(looks, 'heads'), 1):
        rows.append({'model': 'backbone', 'part': f'CLS head {k}', **values})
    if not rows:
        print('note: no focus table: no actor is known (masks, boxes), '
              'or the pooler has no attention')
        return rows
    print('\nattention on the actor in val frames')
    print(' ' * 40 + ''.join(f'{measure:>9}' for measure in MEASURES))
    for row in rows:
        model = row['model'].removesuffix('/checkpoint.pt')[-26:]
        numbers = ''.join(f'{row[measure]:9.3f}' for measure in MEASURES)
        print(f'{model:27}{row["part"]:13}{numbers}')
    return rows
