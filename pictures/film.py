"""Films: pictures side by side that move together, over curves along which a cursor runs."""
import math
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageColor import getrgb
from tqdm import tqdm

from pictures.canvas import RED, figure, finish, shortened

H264 = {'crf': '23', 'preset': 'veryfast'}
GAP = 12              # pixels between panels
TITLE = 22            # pixels for a line of text
CURVE = 150           # pixels, the height of the curves, with what is above and below
ABOVE = 8
BELOW = 40            # numbers and a word
DPI = 100             # pixels an inch, in films


def write_film(path, frames, rate):
    """Write frames, uint8 (H, W, 3) of one even size, as an mp4 of `rate` frames a second.

    H.264, or MPEG-4 where FFmpeg was built without x264. The file gets its name when it is whole.
    Errors: UserError, OSError.
    """
    partial = Path(f'{path}.partial')
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
    bottom = TITLE
    for start in range(0, len(sizes), columns):
        left = GAP
        top = bottom + TITLE
        for h, w in sizes[start:start + columns]:
            scale = min(side / math.sqrt(h * w), 2 * side / max(h, w))
            width = max(2, round(scale * w))
            height = max(2, round(scale * h))
            boxes.append((left, top, width, height))
            left += width + GAP
            right = max(right, left)
            bottom = max(bottom, top + height + GAP)
    return boxes, right, bottom


def backdrop(names, boxes, width, height, title, at, unit):
    """All that stands still -> uint8 (H, W, 3), and the column of the cursor for each frame."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    fig = figure(width / DPI, height / DPI, dpi=DPI)
    title = shortened(title, width // 7)
    fig.text(GAP / width, 1 - TITLE / 2 / height, title, va='center', fontsize=9)
    for name, (left, top, wide, _) in zip(names, boxes):
        name = shortened(name, wide // 8)
        fig.text(left / width, 1 - (top - 5) / height, name, va='bottom', fontsize=9)
    columns = []
    if at:
        tall = CURVE - ABOVE - BELOW
        axes = fig.add_axes([70 / width, BELOW / height, 1 - 90 / width, tall / height])
        for number, y in enumerate(at[1:], 2):
            axes.plot(at[0], y, label=shortened(f'{number}. {names[number - 1]}', 60))
        axes.legend(fontsize=8)
        axes.set_xlabel(shortened(f'{unit} of {names[0]}', width // 8), fontsize=8)
        axes.set_ylabel(f'{unit} of the other', fontsize=8)
        axes.tick_params(labelsize=8)
        axes.autoscale_view()    # now, and not when it is drawn: the columns follow from it
        columns = [int(axes.transData.transform((x, 0))[0]) for x in at[0]]
    canvas = FigureCanvasAgg(fig)
    finish(fig, canvas.draw)
    still = np.array(canvas.buffer_rgba())[..., :3]
    height, width = np.array(still.shape[:2]) // 2 * 2  # yuv420p halves both sides
    return still[:height, :width], columns


def play(path, names, frames, rate, *, title, columns, side=320, at=(), unit=''):
    """Panels that move together, `rate` frames a second -> a film, as long as the shortest.

    names, frames: of each panel; frames are uint8 (H, W, 3), the first one's size is that of all.
    at: [(n,)] where each panel stands, the others drawn as curves over the first, in `unit`: frame,
    or seconds, which are written into the panels too.
    """
    moving = zip(*frames)
    first = next(moving)
    boxes, width, height = arrange([image.shape[:2] for image in first], columns, side)
    if at:
        height += CURVE
    still, cursor = backdrop(names, boxes, width, height, title, at, unit)
    font = ImageFont.load_default(13)

    def drawn():
        total = len(cursor) or None
        shown = tqdm(chain([first], moving), 'film', total, disable=None, leave=False)
        for number, images in enumerate(shown):
            frame = still.copy()
            for k, (left, top, wide, high) in enumerate(boxes):
                image = Image.fromarray(images[k])
                image = image.resize((wide, high), Image.BILINEAR, reducing_gap=2)
                if unit == 'seconds':
                    time = f'{at[k][number]:.2f} s'
                    draw = ImageDraw.Draw(image)
                    draw.text((5, 3), time, 'white', font, stroke_width=2, stroke_fill='black')
                frame[top:top + high, left:left + wide] = image
            if at:
                frame[ABOVE - CURVE:-BELOW, cursor[number]:cursor[number] + 2] = getrgb(RED)
            yield frame

    write_film(path, drawn(), rate)
