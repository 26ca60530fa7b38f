"""The two drawings of the lesson, from the code itself: the architecture (paper, Figure 2), and one
batch of the sequence contrastive loss (section 4).

    python experiments/lesson.py FOLDER                      architecture.png: the paper's, for Penn
    python experiments/lesson.py FOLDER --checkpoint FILE    and scl.png: before and after training
"""
import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import model as models
from loss import OBJECTIVES, time_target
from pictures.canvas import BLUE, COLOURS, DPI, ORANGE, WIDTH, figure, plain, save
from running.errors import UserError

FROZEN = '#D9E6F2'
TRAINED = '#FBE3B5'
ROWS = (2.35, 1.85, 1.0)  # inches: where the first, the second and the last frame are drawn


# ------------------------------------------------------------------------------------------------
# The architecture

class Stage(NamedTuple):
    """A box of the drawing."""
    title: str
    lines: list
    parameters: int
    trained: bool


def stages(rows, settings):
    """The boxes, from rows of model.architecture -> [Stage]."""
    parameters = {row[0]: row[3] for row in rows}
    trained = {row[0]: row[4] for row in rows}
    fusion = [name for name in parameters if name.startswith(('mtf.blocks', 'mtf.out'))]
    layers = ', '.join(map(str, settings['layers'] or ['last']))
    pooling = ['tokens of', 'each frame']
    if settings['pool'] == 'lstp':
        pooling = ['a learned query', 'for each entity']
    readout = {'cls': 'readout: entity 0', 'avg': 'readout: their mean'}
    blocks = [f'{len(fusion) - 1} blocks in which', 'all frames meet']
    blocks.append(readout[settings['readout']])
    ids = ['one-hot id'] if models.POOLERS[settings['pool']].append_ids else []
    fusion_parameters = sum(parameters[name] for name in fusion)
    return [
        Stage('Backbone', [settings['backbone'], f'layers {layers}'],
              parameters['backbone'], trained['backbone']),
        Stage(settings['pool'].upper(), pooling, parameters['pool'], trained['pool']),
        Stage('MTF: FC', [*ids, '3 layers', '+ time code'], parameters['mtf.fc'], True),
        Stage('MTF: fusion', blocks, fusion_parameters, True),
    ]


def millions(count):
    """3 significant digits: 85.8 M, 5.12 M, 33 k."""
    if count < 1e6:
        return f'{count / 1e3:.0f} k'
    return f'{count / 1e6:.3g} M'


def product(shape):
    return ' \u00d7 '.join(map(str, shape))


def draw_stage(axes, x, width, stage):
    """A box from x on, with its title, what happens in it, how many parameters it has."""
    from matplotlib.patches import FancyBboxPatch
    colour = TRAINED if stage.trained else FROZEN
    kind = 'trained' if stage.trained else 'frozen'
    box = FancyBboxPatch((x, 0.7), width, 1.9, 'round,pad=0.04', facecolor=colour, linewidth=0)
    axes.add_patch(box)
    middle = x + width / 2
    centred = dict(ha='center', va='center')
    axes.text(middle, 2.3, stage.title, weight='bold', fontsize=10, **centred)
    axes.text(middle, 1.65, '\n'.join(stage.lines), fontsize=8, **centred)
    axes.text(middle, 0.95, f'{millions(stage.parameters)} {kind}', fontsize=8, **centred)


def draw_tokens(axes, x, y, kind, entities):
    """What one frame is at a point of the network, around (x, y)."""
    colours = [COLOURS[k % len(COLOURS)] for k in range(entities)]
    if kind == 'frame':
        axes.plot(x, y, 's', ms=22, color='#BBBBBB', markeredgecolor='black')
    elif kind == 'patches':
        across, down = np.meshgrid(np.linspace(-0.14, 0.14, 5), np.linspace(-0.14, 0.14, 5))
        axes.plot(x + across.ravel(), y + down.ravel(), 's', ms=3.2, color='#888888')
    elif kind == 'entities':
        places = x + 0.15 * (np.arange(entities) - (entities - 1) / 2)
        axes.scatter(places, np.full(entities, y), 40, colours, edgecolors='black', linewidths=0.6)
    else:
        axes.plot(x, y, 's', ms=9, color=BLUE, markeredgecolor='black')


def draw_architecture(rows, settings, path):
    """rows: of model.architecture(settings), which counted the shapes and parameters drawn here."""
    shape = {row[0]: tuple(row[2]) for row in rows}
    frames, entities, _ = shape['pool']
    size = settings['image_size'] or models.backbones()[settings['backbone']].image_size
    points = [('frame', 'clip', (frames, 3, size, size)),
              ('patches', 'patch features', shape['backbone']),
              ('entities', 'entities', shape['pool']),
              ('entities', 'tokens', (frames, entities, shape['mtf.fc'][-1])),
              ('embedding', 'embeddings', (frames, shape['mtf.out'][-1]))]
    fig = figure(WIDTH, 2.8)
    axes = fig.add_axes([0, 0, 1, 1])
    axes.set(xlim=(0, WIDTH), ylim=(0, 2.8))
    axes.axis('off')
    left = 0.4
    gap = 0.8
    width = (WIDTH - left - 5 * gap) / 4
    for number, (kind, name, numbers) in enumerate(points):
        x = left + gap / 2 + number * (width + gap)
        for y in ROWS:
            draw_tokens(axes, x, y, kind, entities)
        axes.text(x, 1.42, '\u22ee', ha='center', va='center')
        axes.text(x, 0.35, f'{name}\n{product(numbers)}', ha='center', va='center', fontsize=8)
    for y, t in zip(ROWS, (1, 2, frames)):
        axes.text(0.08, y, f't = {t}', fontsize=7, va='center')
    for number, stage in enumerate(stages(rows, settings)):
        x = left + gap + number * (width + gap)
        draw_stage(axes, x + 0.06, width - 0.12, stage)
    fig.savefig(path, dpi=DPI)


