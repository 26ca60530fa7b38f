"""All that is looked at: attention, alignment, training (Figures 1 and 3).

What is drawn is handed over: a model, arrays, and evaluate.py's records `EmbeddedVideo`,
    video   data.Video                       frames   n, how many it has
    kept    (m,) those that were embedded    labels   (m,) their phases, or -1 for all of them
with embeddings (m, D) of unit length. Captions say what a picture shows, failures too. Entities
count from 1: entity 1 is z[:, 0], the one whose token the paper's readout takes.
"""
import json
import math
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

import data
from pictures.align import by_clock
from pictures.canvas import (BLUE, RED, STRONGEST, WIDTH, denormalise, draw_bars, figure, on_screen,
                             save, show, shortened, spaced, tinted, to_bytes)
from pictures.film import play
from running.errors import UserError
from running.record import attempt

PART = 16             # frames that go through the backbone at once


# ------------------------------------------------------------------------------------------------
# What the model sees, and where it looks (Figures 1 and 3)

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
    weight = next(backbone.parameters())
    images = data.center(video.read(indices).to(weight.device), backbone.image_size)
    _, entities = network.entities(images)
    heads = None
    if hasattr(backbone, 'attention_map'):
        parts = images.to(weight.dtype).split(PART)
        heads = torch.cat([backbone.attention_map(part) for part in parts]).float()
    actor = video.actor(indices)                                             # bool (F, H, W)
    if actor is not None:                     # through the same crop as the frames
        mask = actor.to(weight.device, torch.uint8)[:, None].expand(-1, 3, -1, -1) * 255
        mask = denormalise(data.center(mask, backbone.image_size))[:, :1]
        used = backbone.grid * backbone.patch_size    # pixels that fill no patch are left out
        actor = F.interpolate(mask[..., :used, :used], backbone.grid, mode='area').flatten(1)
    return Look(images, entities, heads, actor)


@torch.no_grad()
def feature_colours(network, images):
    """The patch features of frames (F, 3, S, S) as colours: their first three principal components
    are red, green and blue, as users of DINOv2 see them (Oquab et al., 2023) -> uint8 (F, S, S, 3).
    """
    from sklearn.decomposition import PCA
    some = network.features(images[spaced(len(images), 8)]).patches.flatten(0, 1).cpu().numpy()
    pca = PCA(3, random_state=0).fit(some)
    low, high = np.percentile(pca.transform(some), [2, 98], axis=0)
    colours = []
    for part in images.split(PART):
        for frame in network.features(part).patches.cpu().numpy():           # (P, L*C)
            colours.append(pca.transform(frame))
    colours = torch.from_numpy((np.stack(colours) - low) / (high - low)).clamp(0, 1)    # (F, P, 3)
    side = math.isqrt(colours.shape[1])
    colours = rearrange(colours, 'f (r c) rgb -> f rgb r c', r=side)
    return to_bytes(F.interpolate(colours, images.shape[-1]))


def on_actor(attention, actor):
    """Share of the attention (F, N, P) on the actor (F, P), mean over the frames -> (N,)."""
    shares = (attention * actor[:, None]).sum(-1) / attention.sum(-1).clamp_min(1e-12)
    return shares.mean(0)


def frames_at(network, one, positions):
    """Frames of an EmbeddedVideo as the model sees them, for the screen -> uint8 (F, S, S, 3)."""
    frames = one.video.read(one.kept[positions])
    return on_screen(data.center(frames, network.backbone.image_size))


def attention_rows(look):
    """{name: attention (F, P)} of each entity and the CLS token: of its head that lies best on the
    actor, the paper's choice, or the mean of all where no actor is known."""
    rows = {}
    if look.entities is not None:
        for k, attention in enumerate(look.entities.unbind(1), 1):
            rows[f'entity {k}'] = attention
    if look.heads is not None:
        if look.actor is None:
            rows['CLS, mean'] = look.heads.mean(1)
        else:
            best = on_actor(look.heads, look.actor).argmax()
            rows['CLS, best head'] = look.heads[:, best]
    return rows


def actor_shares(looks):
    """{attention row: its share on the actor}, and 'area', the actor's share of the frame."""
    shares = {}
    for look in [look for look in looks if look.actor is not None]:
        rows = attention_rows(look) | {'area': torch.ones_like(look.actor)}
        for name, attention in rows.items():
            share = on_actor(attention[:, None], look.actor)
            shares.setdefault(name, []).append(share.item())
    return {name: np.mean(values) for name, values in shares.items()}


def rows_of(network, look):
    """{name: uint8 (F, S, S, 3)}: frames, what the backbone sees in them, where it is looked at."""
    rows = {'frames': on_screen(look.images),
            'patch features': feature_colours(network, look.images)}
    for name, attention in attention_rows(look).items():
        rows[name] = tinted(look.images, attention)
    return rows


