"""The two drawings of the lesson, from the code itself: the architecture (paper, Figure 2), and one
batch of the sequence contrastive loss (section 4). All of assets/*.png and *.webp:

    python evaluate.py CHECKPOINT --figures FOLDER
    python experiments/lesson.py FOLDER --checkpoint CHECKPOINT

The second also makes the films of the first into animated images, and its pictures smaller.
"""
import argparse
import sys
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import model as models
from loss import OBJECTIVES, scl, time_target
from pictures import figures
from pictures.canvas import (BLUE, COLOURS, DPI, ORANGE, WIDTH, figure, on_screen, save, tinted)
from running.command import end_well
from running.counting import architecture
from running.errors import UserError

FROZEN = '#D9E6F2'
TRAINED = '#FBE3B5'
ROWS = (2.85, 2.05, 1.1)  # inches: where the first, the second and the last frame are drawn


# ------------------------------------------------------------------------------------------------
# The architecture

def stages(rows, settings):
    """The boxes, from rows of counting.architecture -> [(title, text, parameters, trained)]."""
    parameters = {row[0]: row[3] for row in rows}
    trained = {row[0]: row[4] for row in rows}
    fusion = [name for name in parameters if name.startswith(('mtf.blocks', 'mtf.out'))]
    layers = ', '.join(map(str, settings['layers']))
    readout = {'cls': 'entity 1', 'avg': 'their mean'}[settings['readout']]
    return [
        ('Backbone', f'{settings["backbone"]}\nlayers {layers}',
         parameters['backbone'], trained['backbone']),
        ('LSTP', 'a learned query\nfor each entity', parameters['pool'], True),
        ('MTF: FC', 'one-hot id\n2 FC layers\n+ linear\n+ position', parameters['mtf.fc'], True),
        ('MTF: fusion', f'{settings["depth"]} blocks in which\nall frames meet\nreadout: {readout}',
         sum(parameters[name] for name in fusion), True),
    ]


def draw_stage(axes, x, width, title, text, parameters, trained):
    """A box from x on, with its title, what happens in it, how many parameters it has."""
    from matplotlib.patches import FancyBboxPatch
    colour = TRAINED if trained else FROZEN
    kind = 'trained' if trained else 'frozen'
    box = FancyBboxPatch((x, 0.75), width, 2.45, 'round,pad=0.04', facecolor=colour, linewidth=0)
    axes.add_patch(box)
    lines = {2.95: title, 1.95: text, 0.95: f'{parameters:,}\n{kind}'}
    for y, line in lines.items():
        axes.text(x + width / 2, y, line, fontsize=7, ha='center', va='center')


def put(axes, image, x, y, side):
    """A picture uint8 (S, S, 3) around (x, y)."""
    half = side / 2
    axes.imshow(image, extent=(x - half, x + half, y - half, y + half), interpolation='nearest')


def draw_sequence(axes, x, entities, frames):
    """The tokens of all frames as one sequence, from above down; entity 1's are the output."""
    from matplotlib.patches import Rectangle
    step = 2.5 / (len(ROWS) * (entities + 1))
    y = 3.2
    shades = np.linspace(0.35, 1, len(ROWS))  # the position code: the later, the darker its mark
    for shade, t in zip(shades, (1, 2, frames)):
        for k in range(entities):
            colour = COLOURS[k % len(COLOURS)]
            edge = 'black' if k == 0 else 'white'
            axes.add_patch(Rectangle((x - 0.17, y - step), 0.2, step * 0.9, facecolor=colour,
                                     edgecolor=edge))
            axes.add_patch(Rectangle((x + 0.05, y - step), 0.08, step * 0.9, facecolor='black',
                                     alpha=shade))
            y -= step
        y -= step * 0.6
        if t == 2:
            axes.text(x - 0.07, y + step * 0.1, '\u22ee', ha='center', va='center', fontsize=8)
            y -= step * 0.4


