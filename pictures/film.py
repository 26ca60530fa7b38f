"""Films: pictures side by side that move together, over curves along which a cursor runs."""
import math
from fractions import Fraction
from pathlib import Path
from typing import Iterable, NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from pictures.canvas import figure, literal, plain, shortened
from running.errors import UserError

ENCODERS = {'libx264': {'crf': '18', 'preset': 'veryfast'}, 'libopenh264': {},
            'h264_videotoolbox': {}, 'mpeg4': {}}
GAP = 12              # pixels between panels
TITLE = 22            # pixels for a line of text
CURVE = 130           # pixels, the height of a curve
LEAST_WIDTH = 480     # pixels: curves need some room
DPI = 100             # pixels an inch, in films
CURSOR = (213, 94, 0)


class Panel(NamedTuple):
    """A video on the stage."""
    name: str
    frames: Iterable                  # uint8 (H, W, 3); those of another size are brought to it
    size: tuple                       # (H, W)
    times: np.ndarray | None = None   # (n,) seconds, written into the frames


class Curve(NamedTuple):
    """Named lines (n,) over x (n,), a value for each frame of the film; the cursor is at x."""
    x: np.ndarray
    names: list
    lines: list
    xlabel: str
    ylabel: str
    top: float | None = None          # of an axis that goes from 0 to it


def encoder():
    """The best of the encoders that this build of FFmpeg has."""
    for name in ENCODERS:
        if name in av.codecs_available:
            return name
    raise UserError('no film: PyAV has no encoder for H.264 or MPEG-4; pip install --upgrade av')


def write_film(path, frames, rate):
    """Write frames, uint8 (H, W, 3) of one even size, as an mp4 of `rate` frames a second.

    It gets its name when it is whole. Errors: UserError, OSError.
    """
    path = Path(path)
    partial = path.with_name(path.name + '.partial')
    codec = encoder()
    try:
        with av.open(str(partial), 'w', format='mp4', options={'movflags': 'faststart'}) as file:
            stream = file.add_stream(codec, Fraction(rate).limit_denominator(1000))
            stream.pix_fmt = 'yuv420p'
            stream.options = ENCODERS[codec]
            for frame in frames:
                if not stream.codec_context.is_open:
                    stream.height, stream.width = frame.shape[:2]
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24')))
            file.mux(stream.encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def arrange(sizes, columns, side):
    """Boxes (left, top, width, height) in pixels for panels of sizes (h, w), so many a line.

    All have an area of about side^2, be they upright or wide -> [box], width, height of the whole.
    """
    boxes = []
    top = right = 0
    for start in range(0, len(sizes), columns):
        left = GAP
        top += 2 * TITLE if start == 0 else TITLE
        tallest = 0
        for h, w in sizes[start:start + columns]:
            scale = min(side / math.sqrt(h * w), 2 * side / max(h, w))
            width = max(2, round(scale * w))
            height = max(2, round(scale * h))
            boxes.append((left, top, width, height))
            left += width + GAP
            tallest = max(tallest, height)
        top += tallest + GAP
        right = max(right, left)
    return boxes, right, top


def draw_curve(fig, curve, top):
    """A curve on the stage, from so many pixels below its upper edge -> its axes."""
    width, height = fig.get_size_inches() * DPI
    bottom = height - top - CURVE + 40  # below it: numbers and a word
    axes = fig.add_axes([70 / width, bottom / height, 1 - 90 / width, (CURVE - 48) / height])
    for name, y in zip(curve.names, curve.lines):
        axes.plot(curve.x, y, label=shortened(name, 40))
    if len(curve.lines) > 1:
        axes.legend(fontsize=7)
    if curve.top is not None:
        axes.set_ylim(0, curve.top)
    axes.set_xlabel(shortened(curve.xlabel, width // 8), fontsize=8)
    axes.set_ylabel(curve.ylabel, fontsize=8)
    axes.tick_params(labelsize=8)
    plain(axes)
    return axes


def backdrop(panels, boxes, width, below, curves, title):
    """All that stands still -> uint8 (H, W, 3), and where the cursor of each curve runs:
    (first row, last row, column for each frame of the film)."""
    height = below + len(curves) * CURVE
    fig = figure(width / DPI, height / DPI, dpi=DPI)
    title = shortened(title, width // 7)
    fig.text(GAP / width, 1 - TITLE / 2 / height, title, va='center', fontsize=9)
    for panel, (left, top, wide, _) in zip(panels, boxes):
        name = shortened(panel.name, wide // 8)
        fig.text(left / width, 1 - (top - 5) / height, name, va='bottom', fontsize=9)
    all_axes = [draw_curve(fig, curve, below + i * CURVE) for i, curve in enumerate(curves)]
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    canvas = FigureCanvasAgg(fig)
    literal(fig, canvas.draw)
    cursors = []
    for axes, curve in zip(all_axes, curves):
        box = axes.get_window_extent()  # counted from below
        places = axes.transData.transform([(x, 0) for x in curve.x])
        cursors.append((int(height - box.y1), int(height - box.y0), places[:, 0].astype(int)))
    still = np.array(canvas.buffer_rgba())[..., :3]
    height, width = np.array(still.shape[:2]) // 2 * 2  # yuv420p halves both sides
    return still[:height, :width], cursors


def scaled(image, box, seconds):
    """A frame uint8 (H, W, 3) at the size of its box, with the time in it."""
    _, _, width, height = box
    image = Image.fromarray(image).resize((width, height), Image.BICUBIC, reducing_gap=2)
    if seconds is not None:
        font = ImageFont.load_default(13)
        draw = ImageDraw.Draw(image)
        draw.text((5, 3), f'{seconds:.2f} s', 'white', font, stroke_width=2, stroke_fill='black')
    return image


def play(path, panels, rate, *, curves=(), columns=3, side=320, title='', length=None):
    """Panels that move together, `rate` frames a second -> a film, as long as the shortest.

    length: frames of it, for the progress that is shown.
    """
    boxes, width, below = arrange([panel.size for panel in panels], columns, side)
    if curves:
        width = max(width, LEAST_WIDTH)
    still, cursors = backdrop(panels, boxes, width, below, curves, title)

    def frames():
        moving = zip(*[panel.frames for panel in panels])
        for number, images in enumerate(tqdm(moving, 'film', length, disable=None, leave=False)):
            frame = still.copy()
            for panel, image, box in zip(panels, images, boxes):
                left, top, wide, high = box
                seconds = None if panel.times is None else panel.times[number]
                frame[top:top + high, left:left + wide] = scaled(image, box, seconds)
            for top, bottom, columns in cursors:
                frame[top:bottom, columns[number]:columns[number] + 2] = CURSOR
            yield frame

    write_film(path, frames(), rate)