def draw_entities(network, embedded, path, *, wanted=2, frames=6):
    """Frames of some videos over what the backbone sees and where entities and CLS token look."""
    chosen = [embedded[i] for i in spaced(len(embedded), wanted)]
    looks = [look_at(network, one.video, spaced(one.frames, frames)) for one in chosen]
    shares = actor_shares(looks)
    lines = math.ceil(len(chosen) / 2)
    height = 2 + len(attention_rows(looks[0]))
    side = (WIDTH / 2 - 1) / frames
    fig = figure(WIDTH, lines * (height * side + 0.35) + 0.6, layout='constrained')
    grid = fig.subplots(lines, 2).flat
    grid[-1].set_visible(len(chosen) % 2 == 0)
    for number, (axes, one, look) in enumerate(zip(grid, chosen, looks)):
        rows = rows_of(network, look)
        names = [f'{name}\n{shares[name]:.0%} on actor' if name in shares else name
                 for name in rows]
        show(axes, list(rows.values()), names if number % 2 == 0 else ())
        axes.set_title(shortened(one.video.name, 45), fontsize=10)
    caption = ('Patch features: like colours, like features (three principal components of each '
               'video). Grey: attention spread evenly. Orange: more, blue: less, full colour: '
               f'{STRONGEST} times as much or as little.')
    if shares:
        caption += f' The actor covers {shares["area"]:.0%} of the frame, on average.'
    save(fig, path, caption)


def film_entities(network, embedded, path, *, wanted=3, longest=200):
    """The same, moving: a line for each of some videos, as long as the shortest of them."""
    chosen = [embedded[i] for i in spaced(len(embedded), wanted)]
    at = np.arange(min([longest, *[one.frames for one in chosen]]))
    names = []
    frames = []
    for one in chosen:
        rows = rows_of(network, look_at(network, one.video, at))
        _, *others = rows
        names += [one.video.name, *others]
        frames += rows.values()
    title = 'Attention. Grey: spread evenly. Orange: more than that. Blue: less.'
    play(path, names, frames, rate=10, columns=len(rows), side=150, title=title)


# ------------------------------------------------------------------------------------------------
# Alignment: what the distances between embeddings are good for

class Pair(NamedTuple):
    """Two videos of an action, by their positions, and for each frame of the query (n,):"""
    query: int
    other: int
    nearest: np.ndarray        # the most similar frame of the other
    clock: np.ndarray          # the one as far into it
    wrong: np.ndarray          # bool: the nearest is of another phase; False without labels
    clock_wrong: np.ndarray    # bool: that by the clock is
    tau: float                 # Kendall's, of the nearest: how far they come in order
    labelled: bool


def pairs_of(embedded, embeddings, most=12):
    """All pairs of the first videos of each action, of labelled ones if there are any -> [Pair],
    those first whose most similar frames are most often of one phase, then those most in order.
    Errors: UserError."""
    from scipy.stats import kendalltau
    actions = {}
    for position, one in enumerate(embedded):
        if len(one.kept) > 1:                             # a single frame has no order
            actions.setdefault((one.video.action, one.labels[0] >= 0), []).append(position)
    pairs = []
    for (_, labelled), positions in actions.items():
        for query, other in permutations(positions[:most], 2):
            nearest = (embeddings[query] @ embeddings[other].T).argmax(1)
            clock = by_clock(len(nearest), len(embeddings[other]))
            labels = embedded[other].labels
            wrong = embedded[query].labels != labels[nearest]
            clock_wrong = embedded[query].labels != labels[clock]
            tau = np.nan_to_num(kendalltau(np.arange(len(nearest)), nearest).statistic)
            pairs.append(Pair(query, other, nearest, clock, wrong, clock_wrong, tau, labelled))
    if not pairs:
        raise UserError('no action has two val videos')
    known = [pair for pair in pairs if pair.labelled]
    return sorted(known or pairs, key=lambda pair: (pair.wrong.mean(), -pair.tau))


def draw_alignment(network, embedded, embeddings, path, *, frames=8):
    """What the embedding knows: all similarities of two videos, between frames of both."""
    pair = pairs_of(embedded, embeddings)[0]
    query, other = embedded[pair.query], embedded[pair.other]
    similarity = embeddings[pair.query] @ embeddings[pair.other].T           # (n, m)
    n, m = similarity.shape
    fig = figure(WIDTH, WIDTH - 1, layout='constrained')
    axes = fig.subplot_mosaic([['left', 'matrix'], ['.', 'below']], width_ratios=[1, frames],
                              height_ratios=[frames, 1])
    left, matrix, below = axes.values()
    image = matrix.imshow(similarity, 'cividis', vmin=-1, vmax=1, aspect='auto', origin='lower')
    matrix.plot(pair.nearest, range(n), 'o', color='white', mec='black', ms=5)
    wrong = np.flatnonzero(pair.wrong)
    matrix.plot(pair.nearest[wrong], wrong, 'o', color=RED, mec='black', ms=5)
    fig.colorbar(image, ax=matrix, label='cosine similarity', fraction=0.04, pad=0.02)
    show(left, frames_at(network, query, by_clock(frames, n))[::-1, None])
    show(below, [frames_at(network, other, by_clock(frames, m))])
    left.set_aspect('auto')     # as long as the sides of the matrix
    below.set_aspect('auto')
    left.set_ylabel(f'{shortened(query.video.name, 50)}: time runs up')
    below.set_xlabel(f'{shortened(other.video.name, 70)}: time runs to the right')
    matrix.set_title('How similar are the frames of two videos?')
    caption = f'Dots: of each frame on the left, the most similar one below (tau {pair.tau:.2f}).'
    if pair.labelled:
        caption += (f' Red: it is of another phase, {len(wrong)} of {n}; no pair looked at has a '
                    f'smaller share.')
    else:
        caption += ' Of all pairs the one with the highest; no labels say what is wrong.'
    save(fig, path, caption)


