"""All that is looked at: attention, alignment, retrieval, phases, training (Figures 1 and 3).

What is drawn is handed over: a model, arrays, and evaluate.py's records `EmbeddedVideo`,
    video   data.Video                       frames   n, how many it has
    kept    (m,) those that were embedded    labels   (m,) their phases, -1 = unlabelled
with embeddings (m, D) of unit length. Captions say what a picture shows, failures too.
pictures/ has what they share, what moves, and what one does with one's own videos.
"""
import math
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

import data
from pictures.align import film_alignment, match
from pictures.canvas import (BLUE, COLOURS, RED, WIDTH, class_name, colour_bar, draw_bar, figure,
                             on_screen, save, show, spaced, tinted)
from pictures.film import Panel, play
from pictures.training import draw_training


# ------------------------------------------------------------------------------------------------
# What the model sees

class Look(NamedTuple):
    """Some frames of a video as the model sees them; None for what there is not."""
    images: torch.Tensor           # (F, 3, S, S) normalised
    entities: torch.Tensor | None  # (F, N, P) attention of each entity over the patches
    heads: torch.Tensor | None     # (F, heads, P) of the backbone's CLS token, last block
    actor: torch.Tensor | None     # (F, P) the share of each patch that the actor covers


@torch.no_grad()
def look_at(network, video, indices):
    """Frames of a video at `indices` through backbone and pooler -> Look."""
    backbone = network.backbone
    device = next(network.mtf.parameters()).device
    images = data.center(video.read(indices).to(device), backbone.image_size)
    patches, cls = network.features(images)
    cls = None if cls is None else cls.float()
    _, entities = network.pool(patches.float(), cls)
    heads = None
    if hasattr(backbone, 'attention_map'):
        dtype = next(backbone.parameters()).dtype
        heads = backbone.attention_map(images.to(dtype)).float()
    actor = video.actor(indices)
    if actor is not None:
        actor = share_of_patches(actor.to(device), backbone, patches.shape[1])
    return Look(images, entities, heads, actor)


def look_at_all(network, video, n, part=16):
    """The first n frames of a video, a part at a time: all attention of a head is large -> Look."""
    parts = np.split(np.arange(n), range(part, n, part))
    looks = [look_at(network, video, indices) for indices in parts]
    fields = []
    for values in zip(*looks):
        fields.append(None if values[0] is None else torch.cat(values))
    return Look(*fields)


def share_of_patches(actor, backbone, patches):
    """The actor's mask, bool (F, H, W), through the same crop as the frames -> (F, P) in 0..1."""
    mask = actor.to(torch.uint8)[:, None].expand(-1, 3, -1, -1) * 255
    mask = data.denormalise(data.center(mask, backbone.image_size))[:, :1]        # (F, 1, S, S)
    side = math.isqrt(patches)
    used = side * backbone.patch_size  # pixels that fill no patch are left out
    mask = F.interpolate(mask[..., :used, :used], side, mode='area')         # (F, 1, side, side)
    return mask.flatten(1)


def on_actor(attention, actor):
    """Share of the attention (F, N, P) on the actor (F, P), mean over the frames -> (N,)."""
    shares = (attention * actor[:, None]).sum(-1) / attention.sum(-1).clamp_min(1e-12)
    return shares.mean(0)


# ------------------------------------------------------------------------------------------------
# Which videos and frames to show

def by_action(embedded):
    """[positions of the videos of one action]."""
    groups = {}
    for position, one in enumerate(embedded):
        groups.setdefault(one.video.action, []).append(position)
    return list(groups.values())


def in_turn(embedded, wanted):
    """Positions of so many videos, the actions in turn."""
    found = []
    for turn in zip_longest(*by_action(embedded)):
        found += [position for position in turn if position is not None]
    return found[:wanted]


def frames_at(network, one, positions):
    """Frames of an EmbeddedVideo as the model sees them, for the screen -> uint8 (F, S, S, 3)."""
    frames = one.video.read(one.kept[positions])
    return on_screen(data.center(frames, network.backbone.image_size))


# ------------------------------------------------------------------------------------------------
# Attention (Figures 1 and 3)

def best_head(looks):
    """The CLS head that lies best on the actor, the paper's choice; None if no actor is known."""
    known = [on_actor(look.heads, look.actor) for look in looks
             if look.heads is not None and look.actor is not None]
    return int(torch.stack(known).mean(0).argmax()) if known else None