def draw_architecture(network, video, settings, path):
    """What becomes of three frames of a video on their way through a trained model.

    Shapes and parameters are counted by running.counting.architecture(settings).
    """
    rows = architecture(settings)
    shape = {row[0]: tuple(row[2]) for row in rows}
    frames, entities, _ = shape['pool']
    size = network.backbone.image_size
    at = np.array([0.1, 0.45, 0.8]) * video.frames
    seen = figures.look_at(network, video, at.astype(int))
    clip = on_screen(seen.images)
    colours = figures.feature_colours(network, seen.images)
    looks = [tinted(seen.images, seen.entities[:, k]) for k in range(entities)]
    points = [('clip', (frames, 3, size, size)),
              ('patch features', shape['backbone']),
              ('where each entity looks,\nand its vector', shape['pool']),
              ('tokens: one sequence,\nid (colour), time (grey)', shape['mtf.fc']),
              ('embeddings', (frames, shape['mtf.out'][-1]))]
    tall = 3.5
    fig = figure(WIDTH, tall)
    axes = fig.add_axes([0, 0, 1, 1])
    left = 0.4
    gap = 0.95
    width = (WIDTH - left - 5 * gap) / 4
    places = [left + gap / 2 + i * (width + gap) for i in range(5)]
    for row, (y, t) in enumerate(zip(ROWS, (1, 2, frames))):
        axes.text(0.05, y, f't = {t}', fontsize=7, va='center')
        put(axes, clip[row], places[0], y, 0.74)
        put(axes, colours[row], places[1], y, 0.74)
        for k, look in enumerate(looks):
            down = y + 0.25 * ((entities - 1) / 2 - k)
            put(axes, look[row], places[2] - 0.13, down, 0.24)
            axes.plot(places[2] + 0.22, down, 'o', ms=6, color=COLOURS[k % len(COLOURS)],
                      markeredgecolor='black' if k == 0 else 'white')
        axes.plot(places[4], y, 's', ms=10, color=COLOURS[0], markeredgecolor='black')
    for x in (*places[:3], places[4]):
        axes.text(x, (ROWS[1] + ROWS[2]) / 2, '\u22ee', ha='center', va='center')
    draw_sequence(axes, places[3], entities, frames)
    for x, (name, numbers) in zip(places, points):
        product = ' \u00d7 '.join(map(str, numbers))
        axes.text(x, 0.35, f'{name}\n{product}', ha='center', va='center', fontsize=7)
    for number, stage in enumerate(stages(rows, settings)):
        x = left + gap + number * (width + gap)
        draw_stage(axes, x + 0.06, width - 0.12, *stage)
    axes.set(xlim=(0, WIDTH), ylim=(0, tall), aspect='auto')
    axes.axis('off')
    fig.savefig(path, dpi=DPI)


# ------------------------------------------------------------------------------------------------
# One batch of SCL

def prediction(z, valid, temperature=0.1):
    """What frame i of view a resembles in view b: p_ij of loss.scl, for the picture (T, T)."""
    similarity = z[0] @ z[1].T / temperature                                 # (T, T)
    return similarity.masked_fill(~valid[1], -torch.inf).softmax(-1)


def project(network, views, valid):
    """Views (B, 2, T, 3, S, S) -> what SCL compares (B, 2, T, D)."""
    return network(views.flatten(0, 1), valid.flatten(0, 1), project=True).unflatten(0, (-1, 2))


def draw_scl(time, length, valid, before, after, path):
    """One video's two views: their times, the target, and the prediction before and after training.

    time int64 (2, T), length int64 (2,), valid bool (2, T); before, after: unit z (2, T, D).
    """
    G = time_target(time[None], valid[None], sigma2=10.)[0, 0]   # (T, T)
    drawn = {'2. target G': G}
    for title, z in {'3. p before': before, '4. p after': after}.items():
        loss = scl(z[None], time[None], length[None], valid[None])
        drawn[f'{title}: loss {loss:.2f}'] = prediction(z, valid)
    fig = figure(WIDTH, 3.4, layout='constrained')
    views, *maps = fig.subplots(1, 4, width_ratios=[1.2, 1, 1, 1])
    for view, (height, name, colour) in enumerate([(1, 'view a', ORANGE), (0, 'view b', BLUE)]):
        frames = time[view][valid[view]]
        views.plot(frames, np.full(len(frames), height), '|', ms=22, color=colour)
        views.text(0, height + 0.3, name, color=colour)
    views.set(xlim=(-1, int(length[0])), ylim=(-0.6, 1.7), yticks=[], xlabel='frame of the video')
    views.set_title('1. the two views', fontsize=10)
    padding = ~(valid[0][:, None] & valid[1])                                # (T, T)
    top = G[~padding].max().item()
    for axes, (title, values) in zip(maps, drawn.items()):
        image = axes.imshow(values.masked_fill(padding, torch.nan), 'cividis', vmin=0, vmax=top)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel('frame of view b')
        axes.xaxis.label.set_color(BLUE)
    maps[0].set_ylabel('frame of view a', color=ORANGE)
    fig.colorbar(image, ax=maps, fraction=0.05, shrink=0.6)
    caption = ('A frame of one view should resemble the frames of the other as they are near to it '
               'in the video. Loss: of both views; of 21 videos, or of all, this one has the '
               'median after training. White: padding.')
    save(fig, path, caption)