def draw_clock(network, embedded, embeddings, path, *, frames=10):
    """Why a clock is not enough: a video's frames over those as far into another one, and over the
    most similar ones, another phase marked; below, the phases of both."""
    pairs = pairs_of(embedded, embeddings)
    pair = max(pairs, key=lambda pair: pair.clock_wrong.mean() - pair.wrong.mean())
    query, other = embedded[pair.query], embedded[pair.other]
    if not pair.labelled:
        raise UserError('no action has two labelled val videos')
    at = spaced(len(query.kept), frames)
    rows = {'query': frames_at(network, query, at)}
    marked = []
    for name, match, wrong in [('by the clock', pair.clock, pair.clock_wrong),
                               ('most similar', pair.nearest, pair.wrong)]:
        marked += [(len(rows), column) for column in np.flatnonzero(wrong[at])]
        rows[f'{name}:\n{1 - wrong.mean():.0%} right'] = frames_at(network, other, match[at])
    height = 3 * (WIDTH - 1) / frames + 0.9
    fig = figure(WIDTH, height + 1.5, layout='constrained')
    strip, bars = fig.subplots(2, 1, height_ratios=[height, 1])
    show(strip, list(rows.values()), rows, query.kept[at], marked)
    strip.set_title(shortened(query.video.name, 70), fontsize=10)
    labels = {other.video.name: other.labels, query.video.name: query.labels}
    draw_bars(bars, labels, query.video.classes)
    bars.set_xlabel('frame; colours: phases')
    clock = 1 - np.concatenate([pair.clock_wrong for pair in pairs]).mean()
    model = 1 - np.concatenate([pair.wrong for pair in pairs]).mean()
    save(fig, path, f'Red: a frame of another phase, wrong. Here clock and model differ most; in '
                    f'all {len(pairs)} pairs of videos of one action {clock:.0%} of the frames are '
                    f'right by the clock, {model:.0%} by similarity.')


def film_alignment(network, embedded, embeddings, path, *, longest=300):
    """A video and its nearest neighbours in two others of its action, moving side by side."""
    pairs = pairs_of(embedded, embeddings)
    query = embedded[pairs[0].query]
    at = spaced(len(query.kept), longest)
    shown = [(query, at)]
    for pair in [pair for pair in pairs if pair.query == pairs[0].query][:2]:
        shown.append((embedded[pair.other], pair.nearest[at]))
    play(path,
         [one.video.name for one, _ in shown],
         [frames_at(network, one, positions) for one, positions in shown],
         rate=10, columns=3, at=[one.kept[positions] for one, positions in shown], unit='frame',
         title='left: a video; then, at each moment, the nearest frames of others')


# ------------------------------------------------------------------------------------------------
# Training, and all of them

def draw_training(log, path):
    """From log.jsonl of train.py: loss and learning rate over steps."""
    lines = [json.loads(line) for line in Path(log).read_text().splitlines()]
    lines = [line for line in lines if 'loss' in line]
    step = [line['step'] for line in lines]
    values = [line['loss'] for line in lines]
    width = 1 + len(lines) // 20
    mean = np.convolve(values, np.ones(width) / width, 'valid')
    fig = figure(WIDTH, 2.8, layout='constrained')
    loss, rate = fig.subplots(1, 2)
    loss.plot(step, values, color='#BBBBBB', linewidth=0.8, label='one step')
    loss.plot(step[width - 1:], mean, color=BLUE, label=f'mean of the last {width}')
    loss.set(title='loss', xlabel='step')
    loss.legend(fontsize=8)
    rate.plot(step, [line['lr'] for line in lines], color=BLUE)
    rate.set(title='learning rate', xlabel='step', ylim=(0, None))
    save(fig, path)


def draw_all(network, result, name, folder, log):
    """All pictures and films of one model into a folder; what fails is a printed note. result: of
    evaluate.assess; name: the model's in it; log: its log.jsonl."""
    val = result['embedded']['val']
    embeddings = result['embeddings'][name]['val']
    drawings = {
        'entities.png': partial(draw_entities, network, val, wanted=4),
        'alignment.png': partial(draw_alignment, network, val, embeddings),
        'clock.png': partial(draw_clock, network, val, embeddings),
        'training.png': partial(draw_training, log),
        'entities.mp4': partial(film_entities, network, val),
        'alignment.mp4': partial(film_alignment, network, val, embeddings),
    }
    for file, draw in drawings.items():
        attempt(file, partial(draw, path=Path(folder, file)))
