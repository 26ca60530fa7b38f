"""All that is looked at: attention, alignment, retrieval, phases, training (paper, section 5.4)."""
import json
import math
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

import data

METRICS = {'classification': 'class.', 'progression': 'progress', 'tau': 'tau', 'ap5': 'AP@5'}

COLOURS = ['#E69F00', '#56B4E9', '#009E73', '#F0E442', '#0072B2', '#D55E00', '#CC79A7']  # Okabe and Ito: for all eyes


def pictures(images):
    """Undo the normalisation: (F, 3, S, S) in 0..1."""
    mean, std = (torch.tensor(each, device=images.device)[:, None, None] for each in (data.MEAN, data.STD))
    return (images * std + mean).clamp(0, 1)


@torch.no_grad()
def look_at(network, video, indices):
    """Frames of a video as the model sees them -> images (F, 3, S, S), the attention of the entities (F, N, P) and of
    the CLS token's heads (F, heads, P), the actor's share of each patch (F, P); None for what there is not."""
    device, backbone = next(network.mtf.parameters()).device, network.backbone
    images, actor = data.center(video.read(indices).to(device), backbone.image_size), video.actor(indices)
    features = network.features(images)
    if actor is not None:                                 # through the same crop as the frames
        actor = actor.to(device, torch.uint8)[:, None].expand(-1, 3, -1, -1) * 255
        actor = pictures(data.center(actor, backbone.image_size))[:, :1]
        side = math.isqrt(features.patches.shape[1])
        seen = side * backbone.patch_size                 # a ViT leaves out the pixels that fill no patch
        actor = F.interpolate(actor[..., :seen, :seen], side, mode='area').flatten(1)
    entities, heads = network.pool(*(None if each is None else each.float() for each in features))[1], None
    if hasattr(backbone, 'attention_map'):
        heads = backbone.attention_map(images.to(next(backbone.parameters()).dtype)).float()
    return images, entities, heads, actor


def spaced(n, wanted):
    """Up to `wanted` evenly spaced ones of n indices."""
    return np.unique(np.linspace(0, n - 1, min(n, wanted)).round().astype(int))


