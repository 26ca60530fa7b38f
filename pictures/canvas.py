"""What all pictures share: an empty figure, rows of frames, attention as colour.

Attention has one scale in all of them: attention x P, so that 1 is attention spread evenly over
the P patches, whatever the model. There a frame stays grey; more is orange, less is blue.
Names are taken literally (a dollar begins no formula), cut at their beginning where they are too
long, and written in whatever font has their letters.
"""
import math
import os
import warnings
from textwrap import fill

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL.ImageColor import getrgb

import data

# Okabe and Ito's colours, which all eyes tell apart
ORANGE = '#E69F00'
BLUE = '#0072B2'
RED = '#D55E00'
COLOURS = [ORANGE, '#56B4E9', '#009E73', '#F0E442', BLUE, '#CC79A7', '#999999']
WIDTH = 9             # inches; at DPI about twice the pixels at which a README shows a picture
DPI = 160
LETTERS = 14          # of a caption, to an inch
FONTS = ('DejaVu Sans', 'Noto Sans CJK JP', 'Noto Sans', 'Arial Unicode MS', 'PingFang SC',
         'Hiragino Sans', 'Microsoft YaHei', 'Malgun Gothic', 'Nirmala UI')  # as far as installed
STRONGEST = 8         # times uniform attention: full colour; so has 1 / STRONGEST of it


def figure(width, height, **options):
    """An empty matplotlib figure, in inches. It is only ever saved, so it needs no screen."""
    # a notebook hands its backend down; where that is not installed, the import fails
    backend = os.environ.pop('MPLBACKEND', None)
    try:
        from matplotlib.figure import Figure
    finally:
        if backend is not None:
            os.environ['MPLBACKEND'] = backend
    return Figure((width, height), **options)


def finish(fig, draw):
    """draw(), with all words of the figure as they stand, in the fonts that are there, and axes
    with two of the four lines around them."""
    from matplotlib.font_manager import fontManager
    from matplotlib.text import Text
    fonts = [name for name in FONTS if name in fontManager.get_font_names()]
    for text in fig.findobj(Text):
        text.set_parse_math(False)
        text.set_fontfamily(fonts)
    for axes in fig.axes:
        axes.spines[['top', 'right']].set_visible(False)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph')  # of a script without a font: boxes, as anywhere
        draw()


def save(fig, path, caption=''):
    """With the caption under the picture, broken into lines of its width."""
    letters = int(LETTERS * fig.get_figwidth())
    fig.supxlabel(fill(caption, letters), fontsize=9)
    finish(fig, lambda: fig.savefig(path, dpi=DPI))


def shortened(name, letters):
    """The end of a name that is too long."""
    letters = max(3, int(letters))
    return name if len(name) <= letters else '\u2026' + name[1 - letters:]


def spaced(n, wanted):
    """Up to `wanted` evenly spaced ones of n indices."""
    return np.unique(np.linspace(0, n - 1, min(n, wanted)).round().astype(int))


def denormalise(images):
    """Undo data.normalise."""
    mean, std = data.statistics(images.device)
    return images * std + mean


def on_screen(images):
    """Normalised (F, 3, S, S) -> uint8 (F, S, S, 3)."""
    return to_bytes(denormalise(images))


def to_bytes(images):
    """RGB in 0..1 (F, 3, S, S) -> uint8 (F, S, S, 3)."""
    images = rearrange(images.cpu(), 'f rgb h w -> f h w rgb')
    return (images * 255).round().clamp(0, 255).byte().numpy()


def tinted(images, attention):
    """Attention (F, P), as colour over frames (F, 3, S, S) -> uint8 (F, S, S, 3)."""
    _, patches = attention.shape
    times_uniform = (attention.cpu() * patches).clamp(1 / STRONGEST, STRONGEST)
    strength = times_uniform.log() / math.log(STRONGEST)                     # (F, P) in -1..1
    strength = rearrange(strength, 'f (r c) -> f 1 r c', r=math.isqrt(patches))
    strength = F.interpolate(strength, images.shape[-1], mode='bilinear')    # (F, 1, S, S)
    grey = 0.2 + 0.6 * denormalise(images).cpu().mean(1, keepdim=True)
    more = torch.tensor(getrgb(ORANGE))[:, None, None] / 255                 # (3, 1, 1)
    less = torch.tensor(getrgb(BLUE))[:, None, None] / 255
    colour = torch.where(strength > 0, more, less) * (0.4 + 0.8 * grey)      # (F, 3, S, S)
    weight = 0.9 * strength.abs()
    return to_bytes((1 - weight) * grey + weight * colour)


def show(axes, rows, row_names=(), column_names=(), marked=()):
    """Rows of frames uint8 (F, H, W, 3) as a sheet, those at `marked`, (row, column), in red."""
    rows = np.stack(rows)                                                    # (R, F, H, W, 3)
    gap = max(2, rows.shape[3] // 20)
    frame = (0, 0), (0, 0), (gap, gap), (gap, gap), (0, 0)
    cells = np.pad(rows, frame, constant_values=255)
    for place in marked:
        cells[place] = getrgb(RED)
    cells[:, :, gap:-gap, gap:-gap] = rows
    _, _, down, right, _ = cells.shape
    axes.imshow(rearrange(cells, 'r f h w rgb -> (r h) (f w) rgb'), interpolation='lanczos')
    axes.set_yticks((np.arange(len(row_names)) + 0.5) * down, row_names)
    axes.set_xticks((np.arange(len(column_names)) + 0.5) * right, column_names)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)


def class_name(names, label):
    """The name of a label, where the data set has names; else its number."""
    if names and names[label]:
        return names[label]
    return str(label)


def draw_bars(axes, bars, names=None):
    """Phases over time, a bar of coloured stretches for each of {name: labels (n,)}, from below up.
    names: of the phases, by number, written where there is room."""
    longest = max(map(len, bars.values()))
    for height, labels in enumerate(bars.values()):
        changes = np.flatnonzero(np.diff(labels)) + 1
        for stretch in np.split(np.arange(len(labels)), changes):
            start, length = stretch[0], len(stretch)
            colour = COLOURS[labels[start] % len(COLOURS)]
            axes.barh(height, length, left=start, height=0.8, color=colour)
            room = 100 * length / longest                 # letters
            name = class_name(names, labels[start])
            if room > 4 or len(name) < room:
                axes.text(start + length / 2, height, shortened(name, room), fontsize=8,
                          ha='center', va='center')
    axes.set_yticks(range(len(bars)), [shortened(name, 20) for name in bars])
    axes.set_xlim(0, longest)