def attention_rows(look, head):
    """{name: attention (F, P)} of each entity and the CLS token: its `head`, or the mean of all."""
    rows = {}
    if look.entities is not None:
        for k in range(look.entities.shape[1]):
            rows[f'entity {k + 1}'] = look.entities[:, k]
    if look.heads is not None and head is None:
        rows['CLS, mean'] = look.heads.mean(1)
    if look.heads is not None and head is not None:
        rows[f'CLS head {head + 1}'] = look.heads[:, head]
    return rows


def actor_shares(looks, head):
    """{attention row: its share on the actor}, and 'area', the actor's share of the frame."""
    shares = {}
    for look in looks:
        if look.actor is None:
            continue
        for name, attention in attention_rows(look, head).items():
            share = on_actor(attention[:, None], look.actor)
            shares.setdefault(name, []).append(share.item())
        shares.setdefault('area', []).append(look.actor.mean().item())
    return {name: float(np.mean(values)) for name, values in shares.items()}


def draw_entities(network, embedded, path, *, wanted=2, frames=6):
    """Frames of some videos over the attention of each entity and of the backbone's CLS token."""
    chosen = [embedded[i] for i in in_turn(embedded, wanted)]
    looks = [look_at(network, one.video, spaced(one.frames, frames)) for one in chosen]
    head = best_head(looks)
    shares = actor_shares(looks, head)
    columns = min(2, len(chosen))
    lines = math.ceil(len(chosen) / columns)
    height = 1 + len(attention_rows(looks[0], head))
    side = (WIDTH - 2) / columns / frames
    fig = figure(WIDTH, lines * (height * side + 0.35) + 0.4, layout='constrained')
    grid = fig.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(chosen):]:
        axes.set_visible(False)
    for number, (axes, one, look) in enumerate(zip(grid.flat, chosen, looks)):
        rows = [on_screen(look.images)]
        names = ['frames']
        for name, attention in attention_rows(look, head).items():
            rows.append(tinted(look.images, attention))
            names.append(f'{name}\n{shares[name]:.0%} on actor' if name in shares else name)
        show(axes, rows, names if number % columns == 0 else ())
        axes.set_title(one.video.name, fontsize=10)
    colour_bar(fig, grid)
    caption = 'Grey: attention spread evenly. Orange: more than that. Blue: less.'
    if shares:
        caption += f' The actor covers {shares["area"]:.0%} of the frame, on the average of these.'
    save(fig, path, caption)


def film_entities(network, embedded, path, *, wanted=3, longest=200):
    """The same, moving: a line for each of some videos, all of its frames under attention."""
    chosen = [embedded[i] for i in in_turn(embedded, wanted)]
    looks = [look_at_all(network, one.video, min(one.frames, longest)) for one in chosen]
    head = best_head(looks)
    panels = []
    for one, look in zip(chosen, looks):
        size = look.images.shape[2:]
        attention = attention_rows(look, head)
        panels.append(Panel(one.video.name, on_screen(look.images), size))
        for name, values in attention.items():
            panels.append(Panel(name, tinted(look.images, values), size))
    n = max(len(panel.frames) for panel in panels)
    panels = [panel._replace(frames=stand_still(panel.frames, n)) for panel in panels]
    title = 'Attention. Grey: spread evenly. Orange: more than that. Blue: less.'
    play(path, panels, rate=10, columns=1 + len(attention), height=130, title=title)


def stand_still(frames, n):
    """The last frame again until there are n."""
    return [frames[min(i, len(frames) - 1)] for i in range(n)]


# ------------------------------------------------------------------------------------------------
# Alignment and retrieval: what the distances between embeddings are good for

def backward(nearest):
    """Which matches stand before the one of the frame before: bool (n,)."""
    return np.diff(nearest, prepend=nearest[0]) < 0


def query_and_others(embedded, wanted=3):
    """Positions of a query and up to two other videos of its action; [] if no action has two."""
    groups = [group[:wanted] for group in by_action(embedded) if len(group) > 1]
    return max(groups, key=len, default=[])


