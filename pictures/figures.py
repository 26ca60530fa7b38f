"""All that is looked at: attention, alignment, phases, training (Figures 1 and 3).

What is drawn is handed over: a model, arrays, and evaluate.py's records `EmbeddedVideo`,
    video   data.Video                       frames   n, how many it has
    kept    (m,) those that were embedded    labels   (m,) their phases, -1 = unlabelled
with embeddings (m, D) of unit length. Captions say what a picture shows, failures too. Entities
count from 1: entity 1 is z[:, 0], the one whose token the paper's readout takes.
"""
import math
from functools import partial
from itertools import permutations, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

import data
from pictures.align import by_clock, film_alignment
from pictures.canvas import (COLOURS, RED, WIDTH, colour_bar, draw_bar, figure, on_screen,
                             phase_name, plain, save, show, shortened, spaced, tinted, to_bytes)
from pictures.film import Panel, play
from pictures.training import draw_training

PART = 16             # frames that go through the backbone at once


# ------------------------------------------------------------------------------------------------
# What the model sees

class Look(NamedTuple):
    """Some frames of a video as the model sees them; None for what there is not."""
    images: torch.Tensor           # (F, 3, S, S) normalised
    entities: torch.Tensor | None  # (F, N, P) attention of each entity over the patches
    heads: torch.Tensor | None     # (F, heads, P) of the backbone's CLS token, last block
    actor: torch.Tensor | None     # (F, P) the share of each patch that the actor covers


def in_parts(indices):
    return np.split(np.asarray(indices), range(PART, len(indices), PART))


def look_at(network, video, indices):
    """Frames of a video at `indices` through backbone and pooler -> Look."""
    looks = [look_at_part(network, video, part) for part in in_parts(indices)]
    fields = []
    for values in zip(*looks):
        fields.append(None if values[0] is None else torch.cat(values))
    return Look(*fields)


@torch.no_grad()
def look_at_part(network, video, indices):
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


@torch.no_grad()
def patch_features(network, video, indices):
    """What the frozen backbone makes of frames -> (F, P, L*C) on the CPU."""
    device = next(network.mtf.parameters()).device
    images = data.center(video.read(indices).to(device), network.backbone.image_size)
    return network.features(images)[0].float().cpu()


def feature_colours(network, video, indices):
    """The patch features as colours: their first three principal components over the video are red,
    green and blue, as users of DINOv2 look at them (Oquab et al., 2023) -> uint8 (F, S, S, 3)."""
    from sklearn.decomposition import PCA
    some = patch_features(network, video, spaced(video.frames, 8)).flatten(0, 1)   # (8 * P, L*C)
    pca = PCA(3, random_state=0).fit(some)
    low, high = np.percentile(pca.transform(some), [2, 98], axis=0)
    sheets = []
    for part in in_parts(indices):
        features = patch_features(network, video, part)                      # (F, P, L*C)
        colours = (pca.transform(features.flatten(0, 1)) - low) / (high - low)
        side = math.isqrt(features.shape[1])
        colours = torch.from_numpy(colours).clamp(0, 1)
        colours = rearrange(colours, '(f r c) rgb -> f rgb r c', r=side, c=side)
        sheets.append(to_bytes(F.interpolate(colours, network.backbone.image_size)))
    return np.concatenate(sheets)


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


def rows_of(network, video, look, indices, head):
    """{name: uint8 (F, S, S, 3)}: frames, what the backbone sees in them, where it is looked at."""
    rows = {'frames': on_screen(look.images),
            'patch\nfeatures': feature_colours(network, video, indices)}
    for name, attention in attention_rows(look, head).items():
        rows[name] = tinted(look.images, attention)
    return rows


