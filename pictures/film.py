"""Films: pictures side by side that move together, over curves along which a cursor runs.

    write_film(path, frames, rate)    uint8 (H, W, 3), all of one size -> an mp4
    play(path, panels, rate, ...)     panels: several videos -> one film
    animate(film, path)               a film -> a small animated image, for a page: in a shell,
        python -c "from pictures.film import animate; animate('film.mp4', 'film.webp', width=640)"
"""
from fractions import Fraction
from pathlib import Path
from typing import Iterable, NamedTuple

import av
import numpy as np
from PIL import Image

from pictures.canvas import figure, plain
from running.errors import UserError

ENCODERS = ('libx264', 'libopenh264', 'h264_videotoolbox', 'mpeg4')
GAP = 12              # pixels between panels
TITLE = 22            # pixels for a line of text
CURVE = 130           # pixels, the height of a curve
LEAST_WIDTH = 480     # pixels: curves need some room
DPI = 100             # pixels an inch, in films
CURSOR = (213, 94, 0)
PARTIAL = '.partial'


# ------------------------------------------------------------------------------------------------
# From frames to a file

def encoder():
    """The best of the encoders that this build of FFmpeg has."""
    for name in ENCODERS:
        try:
            av.Codec(name, 'w')
            return name
        except ValueError:
            pass
    raise UserError('no film: PyAV has no encoder for H.264 or MPEG-4; pip install --upgrade av')


def even(frame):
    """Repeat the last row or column where their number is odd: yuv420p halves both sides."""
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')


def write_film(path, frames, rate):
    """Write frames, uint8 (H, W, 3) of one size, as an mp4 of `rate` frames a second.

    It gets its name when it is whole. Errors: UserError, OSError.
    """
    path = Path(path)
    partial = path.with_name(path.name + PARTIAL)
    try:
        with av.open(str(partial), 'w', format='mp4', options={'movflags': 'faststart'}) as file:
            stream = file.add_stream(encoder(), Fraction(rate).limit_denominator(1000))
            stream.pix_fmt = 'yuv420p'
            if stream.codec.name == 'libx264':
                stream.options = {'crf': '18'}
            for frame in map(even, frames):
                if not stream.codec_context.is_open:
                    stream.height, stream.width = frame.shape[:2]
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24')))
            file.mux(stream.encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def film_frames(path):
    """Yield the frames of a video file, uint8 (H, W, 3)."""
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            yield frame.to_ndarray(format='rgb24')


def animate(film, path, *, width=480, rate=10, seconds=8):
    """The beginning of a film as an animated WebP or GIF, as the ending of `path` says."""
    with av.open(str(film)) as file:
        every = max(1, round(file.streams.video[0].average_rate / rate))
    images = []
    for number, frame in enumerate(film_frames(film)):
        if number % every == 0 and len(images) < seconds * rate:
            image = Image.fromarray(frame)
            images.append(image.resize((width, round(image.height * width / image.width))))
    images[0].save(path, save_all=True, append_images=images[1:], duration=1000 // rate, loop=0,
                   quality=70, method=6)


# ------------------------------------------------------------------------------------------------
# Several videos on one stage

class Panel(NamedTuple):
    """A video on the stage: what is written over it, its frames uint8 (H, W, 3), their size."""
    name: str
    frames: Iterable
    size: tuple


class Curve(NamedTuple):
    """Named lines (n,) over x (n,), a value for each frame of the film; the cursor is at x."""
    x: np.ndarray
    names: list
    lines: list
    xlabel: str
    ylabel: str


class Box(NamedTuple):
    """A place on the stage, in pixels from its upper left corner."""
    left: int
    top: int
    width: int
    height: int


def arrange(sizes, columns, height):
    """Boxes for panels of sizes (h, w), so many a line -> [Box], width, height of the whole."""
    boxes = []
    top = TITLE
    for start in range(0, len(sizes), columns):
        left = GAP
        top += TITLE
        for h, w in sizes[start:start + columns]:
            scale = min(height / h, 16 / 9 * height / w)  # nothing is wider than 16:9
            box = Box(left, top, max(2, round(scale * w)), max(2, round(scale * h)))
            boxes.append(box)
            left += box.width + GAP
        top += height + GAP
    width = max(box.left + box.width for box in boxes) + GAP
    return boxes, width, top


def draw_curve(fig, curve, top):
    """A curve on the stage, from so many pixels below its upper edge -> its axes."""
    width, height = fig.get_size_inches() * DPI
    bottom = height - top - CURVE + 40  # below it: numbers and a word
    axes = fig.add_axes([70 / width, bottom / height, 1 - 90 / width, (CURVE - 48) / height])
    for name, y in zip(curve.names, curve.lines):
        axes.plot(curve.x, y, label=name)
    if len(curve.lines) > 1:
        axes.legend(fontsize=7)
    axes.set_xlabel(curve.xlabel, fontsize=8)
    axes.set_ylabel(curve.ylabel, fontsize=8)
    axes.tick_params(labelsize=8)
    plain(axes)
    return axes


class Cursor(NamedTuple):
    """Where a cursor runs, in pixels: its column for each frame of the film (n,)."""
    top: int
    bottom: int
    columns: np.ndarray


def cursor_of(axes, x, height):
    """The cursor of a curve that has been drawn."""
    extent = axes.get_window_extent()  # counted from below
    points = np.stack([x, np.zeros(len(x))], 1)
    columns = axes.transData.transform(points)[:, 0].astype(int)
    return Cursor(int(height - extent.y1), int(height - extent.y0), columns)


def backdrop(panels, boxes, width, height, curves, title):
    """All that stands still -> uint8 (H, W, 3), and a Cursor for each curve."""
    total = height + len(curves) * CURVE
    fig = figure(width / DPI, total / DPI, dpi=DPI)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    fig.text(GAP / width, 1 - TITLE / 2 / total, title, va='center', fontsize=9)
    for panel, box in zip(panels, boxes):
        name = shortened(panel.name, box.width)
        fig.text(box.left / width, 1 - (box.top - 5) / total, name, va='bottom', fontsize=9)
    all_axes = []
    for number, curve in enumerate(curves):
        all_axes.append(draw_curve(fig, curve, height + number * CURVE))
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    cursors = [cursor_of(axes, curve.x, total) for axes, curve in zip(all_axes, curves)]
    return np.array(canvas.buffer_rgba())[..., :3], cursors


def shortened(name, width):
    """The end of a name, as much as fits over a picture of so many pixels."""
    room = max(3, width // 8)
    return name if len(name) <= room else '\u2026' + name[1 - room:]


def play(path, panels, rate, *, curves=(), columns=3, height=240, title=''):
    """Panels that move together, `rate` frames a second -> a film, as long as the shortest."""
    boxes, width, below = arrange([panel.size for panel in panels], columns, height)
    if curves:
        width = max(width, LEAST_WIDTH)
    still, cursors = backdrop(panels, boxes, width, below, curves, title)

    def frames():
        moving = [panel.frames for panel in panels]
        for number, images in enumerate(zip(*moving)):
            frame = still.copy()
            for image, box in zip(images, boxes):
                image = Image.fromarray(image).resize((box.width, box.height), Image.LANCZOS)
                frame[box.top:box.top + box.height, box.left:box.left + box.width] = image
            for cursor in cursors:
                column = cursor.columns[number]
                frame[cursor.top:cursor.bottom, column:column + 2] = CURSOR
            yield frame

    write_film(path, frames(), rate)