def draw_alignment(network, embedded, embeddings, path, *, frames=10):
    """A video's frames over their nearest neighbours in two others, and all similarities."""
    from scipy.stats import kendalltau
    chosen = query_and_others(embedded)
    if not chosen:
        return 'no alignment.png: no action has two val videos'
    query, *others = chosen
    at = spaced(len(embeddings[query]), frames)
    rows = [frames_at(network, embedded[query], at)]
    names = ['query']
    marked = []
    sentences = []
    height = (len(others) + 1) * (WIDTH - 1) / frames + 0.9
    fig = figure(WIDTH, height + 3.6, layout='constrained')
    top, bottom = fig.subfigures(2, 1, height_ratios=[height, 3.3])
    for letter, axes, i in zip('AB', bottom.subplots(1, len(others), squeeze=False)[0], others):
        similarity = embeddings[query] @ embeddings[i].T                     # (n, m)
        nearest = similarity.argmax(1)
        wrong = backward(nearest)
        tau = kendalltau(np.arange(len(nearest)), nearest).statistic
        rows.append(frames_at(network, embedded[i], nearest[at]))
        names.append(f'nearest in {letter}')
        marked += [(len(rows) - 1, c) for c in np.flatnonzero(backward(nearest[at]))]
        count = f'{wrong.sum()} of {len(nearest)}'
        sentences.append(f'{letter}: {count} matches step back, tau {tau:.2f}.')
        image = axes.imshow(similarity, 'cividis', vmin=-1, vmax=1, aspect='auto', origin='lower')
        frame = np.arange(len(nearest))
        axes.plot(nearest, frame, 'o', color='white', mec='black', ms=4)
        axes.plot(nearest[wrong], frame[wrong], 'o', color=RED, mec='black', ms=4)
        axes.set(title=f'{letter}: {embedded[i].video.name}', xlabel=f'frame of {letter}')
        axes.set_ylabel('frame of the query')
    bottom.colorbar(image, ax=bottom.axes, label='cosine similarity')
    axes = top.subplots()
    show(axes, rows, names, embedded[query].kept[at], marked)
    axes.set_title(f'query: {embedded[query].video.name}')
    caption = ' '.join(sentences) + ' Red: a match that runs backwards.'
    save(fig, path, caption)


def draw_alignment_film(embedded, embeddings, path):
    """A video and its nearest neighbours in others of its action, moving side by side."""
    chosen = query_and_others(embedded)
    if not chosen:
        return 'no alignment.mp4: no action has two val videos'
    query, *others = chosen
    places = [np.arange(len(embeddings[query]))]
    similarities = []
    for i in others:
        nearest = match(embeddings[query], embeddings[i], 'nearest')
        places.append(nearest)
        similarities.append((embeddings[query] * embeddings[i][nearest]).sum(1))
    frames = [embedded[i].kept[place] for i, place in zip(chosen, places)]
    videos = [embedded[i].video for i in chosen]
    title = 'left: a video; then, at each moment, the nearest frames of others'
    film_alignment(path, videos, frames, frames, similarities, unit='frame', title=title)


def neighbours(own, position, group, embeddings, k):
    """The k nearest frames in the other videos of a group -> [(video, frame)], nearest first."""
    query = embeddings[own][position]
    found = []
    for i in group:
        if i != own:
            similarity = embeddings[i] @ query
            found += [(similarity[j], i, j) for j in np.argsort(-similarity)[:k]]
    found.sort(reverse=True)
    return [(i, j) for _, i, j in found[:k]]