# ------------------------------------------------------------------------------------------------
# One batch of SCL

def target(time, length, valid):
    """What a frame of view a should resemble in view b: G (T, T) of loss.scl."""
    return time_target(time[None], valid[None], sigma2=10.0)[0, 0]


def prediction(z, valid, temperature=0.1):
    """What it resembles: p_ij = exp(z_i.z_j / temperature), each row divided by its sum, (T, T)."""
    similarity = z[0] @ z[1].T / temperature                                 # (T, T)
    return similarity.masked_fill(~valid[1], -torch.inf).softmax(-1)


def divergence(G, p, valid):
    """G (log G - log(p + 1e-6)), summed over view b's frames, mean over view a's -> float."""
    rows = torch.xlogy(G, G) - G * torch.log(p + 1e-6)
    return rows.sum(1)[valid[0]].mean().item()


def draw_times(axes, frames, height, name, colour):
    """The frames of a view as strokes along the video."""
    axes.plot(frames, np.full(len(frames), height), '|', ms=22, color=colour)
    axes.text(0, height + 0.3, name, color=colour)


def draw_scl(time, valid, length, before, after, path):
    """One video's two views: their times, the target, and the prediction before and after training.

    time int64 (2, T), valid bool (2, T), length int64 (2,); before, after: unit z (2, T, D).
    """
    G = target(time, length, valid)
    p_before = prediction(before, valid)
    p_after = prediction(after, valid)
    loss_before = divergence(G, p_before, valid)
    loss_after = divergence(G, p_after, valid)
    fig = figure(WIDTH, 3.4, layout='constrained')
    views, *maps = fig.subplots(1, 4, width_ratios=[1.2, 1, 1, 1])
    draw_times(views, time[0][valid[0]], 1, 'view a', ORANGE)
    draw_times(views, time[1][valid[1]], 0, 'view b', BLUE)
    views.set(xlim=(-1, int(length[0])), ylim=(-0.6, 1.7), yticks=[], xlabel='frame of the video')
    views.set_title('1. the two views', fontsize=10)
    plain(views)
    drawn = {'2. target G': G,
             f'3. p before: loss {loss_before:.2f}': p_before,
             f'4. p after: loss {loss_after:.2f}': p_after}
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
               'in the video: training moves p towards G. Loss: of view a. White: padding.')
    save(fig, path, caption)


# ------------------------------------------------------------------------------------------------
# The command

def one_batch(settings, size):
    """The first training video's views, as training draws them -> (1, 2, T, 3, S, S), batch."""
    videos = data.load(settings['dataset'], settings['data'], image_size=size,
                       seed=settings['data_seed'])
    clips = data.Clips(videos['train'], frames=settings['frames'], seed=settings['seed'])
    batch = data.collate([clips[0, 0]])
    return data.views(batch, size), batch


@torch.no_grad()
def projected(network, clips, valid):
    """Both views as the loss gets them -> (2, T, D)."""
    return network(clips[0], valid[0], project=True)


def draw_training_of(path, out):
    """scl.png of a checkpoint of train.py. Errors: UserError."""
    checkpoint = models.load_checkpoint(path)
    settings = checkpoint['settings']
    if settings.get('loss') != 'scl':
        raise UserError(f'{path}: was not trained by SCL; give a checkpoint of --loss scl')
    torch.manual_seed(0)
    network = models.build_model(settings)
    network.head = OBJECTIVES['scl'].head(settings['embedding'], None).eval()
    clips, batch = one_batch(settings, network.backbone.image_size)
    before = projected(network, clips, batch['valid'])
    models.load_trained(network, checkpoint, path)
    after = projected(network, clips, batch['valid'])
    draw_scl(batch['time'][0], batch['valid'][0], batch['length'][0], before, after, out)


def main():
    parser = argparse.ArgumentParser(description='The two drawings of the lesson.')
    parser.add_argument('folder', type=Path)
    parser.add_argument('--checkpoint', type=Path, help='of train.py, trained by SCL')
    args = parser.parse_args()
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
        settings = asdict(models.Architecture().resolve())
        draw_architecture(models.architecture(settings), settings, args.folder / 'architecture.png')
        if args.checkpoint:
            draw_training_of(args.checkpoint, args.folder / 'scl.png')
    except (UserError, OSError) as error:
        print(f'lesson: error: {error}', file=sys.stderr)
        sys.exit(2)


if __name__ == '__main__':
    main()