def draw_entities(network, embedded, path, *, wanted=2, frames=6):
    """Frames of some videos over what the backbone sees and where entities and CLS token look."""
    chosen = [embedded[i] for i in in_turn(embedded, wanted)]
    places = [spaced(one.frames, frames) for one in chosen]
    looks = [look_at(network, one.video, at) for one, at in zip(chosen, places)]
    head = best_head(looks)
    shares = actor_shares(looks, head)
    columns = min(2, len(chosen))
    lines = math.ceil(len(chosen) / columns)
    height = 2 + len(attention_rows(looks[0], head))
    side = (WIDTH - 2) / columns / frames
    fig = figure(WIDTH, lines * (height * side + 0.35) + 0.6, layout='constrained')
    grid = fig.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(chosen):]:
        axes.set_visible(False)
    for number, (axes, one, look, at) in enumerate(zip(grid.flat, chosen, looks, places)):
        rows = rows_of(network, one.video, look, at, head)
        names = [f'{name}\n{shares[name]:.0%} on actor' if name in shares else name
                 for name in rows]
        show(axes, list(rows.values()), names if number % columns == 0 else ())
        axes.set_title(shortened(one.video.name, 90 // columns), fontsize=10)
    if height > 2:
        colour_bar(fig, grid)
    caption = ('Patch features: like colours, like features (three principal components of each '
               'video). Grey: attention spread evenly. Orange: more. Blue: less.')
    if shares:
        caption += f' The actor covers {shares["area"]:.0%} of the frame, on average.'
    save(fig, path, caption)


def film_entities(network, embedded, path, *, wanted=3, longest=200):
    """The same, moving: a line for each of some videos, as long as the shortest of them."""
    chosen = [embedded[i] for i in in_turn(embedded, wanted)]
    at = np.arange(min([longest, *[one.frames for one in chosen]]))
    looks = [look_at(network, one.video, at) for one in chosen]
    head = best_head(looks)
    panels = []
    for one, look in zip(chosen, looks):
        rows = rows_of(network, one.video, look, at, head)
        names = [one.video.name, *[name.replace('\n', ' ') for name in rows][1:]]
        for name, row in zip(names, rows.values()):
            panels.append(Panel(name, row, row.shape[1:3]))
    title = 'Attention. Grey: spread evenly. Orange: more than that. Blue: less.'
    play(path, panels, rate=10, columns=len(rows), side=130, title=title)


# ------------------------------------------------------------------------------------------------
# Alignment: what the distances between embeddings are good for

class Pair(NamedTuple):
    """Two videos of an action, by their positions; for each frame of the query (n,) a frame of the
    other: the most similar one, and the one as far into it (clock)."""
    query: int
    other: int
    nearest: np.ndarray
    clock: np.ndarray


def pairs_of(embedded, embeddings, most=12):
    """All pairs of the first videos of each action -> [Pair]."""
    pairs = []
    for group in by_action(embedded):
        for query, other in permutations(group[:most], 2):
            nearest = (embeddings[query] @ embeddings[other].T).argmax(1)
            clock = by_clock(len(nearest), len(embeddings[other]))
            pairs.append(Pair(query, other, nearest, clock))
    return pairs


def other_phase(embedded, pair, match):
    """Which frames of a pair's query `match` takes to another phase than theirs: bool (n,)."""
    own = embedded[pair.query].labels
    its = embedded[pair.other].labels[match]
    return (own >= 0) & (its >= 0) & (own != its)


def gain(embedded, pair):
    """By how much the most similar frames are more often of the query's phase than the clock's."""
    wrong = other_phase(embedded, pair, pair.nearest).mean()
    return other_phase(embedded, pair, pair.clock).mean() - wrong


def query_and_others(embedded, embeddings, wanted=2):
    """Pairs of one query that show alignment at its best; [] if no action has two videos."""
    pairs = pairs_of(embedded, embeddings)
    pairs.sort(key=lambda pair: other_phase(embedded, pair, pair.nearest).mean())
    return [pair for pair in pairs if pair.query == pairs[0].query][:wanted]


def draw_alignment(network, embedded, embeddings, path, *, frames=10):
    """A video's frames over their nearest neighbours in two others, and all similarities."""
    from scipy.stats import kendalltau
    pairs = query_and_others(embedded, embeddings)
    if not pairs:
        return 'no alignment.png: no action has two val videos'
    query = embedded[pairs[0].query]
    at = spaced(len(query.kept), frames)
    rows = [frames_at(network, query, at)]
    names = ['query']
    marked = []
    caption = 'Of the videos, one that aligns best. Red: a match of another phase.'
    height = (len(pairs) + 1) * (WIDTH - 1) / frames + 0.9
    fig = figure(WIDTH, height + 3.6, layout='constrained')
    top, bottom = fig.subfigures(2, 1, height_ratios=[height, 3.3])
    for letter, axes, pair in zip('AB', bottom.subplots(1, len(pairs), squeeze=False)[0], pairs):
        other = embedded[pair.other]
        wrong = other_phase(embedded, pair, pair.nearest)
        rows.append(frames_at(network, other, pair.nearest[at]))
        names.append(f'nearest in {letter}')
        marked += [(len(rows) - 1, c) for c in np.flatnonzero(wrong[at])]
        frame = np.arange(len(wrong))
        tau = kendalltau(frame, pair.nearest).statistic
        caption += f' {letter}: {wrong.sum()} of {len(wrong)}, tau {tau:.2f}.'
        similarity = embeddings[pair.query] @ embeddings[pair.other].T       # (n, m)
        image = axes.imshow(similarity, 'cividis', vmin=-1, vmax=1, aspect='auto', origin='lower')
        axes.plot(pair.nearest, frame, 'o', color='white', mec='black', ms=4)
        axes.plot(pair.nearest[wrong], frame[wrong], 'o', color=RED, mec='black', ms=4)
        axes.set_title(f'{letter}: {shortened(other.video.name, 36)}', fontsize=10)
        axes.set(xlabel=f'frame of {letter}', ylabel='frame of the query')
    bottom.colorbar(image, ax=bottom.axes, label='cosine similarity')
    axes = top.subplots()
    show(axes, rows, names, query.kept[at], marked)
    axes.set_title(f'query: {shortened(query.video.name, 70)}', fontsize=10)
    save(fig, path, caption)


def draw_clock(network, embedded, embeddings, path, *, frames=10):
    """Why a clock is not enough: a video's frames over those as far into another one, and over the
    most similar ones, another phase marked; below, the phases of both."""
    known = [(one.labels >= 0).any() for one in embedded]
    pairs = [pair for pair in pairs_of(embedded, embeddings)
             if known[pair.query] and known[pair.other]]
    if not pairs:
        return 'no clock.png: no action has two labelled val videos'
    pair = max(pairs, key=partial(gain, embedded))
    query, other = embedded[pair.query], embedded[pair.other]
    at = spaced(len(query.kept), frames)
    rows = [frames_at(network, query, at)]
    marked = []
    shares = []
    for number, field in enumerate(('clock', 'nearest'), 1):
        match = getattr(pair, field)
        rows.append(frames_at(network, other, match[at]))
        wrong = other_phase(embedded, pair, match)
        marked += [(number, c) for c in np.flatnonzero(wrong[at])]
        of_all = [other_phase(embedded, one, getattr(one, field)) for one in pairs]
        shares.append((1 - wrong.mean(), 1 - np.concatenate(of_all).mean()))
    height = 3 * (WIDTH - 1) / frames + 0.9
    fig = figure(WIDTH, height + 1.5, layout='constrained')
    strip, bars = fig.subplots(2, 1, height_ratios=[height, 1])
    show(strip, rows, ['query', 'by the clock', 'most similar'], query.kept[at], marked)
    strip.set_title(shortened(query.video.name, 70), fontsize=10)
    classes = np.union1d(query.labels, other.labels)
    names = []
    for line, one in enumerate((other, query)):
        draw_bar(bars, line, one.labels, classes[classes >= 0], one.video.classes, 100)
        names.append(shortened(one.video.name, 20))
    bars.set_yticks([0, 1], names)
    bars.set_xlabel('frame; colours: phases')
    plain(bars)
    caption = (f'Red: another phase. Of the same phase here, where clock and model differ most: '
               f'{shares[0][0]:.0%} by the clock, {shares[1][0]:.0%} by similarity; in all '
               f'{len(pairs)} pairs {shares[0][1]:.0%} and {shares[1][1]:.0%}.')
    save(fig, path, caption)


def draw_alignment_film(embedded, embeddings, path):
    """A video and its nearest neighbours in others of its action, moving side by side."""
    pairs = query_and_others(embedded, embeddings)
    if not pairs:
        return 'no alignment.mp4: no action has two val videos'
    query = embedded[pairs[0].query]
    videos = [query.video]
    places = [query.kept]
    similarities = []
    for pair in pairs:
        videos.append(embedded[pair.other].video)
        places.append(embedded[pair.other].kept[pair.nearest])
        z = embeddings[pair.other][pair.nearest]
        similarities.append((embeddings[pair.query] * z).sum(1))
    title = 'left: a video; then, at each moment, the nearest frames of others'
    names = [video.name for video in videos]
    film_alignment(path, videos, places, similarities, names=names, title=title)


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
        name = one['video'].video.name
        for height, labels in enumerate((predicted, true)):
            draw_bar(bars, height, labels, classes, names, 100 / len(predictions))
        bars.bar(np.flatnonzero(wrong) + 0.5, 0.2, width=1, bottom=-0.75, color=RED)
        title = shortened(name, 66 // len(predictions))
        bars.set_title(f'{title}: {right:.0%} right', fontsize=10)
        bars.set_xlim(0, len(true))
        bars.set_yticks([-0.65, 0, 1], ['wrong', 'predicted', 'true'] if bars is grid[0, 0] else [])
        for colour, (k, (target, guess)) in zip(COLOURS * 9, one['progress'].items()):
            curves.plot(target, '--', color=colour)
            curves.plot(guess, color=colour, label=f'end of {shortened(phase_name(names, k), 20)}')
        curves.axhline(0, color='grey', linewidth=0.8)
        curves.set_xlabel('frame')
        curves.legend(fontsize=8)
        captions.append(f'{name}: {worst(true, predicted, names)}.')
    grid[1, 0].set_ylabel('(time since the end) / length')
    save(fig, path, ' '.join(captions) + ' Dashed: true.')


def worst(true, predicted, names):
    """The most frequent confusion, in words."""
    pairs = np.stack([true, predicted], 1)[(true >= 0) & (predicted != true)]
    if not len(pairs):
        return 'every frame is right'
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    phase, taken = kinds[counts.argmax()]
    taken = phase_name(names, taken)
    return f'{phase_name(names, phase)} is taken for {taken} in {counts.max()} frames'


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
        'clock.png': partial(draw_clock, network, val, embeddings),
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