def figure(width, height):
    """An empty matplotlib figure, in inches, that needs no screen."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure
    rcParams.update({'font.size': 13, 'axes.spines.top': False, 'axes.spines.right': False})
    return Figure((width, height), layout='constrained', dpi=100)


def show(axes, rows, row_names=(), column_names=()):
    """Rows of images (F, S, S, 3) in 0..1 as one picture with white gaps, missing ones white."""
    columns, size, gap = max(map(len, rows)), rows[0].shape[1], 3
    grid = np.ones((len(rows), columns, size + 2 * gap, size + 2 * gap, 3))
    for line, row in zip(grid, rows):
        line[:len(row), gap:-gap, gap:-gap] = row
    axes.imshow(rearrange(grid, 'r c h w rgb -> (r h) (c w) rgb'), interpolation='lanczos')
    axes.set_yticks((np.arange(len(row_names)) + .5) * (size + 2 * gap), row_names)
    axes.set_xticks((np.arange(len(column_names)) + .5) * (size + 2 * gap), column_names)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)


def on_screen(images):
    return rearrange(pictures(images).cpu(), 'f rgb h w -> f h w rgb').numpy()


def coloured(images, attention, colour):
    """Blend attention (F, P) over images (F, 3, S, S): grey where it is not, `colour` where it is -> (F, S, S, 3)."""
    from matplotlib.colors import to_rgb
    a = rearrange(attention.cpu(), 'f (r c) -> f 1 r c', r=math.isqrt(attention.shape[1]))
    a = F.interpolate(a, images.shape[-1], mode='bicubic').clamp_min(0)
    a = (a / a.flatten(1).quantile(.995, 1)[:, None, None, None].clamp_min(1e-12)).clamp(max=1)      # (F, 1, S, S)
    grey = pictures(images).cpu().mean(1, keepdim=True)
    tint = (.5 + .5 * grey) * torch.tensor(to_rgb(colour))[:, None, None]
    return rearrange(a * tint + (1 - a) * (.1 + .5 * grey), 'f rgb h w -> f h w rgb').numpy()


def groups(seen, there=len):
    """Positions of the videos of each action; of those whose labels are `there`."""
    actions = dict.fromkeys(one.video.action for one in seen)
    return [[i for i, one in enumerate(seen) if one.video.action == action and there(one.labels)]
            for action in actions]


def mixed(seen):
    """Positions of the videos, the actions in turn."""
    return [position for turn in zip_longest(*groups(seen)) for position in turn if position is not None]


def draw_entities(network, seen, path, *, wanted=2, frames=6):
    """Frames of some videos over the attention of each entity and of the CLS token (paper, Figures 1 and 3): of its
    heads the one that fits the actor best in these frames, as in the paper; their mean where no actor is known."""
    chosen = [seen[i] for i in mixed(seen)[:wanted]]
    looks = [look_at(network, one.video, spaced(one.frames, frames)) for one in chosen]
    known = [((heads * actor[:, None]).sum(-1) / heads.sum(-1)).mean(0) for *_, heads, actor in looks if None not in (heads, actor)]
    best = int(torch.stack(known).mean(0).argmax()) if known else None
    columns = min(2, len(chosen))
    lines, height = math.ceil(len(chosen) / columns), 2 + (0 if looks[0][1] is None else looks[0][1].shape[1])
    fig = figure(1.4 + 1.05 * frames * columns, lines * (.5 + 1.05 * height))
    for number, (axes, one) in enumerate(zip(fig.subplots(lines, columns, squeeze=False).flat, chosen)):
        images, entities, heads, _ = looks[number]
        rows, names = [on_screen(images)], ['frames']
        for k in range(0 if entities is None else entities.shape[1]):
            rows.append(coloured(images, entities[:, k], COLOURS[k % 6]))
            names.append(f'entity {k + 1}')
        if heads is not None:
            rows.append(coloured(images, heads.mean(1) if best is None else heads[:, best], COLOURS[6]))
            names.append('CLS, mean' if best is None else f'CLS head {best + 1}')
        show(axes, rows, names if number % columns == 0 else ())
        axes.set_title(one.video.name)
    fig.savefig(path)


def draw_alignment(network, seen, embeddings, path, *, frames=10):
    """A video's frames over their nearest neighbours in two others, and the similarities that decide them."""
    query, *others = max(groups(seen), key=lambda group: len(group[:3]), default=[])[:3] or [None]
    if not others:
        return 'no alignment.png: no action has two val videos'
    from scipy.stats import kendalltau
    at = spaced(len(embeddings[query]), frames)
    rows, names = [on_screen(look_at(network, seen[query].video, seen[query].kept[at])[0])], ['query']
    fig = figure(1.6 + frames, 1.1 * len(others) + 5.7)
    top, bottom = fig.subfigures(2, 1, height_ratios=[1.1 * len(others) + 1.7, 4])
    for letter, axes, i in zip('AB', bottom.subplots(1, len(others), squeeze=False)[0], others):
        similarity = embeddings[query] @ embeddings[i].T                                  # (n, m)
        nearest = similarity.argmax(1)
        rows.append(on_screen(look_at(network, seen[i].video, seen[i].kept[nearest[at]])[0]))
        names.append(f'nearest in {letter}')
        image = axes.imshow(similarity, cmap='cividis', aspect='auto', origin='lower')
        bottom.colorbar(image, ax=axes, label='cosine similarity')
        axes.plot(nearest, np.arange(len(nearest)), 'o', color='white', markeredgecolor='black', markersize=4)
        axes.set(title=f'{letter}: {seen[i].video.name}, tau {kendalltau(np.arange(len(nearest)), nearest).statistic:.3f}',
                 xlabel=f'frame of {letter}', ylabel='frame of the query')
    axes = top.subplots()
    show(axes, rows, names, seen[query].kept[at])
    axes.set_title(f'query: frames of {seen[query].video.name}')
    fig.savefig(path)


