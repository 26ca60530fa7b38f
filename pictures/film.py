"""Films: pictures side by side that move together, over curves along which a cursor runs."""
import math
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Iterable, NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from pictures.canvas import RED, figure, literal, plain, rgb, shortened

H264 = {'crf': '23', 'preset': 'veryfast'}
GAP = 12              # pixels between panels
TITLE = 22            # pixels for a line of text
CURVE = 150           # pixels, the height of the curves
LEAST_WIDTH = 480     # pixels: curves need some room
DPI = 100             # pixels an inch, in films


class Panel(NamedTuple):
    """A video on the stage."""
    name: str
    frames: Iterable                  # uint8 (H, W, 3); the first one's size is that of all
    times: np.ndarray | None = None   # (n,) seconds, written into the frames


class Curves(NamedTuple):
    """Under the panels: named lines (n,) over x (n,), a value for each frame of the film."""
    x: np.ndarray
    lines: dict
    xlabel: str
    ylabel: str


def write_film(path, frames, rate):
    """Write frames, uint8 (H, W, 3) of one even size, as an mp4 of `rate` frames a second.

    H.264, or MPEG-4 where FFmpeg was built without x264. The file gets its name when it is whole.
    A frame may be changed after the next one is asked for. Errors: UserError, OSError.
    """
    path = Path(path)
    partial = path.with_name(path.name + '.partial')
    codec = 'libx264' if 'libx264' in av.codecs_available else 'mpeg4'
    try:
        with av.open(str(partial), 'w', format='mp4', options={'movflags': 'faststart'}) as file:
            stream = file.add_stream(codec, Fraction(rate).limit_denominator(1000))
            stream.pix_fmt = 'yuv420p'
            stream.options = H264    # the other knows none of them
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
    right = 0
    top = TITLE
    for start in range(0, len(sizes), columns):
        left = GAP
        top += TITLE
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


def backdrop(panels, boxes, width, height, curves, title):
    """All that stands still -> uint8 (H, W, 3), and where the cursor runs, if there are curves:
    (first row, last row, column for each frame of the film)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    fig = figure(width / DPI, height / DPI, dpi=DPI)
    title = shortened(title, width // 7)
    fig.text(GAP / width, 1 - TITLE / 2 / height, title, va='center', fontsize=9)
    for panel, (left, top, wide, _) in zip(panels, boxes):
        name = shortened(panel.name, wide // 8)
        fig.text(left / width, 1 - (top - 5) / height, name, va='bottom', fontsize=9)
    cursor = None
    if curves:
        # beside them and below: numbers and a word
        axes = fig.add_axes([70 / width, 40 / height, 1 - 90 / width, (CURVE - 48) / height])
        for name, y in curves.lines.items():
            axes.plot(curves.x, y, label=shortened(name, 40))
        axes.legend(fontsize=8)
        axes.set_xlabel(shortened(curves.xlabel, width // 8), fontsize=8)
        axes.set_ylabel(curves.ylabel, fontsize=8)
        axes.tick_params(labelsize=8)
        plain(axes)
        axes.autoscale_view()    # now, and not when it is drawn: the columns follow from it
        box = axes.get_window_extent()  # counted from below
        columns = [int(axes.transData.transform((x, 0))[0]) for x in curves.x]
        cursor = int(height - box.y1), int(height - box.y0), columns
    canvas = FigureCanvasAgg(fig)
    literal(fig, canvas.draw)
    still = np.array(canvas.buffer_rgba())[..., :3]
    height, width = np.array(still.shape[:2]) // 2 * 2  # yuv420p halves both sides
    return still[:height, :width], cursor


def play(path, panels, rate, *, curves=None, columns=3, side=320, title=''):
    """Panels that move together, `rate` frames a second -> a film, as long as the shortest."""
    moving = zip(*[panel.frames for panel in panels])
    first = next(moving)
    boxes, width, height = arrange([image.shape[:2] for image in first], columns, side)
    if curves:
        width = max(width, LEAST_WIDTH)
        height += CURVE
    still, cursor = backdrop(panels, boxes, width, height, curves, title)
    font = ImageFont.load_default(13)
    total = len(curves.x) if curves else None

    def frames():
        frame = still.copy()
        shown = tqdm(chain([first], moving), 'film', total, disable=None, leave=False)
        for number, images in enumerate(shown):
            for panel, image, (left, top, wide, high) in zip(panels, images, boxes):
                image = Image.fromarray(image).resize((wide, high), Image.BILINEAR, reducing_gap=2)
                if panel.times is not None:
                    time = f'{panel.times[number]:.2f} s'
                    draw = ImageDraw.Draw(image)
                    draw.text((5, 3), time, 'white', font, stroke_width=2, stroke_fill='black')
                frame[top:top + high, left:left + wide] = image
            if cursor:
                top, bottom, columns = cursor
                frame[top:bottom] = still[top:bottom]
                frame[top:bottom, columns[number]:columns[number] + 2] = rgb(RED)
            yield frame

    write_film(path, frames(), rate)
