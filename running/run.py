"""What surrounds train.py's loop: its flags, what is refused before the first step, what a run is
made of and where it goes on, what it says of itself, and how it is left."""
import argparse
import math
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

import data
import model as models
from backbones.build import to_half
from backbones.weights import load_checkpoint, load_strictly, load_trained
from datasets.pairs import VideoPairs, interleaved_views
from loss import OBJECTIVES, time_target
from running.errors import UserError
from running.processes import half_dtype, print_rank0, rank0_first, share_batchnorm
from running.settings import add_arguments

# what may differ when a run goes on
MAY_CHANGE = ('data', 'weights', 'out', 'features', 'workers', 'eval_every', 'save_every',
              'compile', 'device')


def parse_flags(preset, argv=None):
    """The command line -> settings, fresh. The data set decides the other defaults: preset(name) ->
    settings."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument('--dataset', default='synthetic')
    first.add_argument('--backbone')
    known, _ = first.parse_known_args(argv)
    defaults = preset(known.dataset)
    row = models.backbones().get(known.backbone)
    if defaults.image_size and row:    # a data set's own (folder: 112), at most the backbone's
        defaults.image_size = min(defaults.image_size, row.image_size)
    parser = argparse.ArgumentParser(
        usage='%(prog)s [options]', allow_abbrev=False,
        description=f'Train MV-Former. In brackets: the defaults for --dataset {defaults.dataset}.',
        formatter_class=partial(argparse.HelpFormatter, max_help_position=42, width=120))
    add_arguments(parser, defaults)
    parser.add_argument('--fresh', action='store_true',
                        help='begin anew; the old run is kept under another name')
    arguments = vars(parser.parse_args(argv))
    fresh = arguments.pop('fresh')
    return type(defaults)(**arguments), fresh


def check(s, world, videos):
    """Refuse settings that cannot train on these videos. Errors: UserError."""
    objective = OBJECTIVES[s.loss]
    if s.versions and s.train_backbone:
        raise UserError(f'--versions {s.versions}: needs a frozen backbone; give --versions 0')
    if objective.interleaved and s.frames % 2:
        raise UserError(f'--frames {s.frames}: {s.loss} takes pairs of them; choose an even number')
    if s.frames < objective.min_frames:
        raise UserError(f'--frames {s.frames}: {s.loss} needs at least {objective.min_frames}')
    if s.batch % world:
        raise UserError(f'--batch {s.batch}: {world} processes take a multiple of {world}')
    if s.pairs == 'videos' and not objective.allows_video_pairs:
        able = [name for name, other in OBJECTIVES.items() if other.allows_video_pairs]
        raise UserError(f'--pairs videos: {s.loss} takes views; {" and ".join(able)} take videos')
    if objective.labels and not any(video.annotate for video in videos['train']):
        raise UserError(f'--loss {s.loss}: needs phase labels, and no video to train on has any')
    there = len(videos['train'])
    if there < s.batch:
        raise UserError(f'--batch {s.batch}: only {there} videos to train on; give a lower one')


def last_checkpoint(s, path):
    """What the run goes on from, or None; fills in s.weights from it. Errors: UserError."""
    if not path.exists():
        return None
    try:
        resumed = load_checkpoint(path)
        if 'optimizer' not in resumed:
            raise UserError(f'{path}: lacks what Adam knew')
        old = resumed['settings']
        changes = [f'{name} was {old.get(name)}, now {value}' for name, value in vars(s).items()
                   if name not in MAY_CHANGE and value != old.get(name)]
        if changes:
            raise UserError(f'{path}: was trained with other settings ({"; ".join(changes)}); '
                            f'give those again')
    except UserError as error:
        raise UserError(f'{error}; choose another --out, or --fresh to begin anew') from None
    s.weights = s.weights or old['weights']
    return resumed


def make_clips(s, objective, videos):
    kind = VideoPairs if s.pairs == 'videos' else data.Clips
    sample = interleaved_views if objective.interleaved else data.two_views
    return kind(videos, frames=s.frames, seed=s.seed, with_labels=objective.labels, sample=sample,
                block=s.block, shift=s.shift, longest=s.longest)


def make_model(s, objective, classes, resumed):
    """The model with the weights to start from, on the CPU."""
    start = resumed
    source = Path(s.out) / 'checkpoint.pt'
    if s.init and not resumed:
        source = s.init
        start = load_checkpoint(source)
        tuned = start['settings']['train_backbone']
        if start['backbone'] is None:                     # a checkpoint that brings its backbone
            s.weights = s.weights or s.init
        elif not set(tuned) <= set(s.train_backbone):
            raise UserError(f'--init {source}: a checkpoint keeps what was fine-tuned only where '
                            f'it is trained; add --train-backbone {",".join(tuned)}')
    torch.manual_seed(s.seed)
    with rank0_first():                                   # it fetches the weights, the others wait
        model = models.build_model(asdict(s))
    if objective.head:
        model.head = objective.head(s.embedding, classes)
    if start:
        same = start['settings']['loss'] == s.loss        # else it is another objective's head
        load_trained(model, start, source, head=same)
    share_batchnorm(model)                                # of several processes: over all rows
    return model


def resume(resumed, videos, optimizer, teacher, path):
    """Take up what Adam and the teacher knew -> the step to go on from; videos: those to train on.
    Errors: UserError."""
    if resumed['videos'] != [video.name for video in videos]:
        print_rank0(f'note: the videos to train on are not those that the run began with '
                    f'({len(resumed["videos"])} then); --fresh begins anew')
    optimizer.load_state_dict(resumed['optimizer'])
    if teacher:
        load_strictly(teacher, teacher.state_dict() | resumed['teacher'], path)
    return resumed['step']


def prepare(model, s, device):
    """Bring the model to its device. A frozen backbone computes in 16 bits where that is faster; on
    CUDA it is compiled."""
    model.to(device)
    if not s.train_backbone:
        to_half(model.backbone, s.backbone, half_dtype(device))
    if device.type == 'cuda' and s.compile:
        try:
            model.backbone.compile()
            model.features(torch.zeros(2, 3, s.image_size, s.image_size, device=device))
        except Exception as error:  # no C compiler, no Triton, an old GPU: each has its own
            model.backbone._compiled_call_impl = None
            why = str(error).strip().splitlines()[0]
            print_rank0(f'note: the backbone runs without torch.compile ({why})')


def announce(s, model, clips, videos, step, world, device):
    """What will be done, before the first step."""
    print_rank0(' '.join(f'{name}={value}' for name, value in asdict(s).items()))
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    precision = next(model.backbone.parameters()).dtype
    going_on = f'; going on from step {step}' if step else ''
    print_rank0(f'{len(videos["train"])} videos to train on, {len(videos["val"])} to validate; '
                f'{len(clips) // s.batch} steps an epoch; {trained:,} weights are trained; '
                f'{world} x {device.type}, backbone in {precision}{going_on}', flush=True)
    if 'sigma2' in OBJECTIVES[s.loss].settings:
        say_if_far_apart(s, clips)


def say_if_far_apart(s, clips):
    share = without_target(clips, s.sigma2)
    longest = int(5 * math.sqrt(s.sigma2) * s.frames)     # so long, about 1 % have no target
    if share > 0.05:
        print_rank0(f'note: sigma2 {s.sigma2:g}: {share:.0%} of the frames drawn have no frame of '
                    f'the other view within reach, and learn nothing; raise --sigma2 or --frames, '
                    f'or give --longest {longest}')


def without_target(clips, sigma2, most=100):
    """SCL: of the frames that epoch 0 draws, from at most so many videos, the share that has no
    target, and so teaches nothing."""
    shares = []
    for index, video in enumerate(clips.videos[:most]):
        with suppress(UserError):                         # a broken video will be skipped
            time, length, _ = clips.times(clips.rng(0, index), video)
            time = torch.from_numpy(time)[None]                            # (1, 2, T)
            has_none = time_target(time, time < length, sigma2).sum(-1) == 0
            shares.append(float(has_none[time < length].float().mean()))
    return sum(shares) / max(1, len(shares))


@torch.no_grad()
def resemblance(z, valid):
    """Mean cosine between two frames of a view: near 1, all embeddings are one and the same.
    z (B, 2, T, D), valid bool (B, 2, T) -> scalar."""
    z = F.normalize(z.detach().float(), dim=-1)
    z = z.masked_fill(~valid[..., None], 0)
    n = valid.sum(-1)                                                      # (B, 2)
    pairs = z.sum(-2).square().sum(-1)                   # sum of all cosines, n of them with itself
    return ((pairs - n) / (n * (n - 1)).clamp(min=1)).mean()