def draw_retrieval(network, seen, embeddings, path, *, queries=5, k=5):
    """Frames and their nearest ones in the other videos of the action, right and wrong labels marked."""
    actions = [group for group in groups(seen, lambda labels: (labels >= 0).any()) if len(group) > 1]
    if not actions:
        return 'no retrieval.png: no action has two labelled val videos'
    fig = figure(1.25 * (k + 1) + .6, 1.55 * queries + .8)
    fig.suptitle(f'a frame and the {k} nearest frames of other videos')
    grid = fig.subplots(queries, k + 1)
    for line in range(queries):
        group = actions[line % len(actions)]
        own = group[line // len(actions) % len(group)]
        query = own, int(len(embeddings[own]) * (line + 1) / (queries + 1))
        where = [(i, j) for i in group if i != own for j in range(len(embeddings[i]))]
        order = np.argsort(-np.concatenate([embeddings[i] for i in group if i != own]) @ embeddings[own][query[1]])
        for axes, (i, j) in zip(grid[line], [query, *(where[n] for n in order[:k])]):
            axes.imshow(on_screen(look_at(network, seen[i].video, seen[i].kept[[j]])[0])[0], interpolation='lanczos')
            right = seen[i].labels[j] == seen[own].labels[query[1]]
            mark, colour = ('', 'black') if i == own else (' \u2713', COLOURS[4]) if right else (' \u2717', COLOURS[5])
            axes.set(xticks=[], yticks=[])
            axes.set_title(f'phase {seen[i].labels[j]}{mark}', color=colour)
            axes.spines[:].set(visible=True, color=colour, linewidth=4)
        grid[line, 0].set_ylabel(seen[own].video.action or seen[own].video.name, fontsize=11)
    fig.savefig(path)


def draw_phases(predictions, path):
    """Predicted and true phases over time for a few val videos, and the regressions of the phase progression.

    predictions: [dict(video=EmbeddedVideo, predicted=(n,), progress={k: (true (n,), predicted (n,))})]
    """
    if not predictions:
        return 'no phases.png: no action has train and val videos with labels of 2 to 20 classes'
    fig = figure(4.6 * len(predictions) + .4, 5.2)
    axes = fig.subplots(2, len(predictions), sharex='col', squeeze=False, height_ratios=[1, 2.4])
    for bars, curves, each in zip(*axes, predictions):
        one, predicted, first = each['video'], each['predicted'], bars is axes[0, 0]
        for height, row in enumerate((predicted, one.labels)):
            cuts = [0, *np.flatnonzero(np.diff(row)) + 1, len(row)]
            for start, stop in zip(cuts, cuts[1:]):
                bars.barh(height, stop - start, left=start, height=.8, color=COLOURS[row[start] % len(COLOURS)])
                if height and stop - start > len(row) / 20:
                    bars.text((start + stop) / 2, height, row[start], ha='center', va='center')
        bars.set(title=f'{one.video.name}: {(predicted == one.labels).mean():.0%} right', xlim=(0, len(predicted)))
        bars.set_yticks([0, 1], ['predicted', 'true phase'] if first else ['', ''])
        for k, (true, guess) in each['progress'].items():
            colour = COLOURS[k % len(COLOURS)]
            curves.plot(true, '--', color=colour, linewidth=2)
            curves.plot(guess, color=colour, linewidth=2, label=f'end of phase {k}')
        curves.axhline(0, color='grey', linewidth=.8)
        curves.set(xlabel='frame', ylabel='(time since the end) / length' if first else '')
        curves.legend(fontsize=10, title='dashed: true', title_fontsize=10)
    fig.savefig(path)


def draw_training(log, path):
    """Loss, learning rate and metrics over time, from the log.jsonl that train.py writes."""
    try:
        lines = [json.loads(line) for line in Path(log).read_text().splitlines()]
    except (OSError, ValueError) as error:
        return f'no training.png: no log beside the checkpoint ({error})'
    steps = [line for line in lines if 'loss' in line]
    if not steps:
        return f'no training.png: {log} has no training step'
    fig = figure(14, 4)
    loss, rate, metrics = fig.subplots(1, 3)
    step, values, width = [line['step'] for line in steps], [line['loss'] for line in steps], 1 + len(steps) // 50
    loss.plot(step, values, color='#BBBBBB', linewidth=.8, label='a step')
    loss.plot(step[width - 1:], np.convolve(values, np.ones(width) / width, 'valid'), color=COLOURS[4], linewidth=2,
              label=f'mean of {width}')
    rate.plot(step, [line['lr'] for line in steps], color=COLOURS[4], linewidth=2)
    for colour, (metric, title) in zip((COLOURS[i] for i in (4, 5, 2, 6)), METRICS.items()):
        points = [(line['step'], line[metric]) for line in lines if line.get(metric) is not None]
        metrics.plot(*zip(*points or [(math.nan, math.nan)]), 'o-', color=colour, label=title, linewidth=2)
    for axes, title in ((loss, 'loss'), (rate, 'learning rate'), (metrics, 'metrics on val')):
        axes.set(title=title, xlabel='step')
    loss.legend()
    metrics.legend()
    fig.savefig(path)


def draw_all(network, result, name, folder, log):
    """All pictures of one model into a folder; -> one line for each that its data do not allow."""
    seen, embeddings, folder = result['embedded'], result['embeddings'][name], Path(folder)
    draw_entities(network, seen['val'], folder / 'entities.png', wanted=4)
    made = [draw_alignment(network, seen['val'], embeddings['val'], folder / 'alignment.png'),
            draw_retrieval(network, seen['val'], embeddings['val'], folder / 'retrieval.png'),
            draw_phases(result.get('predictions'), folder / 'phases.png'), draw_training(log, folder / 'training.png')]
    return [note for note in made if note]