def draw_retrieval(network, embedded, embeddings, path, *, queries=5, k=5):
    """Frames and their nearest ones in other videos of the action, another phase marked."""
    known = [(one.labels >= 0).any() for one in embedded]
    groups = [[i for i in group if known[i]] for group in by_action(embedded)]
    labelled = [group for group in groups if len(group) > 1]
    if not labelled:
        return 'no retrieval.png: no action has two labelled val videos'
    fig = figure(WIDTH, 1.62 * queries + 0.4, layout='constrained')
    grid = fig.subplots(queries, k + 1, squeeze=False)
    confused = {}
    for line in range(queries):
        group = labelled[line % len(labelled)]
        own = group[line // len(labelled) % len(group)]
        position = len(embeddings[own]) * (line + 1) // (queries + 1)
        phase = embedded[own].labels[position]
        shown = [(own, position), *neighbours(own, position, group, embeddings, k)]
        for axes, (i, j) in zip(grid[line], shown):
            other = embedded[i].labels[j]
            mark, colour = ' \u2713', BLUE
            if i == own:
                mark, colour = '', 'black'
            elif other != phase:
                mark, colour = ' \u2717', RED
                kind = f'{embedded[own].video.action} {phase} taken for {other}'
                confused[kind] = confused.get(kind, 0) + 1
            axes.imshow(frames_at(network, embedded[i], [j])[0], interpolation='lanczos')
            axes.set(xticks=[], yticks=[])
            name = class_name(embedded[i].video.classes, other)
            axes.set_title(f'phase {name}{mark}', color=colour, fontsize=10)
            axes.spines[:].set(color=colour, linewidth=3)
        grid[line, 0].set_ylabel(embedded[own].video.action)
    wrong = sum(confused.values())
    caption = f'Left: a frame; then its {k} nearest in other videos. '
    caption += f'{wrong} of {queries * k} show another phase'
    kinds = ', '.join(f'{kind} ({count})' for kind, count in confused.items())
    save(fig, path, f'{caption}: {kinds}.' if wrong else caption + '.')


# ------------------------------------------------------------------------------------------------
# Phases over time, and training

def draw_phases(predictions, path):
    """Predicted and true phases over time, and the regressions of phase progression.

    predictions: [dict(video=EmbeddedVideo, predicted=(n,), progress={k: (true, predicted)})],
    true and predicted (n,) for every phase k but the last.
    """
    if not predictions:
        return 'no phases.png: no action has train and val videos with labels of 2 to 20 classes'
    fig = figure(WIDTH, 4.2, layout='constrained')
    grid = fig.subplots(2, len(predictions), sharex='col', squeeze=False, height_ratios=[1, 2.2])
    captions = []
    for bars, curves, one in zip(*grid, predictions):
        true = one['video'].labels
        predicted = one['predicted']
        classes = np.union1d(true[true >= 0], predicted)
        wrong = (true >= 0) & (predicted != true)
        right = 1 - wrong.sum() / max(1, (true >= 0).sum())
        names = one['video'].video.classes
        draw_bar(bars, 0, predicted, classes, names)
        draw_bar(bars, 1, true, classes, names)
        bars.bar(np.flatnonzero(wrong) + 0.5, 0.2, width=1, bottom=-0.75, color=RED)
        bars.set(title=f'{one["video"].video.name}: {right:.0%} right', xlim=(0, len(true)))
        bars.set_yticks([-0.65, 0, 1], ['wrong', 'predicted', 'true'] if bars is grid[0, 0] else [])
        for colour, (k, (target, guess)) in zip(COLOURS * 9, one['progress'].items()):
            curves.plot(target, '--', color=colour)
            curves.plot(guess, color=colour, label=f'end of {class_name(names, k)}')
        curves.axhline(0, color='grey', linewidth=0.8)
        curves.set_xlabel('frame')
        curves.legend(fontsize=8)
        captions.append(f'{one["video"].video.name}: {worst(true, predicted)}.')
    grid[1, 0].set_ylabel('(time since the end) / length')
    save(fig, path, ' '.join(captions) + ' Dashed: true.')


def worst(true, predicted):
    """The most frequent confusion, in words."""
    pairs = np.stack([true, predicted], 1)[(true >= 0) & (predicted != true)]
    if not len(pairs):
        return 'every frame is right'
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    phase, taken = kinds[counts.argmax()]
    return f'phase {phase} is taken for {taken} in {counts.max()} frames'


# ------------------------------------------------------------------------------------------------

def draw_all(network, result, name, folder, log):
    """All pictures and films of one model into a folder -> notes: one line for each missing one.

    result: of evaluate.assess; name: the model's in it; log: its log.jsonl.
    """
    folder = Path(folder)
    val = result['embedded']['val']
    embeddings = result['embeddings'][name]['val']
    drawings = {
        'entities.png': partial(draw_entities, network, val, wanted=4),
        'alignment.png': partial(draw_alignment, network, val, embeddings),
        'retrieval.png': partial(draw_retrieval, network, val, embeddings),
        'phases.png': partial(draw_phases, result.get('predictions')),
        'training.png': partial(draw_training, log),
        'entities.mp4': partial(film_entities, network, val),
        'alignment.mp4': partial(draw_alignment_film, val, embeddings),
    }
    notes = []
    for file, draw in drawings.items():
        try:
            note = draw(path=folder / file)
        except Exception as error:  # a picture must never cost the numbers it illustrates
            note = f'no {file}: {type(error).__name__}: {error}'
        if note:
            notes.append(' '.join(note.split()))
    return notes