# ------------------------------------------------------------------------------------------------
# All of it

@torch.no_grad()
def draw_all(path, folder):
    """architecture.png and scl.png of a checkpoint of train.py, and the films and large pictures
    that lie beside them in a small form. Errors: UserError, OSError."""
    checkpoint = models.load_checkpoint(path)
    settings = checkpoint['settings']
    if settings.get('loss') != 'scl' or settings['pool'] != 'lstp':
        raise UserError(f'{path}: was not trained by SCL with LSTP; give such a checkpoint')
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = models.build_model(settings)
    network.head = OBJECTIVES['scl'].head(settings['embedding'])
    network.eval()
    size = network.backbone.image_size
    videos = data.load(settings['dataset'], settings['data'], seed=settings['data_seed'],
                       image_size=size)
    clips = data.Clips(videos['train'], frames=settings['frames'], seed=settings['seed'])
    some = range(min(21, len(clips)))
    batch = data.collate([clips[0, number] for number in some])
    strength = {name: settings[name] for name in ('crop', 'jitter', 'hue')}
    views = data.views(batch, size, **strength)                              # (B, 2, T, 3, S, S)
    time, length, valid = [batch[name] for name in ('time', 'length', 'valid')]
    before = project(network, views, valid)                                  # (B, 2, T, D)
    models.load_trained(network, checkpoint, path)
    after = project(network, views, valid)
    losses = [scl(after[[i]], time[[i]], length[[i]], valid[[i]]) for i in some]
    i = torch.stack(losses).argsort()[len(some) // 2]
    draw_scl(time[i], length[i], valid[i], before[i], after[i], folder / 'scl.png')
    draw_architecture(network, videos['val'][0], settings, folder / 'architecture.png')
    for film in (folder / 'entities.mp4', folder / 'alignment.mp4'):
        if film.exists():
            animate(film, film.with_suffix('.webp'))
    for picture in folder.glob('*.png'):
        shrink(picture)


def animate(film, path, *, width=850, rate=10, seconds=8):
    """The beginning of a film as an animated WebP."""
    images = []
    with av.open(str(film)) as file:
        every = max(1, round(file.streams.video[0].average_rate / rate))
        for number, frame in enumerate(file.decode(video=0)):
            if number % every == 0 and len(images) < seconds * rate:
                image = frame.to_image()
                images.append(image.resize((width, round(image.height * width / image.width))))
    images[0].save(path, save_all=True, append_images=images[1:], duration=1000 // rate, loop=0,
                   quality=70, method=2)


def shrink(path):
    """A PNG of over a megabyte with a palette of 256 colours in place of 16 million: a third of its
    size. Not a smaller one: a colour that is rare, as of a single dot, may lose its place."""
    image = Image.open(path)
    if path.stat().st_size > 1e6:
        image.convert('RGB').quantize(256, Image.Quantize.MEDIANCUT).save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(
        description='The drawings of the lesson; what evaluate.py --figures put there, small.')
    parser.add_argument('folder', type=Path)
    parser.add_argument('--checkpoint', type=Path, required=True, help='of train.py, by SCL')
    args = parser.parse_args()
    end_well('lesson', draw_all, args.checkpoint, args.folder)


if __name__ == '__main__':
    main()
