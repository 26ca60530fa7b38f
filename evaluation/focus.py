"""Actor focus: how much of the attention lies on the actor (what Figures 1 and 3 show), in numbers.

    attention (F, N, P) of N entities or heads over P patches, actor (F, P): its share of each patch
"""
import math

import numpy as np
import torch

from pictures import figures

MEASURES = ('mass', 'area', 'ratio', 'peak', 'iou', 'entropy')


def focus(attention, actor):
    """attention (F, N, P), actor (F, P) -> {measure: (F, N)}.

    mass     share of the attention that lies on the actor: the measure to trust
    area     share of the frame that the actor covers: what attention that sees nothing would score
    peak     1 where the strongest patch is one of the actor's: the best covered ones, as many as
             its area comes to
    iou      of those patches with as many of the strongest ones
    entropy  of the attention, 1 = uniform; peak and iou flatter attention that is nearly so
    """
    share = attention / attention.sum(-1, keepdim=True).clamp_min(1e-12)
    size = actor.sum(-1).round().clamp_min(1)[:, None]           # (F, 1), in patches
    own = rank(actor) < size                                     # (F, P)
    strongest = rank(share) < size[:, None]                      # (F, N, P)
    both = (own[:, None] & strongest).sum(-1)                    # (F, N)
    return {
        'mass': (share * actor[:, None]).sum(-1),
        'area': actor.mean(-1)[:, None].expand_as(both),
        'peak': own.gather(1, share.argmax(-1)).float(),
        'iou': both / (2 * size - both),
        'entropy': torch.special.entr(share).sum(-1) / math.log(share.shape[-1]),
    }


def rank(values):
    """The place of each value in the last dimension, 0 = the largest."""
    return values.argsort(-1, descending=True).argsort(-1)


def mean_focus(network, embedded, frames):
    """Focus of the entities and of the CLS heads, mean over all frames that show a known actor
    -> {measure: [N]}, {measure: [heads]}; {} for what there is not."""
    of_entities, of_heads = [], []
    for record in embedded:
        indices = figures.spaced(record.frames, frames)
        _, entities, heads, actor = figures.look_at(network, record.video, indices)
        if actor is None:
            continue
        there = actor.sum(-1) > 0
        for found, attention in ((of_entities, entities), (of_heads, heads)):
            if attention is not None and there.any():
                found.append(focus(attention[there], actor[there]))
    return mean_of_frames(of_entities), mean_of_frames(of_heads)


def mean_of_frames(found):
    """[{measure: (F_i, N)}] -> {measure: [N]}."""
    if not found:
        return {}
    means = {}
    for measure in found[0]:
        means[measure] = torch.cat([one[measure] for one in found]).mean(0).tolist()
    return means


def focus_rows(networks, embedded, frames=8):
    """-> [{'model', 'part', measure: value}]: every entity of each model, in val frames.

    Beside them the backbone's CLS head that is best in train frames. networks: {name: model}.
    """
    rows = []
    for name, network in networks.items():
        entities, heads = mean_focus(network, embedded['val'], frames)
        for k in range(len(entities.get('mass', []))):
            rows.append(focus_row(name, f'entity {k + 1}', entities, k))
        if heads and name == next(iter(networks)):
            some = [embedded['train'][i] for i in figures.spaced(len(embedded['train']), 50)]
            heads_in_train = mean_focus(network, some, frames)[1] or heads
            best = int(np.argmax(heads_in_train['mass']))
            rows.append(focus_row('backbone', f'CLS head {best + 1}', heads, best))
    return rows


def focus_row(model, part, means, k):
    row = {'model': model, 'part': part, 'ratio': means['mass'][k] / means['area'][k]}
    for measure, values in means.items():
        row[measure] = values[k]
    return row


def focus_table(networks, embedded, frames=8):
    """Print the rows of `focus_rows`, and return them."""
    rows = focus_rows(networks, embedded, frames)
    if not rows:
        print('note: no focus table: no actor is known (masks, boxes), '
              'or the pooler has no attention')
        return rows
    print('\nattention on the actor in val frames; the CLS head is the best of all on train frames')
    print(' ' * 40 + ''.join(f'{measure:>9}' for measure in MEASURES))
    for row in rows:
        model = row['model'].removesuffix('/checkpoint.pt')[-26:]
        numbers = ''.join(f'{row[measure]:9.3f}' for measure in MEASURES)
        print(f'{model:27}{row["part"]:13}{numbers}')
    return rows
