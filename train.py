"""Train MV-Former (paper, section 4): two views of each video, one objective, Adam, a cosine, a checkpoint.

    python train.py                                                    the synthetic set, minutes on a laptop
    torchrun --nproc_per_node 4 train.py --dataset penn --data DIR     the paper's settings on four GPUs

The batch size is the global one, whatever the number of processes. The same command again goes on where the run
stopped: every random number comes from (seed, step, video), so a resumed run ends with the same weights.
"""
import argparse
import itertools
import json
import math
import os
import signal
import sys
import time
from collections import deque
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from einops import rearrange
from torch.nn.parallel import DistributedDataParallel

import data
import evaluate
import model as models
from loss import OBJECTIVES

# ---------------------------------------------------------------------------------------------------------------------
# Settings: the defaults are the paper's for Penn Action; PRESETS say where another data set differs

class SettingsError(ValueError):
    """Settings that cannot train; the message is one line for the user."""


PRESETS = {
    # a wide entity: under Adam a query's logits grow with the square root of its width, and the steps of minutes are few
    'synthetic': dict(backbone='tiny', frames=16, entity_width=1024, fc_width=256, epochs=16, lr=1e-3, workers=0,
                      jitter=0.4, hue=0.),
    'penn': dict(),
    'pouring': dict(frames=240, layers=[12], epochs=1000),
    'finegym99': dict(frames=240, layers=[10, 11, 12], entities=6, readout='avg', fc_width=1536, embedding=256,
                      epochs=300, batch=8, block='clip'),
    'k400': dict(epochs=10, batch=8, shift=0.),
    'folder': dict(backbone='tiny', frames=32, epochs=100, lr=5e-4),
}
PRESETS['finegym288'] = PRESETS['finegym99']


def comma_separated(text):
    return [int(part) if part.isdigit() else part for part in text.split(',') if part]


def flag(default, help, group=None, **how):
    """A setting and its command-line flag in one; `group` begins a new group in --help."""
    return field(default=default, metadata=dict(help=help, group=group, how=how))


@dataclass
class Settings:
    dataset: str = flag('penn', 'what to train on: %(choices)s', 'data', choices=list(PRESETS))
    data: str = flag(None, 'the folder it lies in', metavar='DIR')
    data_seed: int = flag(0, 'draws the synthetic set')
    frames: int = flag(80, 'T, frames of a training clip')
    crop: float = flag(0.8, 'smallest share of the area that a crop keeps')
    jitter: float = flag(0.8, 'strength of the colour jitter')
    hue: float = flag(0.2, 'strength of its hue shift')
    block: str = flag('length', 'a view is drawn from 1 to 1.5 lengths of the video, or of the clip', choices=['length', 'clip'])
    shift: float = flag(0.8, 'how far apart the two blocks may begin, in clips')
    backbone: str = flag('dino_vitb8', '%(choices)s', 'model', choices=list(models.BACKBONES))
    weights: str = flag(None, "its weights, if not the official ones; 'random': none", metavar='FILE')
    train_backbone: list = flag((), 'parts of it to fine-tune, e.g. layer4; the rest is frozen', metavar='PARTS')
    image_size: int = flag(None, 'pixels a side; else what the backbone was trained on')
    layers: list = flag(None, 'whose patches are used, e.g. 4,8,12', metavar='LAYERS')
    pool: str = flag('lstp', 'how a frame becomes tokens: %(choices)s', choices=['lstp', 'cls', 'avg', 'max', 'fwb'])
    entities: int = flag(3, 'N, tokens a frame of lstp and fwb')
    entity_width: int = flag(384, 'd, their width')
    disjoint: bool = flag(False, 'lstp: each patch keeps its strongest entity')
    depth: int = flag(3, 'transformer blocks of the MTF')
    readout: str = flag('cls', "a frame's embedding: its first token (cls) or their mean (avg)", choices=['cls', 'avg'])
    fc_width: int = flag(512, 'width of the two FC layers')
    embedding: int = flag(128, 'D, width of a frame embedding')
    dropout: float = flag(0.1, 'in the MTF')
    loss: str = flag('scl', '%(choices)s', 'objective', choices=list(OBJECTIVES))
    negatives: str = flag('single', 'scl: frames of the same video (single), or of the batch', choices=['single', 'batch'])
    pairs: str = flag('views', 'compare two views of a video, or two videos of an action', choices=['views', 'videos'])
    epochs: int = flag(500, 'passes over the videos', 'optimisation')
    batch: int = flag(4, 'videos a step, over all processes')
    lr: float = flag(1e-4, 'learning rate of Adam, before the cosine')
    weight_decay: float = flag(1e-5, 'L2 penalty')
    seed: int = flag(0, 'draws weights, clips and dropout')
    init: str = flag(None, 'start from the weights of this checkpoint', metavar='CKPT')
    out: str = flag(None, 'folder of checkpoint and log; else runs/DATASET', 'run', metavar='DIR')
    workers: int = flag(min(4, os.cpu_count()), 'processes that decode videos, for each process that trains')
    eval_every: int = flag(0, 'evaluate every so many epochs; 0: at the end')
    save_every: float = flag(60., 'seconds between checkpoints within an epoch', metavar='SECONDS')
    compile: bool = flag(True, 'torch.compile the backbone (CUDA)')

    def resolve(self):
        """Fill in what follows from the other settings."""
        row = models.BACKBONES[self.backbone]
        depth = row.layers
        if self.layers is None:                           # 4, 8, 12 of 12 for LSTP; the simple poolers use the last
            self.layers = [depth // 3, 2 * depth // 3, depth] if self.pool == 'lstp' and depth > 1 else [depth]
        self.layers, self.train_backbone = list(self.layers), list(self.train_backbone)
        self.image_size = self.image_size or row.image_size
        self.out = self.out or f'runs/{self.dataset}'
        return self


ELSEWHERE = ('data', 'weights', 'out', 'workers', 'save_every', 'compile')    # may change when a run goes on


def preset(dataset):
    """The settings for a data set, as the paper has them."""
    return Settings(**PRESETS[dataset] | dict(dataset=dataset))


def parse(argv=None):
    """The command line -> (parser, Settings, fresh). The data set decides the defaults of all other flags."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument('--dataset', choices=list(PRESETS), default='synthetic')
    defaults = preset(first.parse_known_args(argv)[0].dataset)
    parser = argparse.ArgumentParser(
        usage='%(prog)s [options]', allow_abbrev=False, add_help=False,
        description=f'Train MV-Former. Defaults in brackets are those of --dataset {defaults.dataset}.',
        formatter_class=partial(argparse.HelpFormatter, max_help_position=42, width=120))
    for setting in fields(Settings):
        default, how = getattr(defaults, setting.name), dict(setting.metadata['how'])
        if setting.metadata['group']:
            group = parser.add_argument_group(setting.metadata['group'])
        if setting.type is bool:
            how['action'] = argparse.BooleanOptionalAction
        else:
            how['type'] = comma_separated if setting.type is list else setting.type
            how.setdefault('metavar', {int: 'N', float: 'X'}.get(setting.type, 'NAME'))
        shown = ','.join(map(str, default)) if isinstance(default, (list, tuple)) else default
        group.add_argument('--' + setting.name.replace('_', '-'), default=default, **how,
                           help=setting.metadata['help'] + (f' [{shown}]' if shown not in (None, '') else ''))
    group.add_argument('--fresh', action='store_true', help='begin anew; the old run is kept under another name')
    group.add_argument('-h', '--help', action='help', help='show this and exit')
    arguments = vars(parser.parse_args(argv))
    fresh = arguments.pop('fresh')
    return parser, Settings(**arguments), fresh


def check(settings, world):
    """Refuse settings that cannot train. Errors: SettingsError."""
    s = settings
    if not s.layers or not all(isinstance(layer, int) for layer in s.layers):
        raise SettingsError(f'--layers {",".join(map(str, s.layers))}: give numbers, e.g. 4,8,12')
    for name, least in dict(frames=2, entities=1, entity_width=1, fc_width=1, embedding=1, epochs=1, batch=1, lr=0,
                            weight_decay=0, workers=0, eval_every=0, save_every=0, seed=0, data_seed=0,
                            image_size=1, dropout=0, crop=0.01, jitter=0, hue=0, shift=0).items():
        if getattr(s, name) < least or not math.isfinite(getattr(s, name)):
            raise SettingsError(f'--{name.replace("_", "-")} {getattr(s, name)}: must be at least {least}')
    for name, most in dict(dropout=0.99, crop=1, hue=0.5).items():
        if getattr(s, name) > most:
            raise SettingsError(f'--{name} {getattr(s, name)}: must be at most {most}')
    objective = OBJECTIVES[s.loss]
    if objective.interleaved and s.frames % 2:
        raise SettingsError(f'--frames {s.frames}: {s.loss} takes them in pairs; choose an even number')
    if s.frames < objective.least:
        raise SettingsError(f'--frames {s.frames}: {s.loss} needs more; choose at least {objective.least}')
    if s.batch % world:
        raise SettingsError(f'--batch {s.batch}: {world} processes do not divide it evenly; choose a multiple of {world}')
    if s.pairs == 'videos' and not OBJECTIVES[s.loss].videos:
        able = [name for name, objective in OBJECTIVES.items() if objective.videos]
        raise SettingsError(f'--pairs videos: {s.loss} compares two views of one video; {" and ".join(able)} can take videos')


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def processes():
    """Join the other processes when started by torchrun -> rank, world size, this process's device."""
    rank, world, local = (int(os.environ.get(name, default)) for name, default in
                          (('RANK', 0), ('WORLD_SIZE', 1), ('LOCAL_RANK', 0)))
    cuda = torch.cuda.is_available()
    if cuda and local >= torch.cuda.device_count():
        raise SettingsError(f'process {local} of this machine has no GPU of its own; --nproc_per_node '
                            f'{torch.cuda.device_count()}')
    if world > 1 and 'MASTER_ADDR' not in os.environ:
        raise SettingsError(f'WORLD_SIZE is {world}, but nobody says where the others are; start by torchrun')
    device = torch.device('cuda', local) if cuda else torch.device('cpu')
    if cuda:
        torch.cuda.set_device(device)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group('nccl' if cuda else 'gloo')
    return rank, world, device


def on_signals(handler):
    """What SIGTERM and Ctrl-C do."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def everyone(value):
    """The list of what every process holds."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def batches(videos, settings, first_step, rank, world):
    """Which (epoch, video) this process trains on, step by step: the same whatever happened before.

    Each epoch is a permutation drawn from (seed, epoch), cut into global batches; the last incomplete one is dropped.
    """
    steps, local = videos // settings.batch, settings.batch // world
    for epoch in range(first_step // steps, settings.epochs):
        order = np.random.default_rng([settings.seed, epoch]).permutation(videos)
        for step in range(max(first_step - epoch * steps, 0), steps):
            start = step * settings.batch + rank * local
            yield [(epoch, int(index)) for index in order[start:start + local]]


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints and the log


def save(path, checkpoint):
    """Write beside, flush, rename: at any moment `path` is a whole checkpoint, the last or the one before."""
    beside = path.with_name(path.name + '.new')
    try:
        with open(beside, 'wb') as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:              # torch.save turns a full disk into a RuntimeError
        beside.unlink(missing_ok=True)
        raise OSError(f'{path}: cannot be written ({error}); the checkpoint before it, if any, is intact') from None


def differences(old, new):
    """The settings that differ and must not when a run goes on."""
    return [f'{name} was {old.get(name)}, now {new[name]}' for name in new
            if name not in ELSEWHERE and old.get(name) != new[name]]


class Log:
    """One JSON object a line, beside the checkpoint. Going on, it drops what came after the checkpoint."""

    def __init__(self, path, step, write):
        self.lines = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    self.lines += [line] if json.loads(line)['step'] <= step else []
                except (ValueError, KeyError, TypeError):
                    pass                                  # the line that a kill cut short
        self.file = open(path, 'w') if write else None
        if write:
            self.file.writelines(line + '\n' for line in self.lines)
            self.file.flush()

    def write(self, **values):
        if self.file:
            self.file.write(json.dumps(values) + '\n')
            self.file.flush()


def report_skipped(path, skipped, say):
    """Name the videos that could not be read, on the screen and once in a file."""
    skipped = dict(itertools.chain(*(each.items() for each in everyone(skipped))))
    known = path.read_text().splitlines() if path.exists() else []
    new = [f'{name}: {reason}' for name, reason in sorted(skipped.items()) if f'{name}: {reason}' not in known]
    if new:
        say(f'\n{len(new)} video{"s" if len(new) > 1 else ""} skipped, others taken instead ({path}): ' + '; '.join(new[:5])
            + (' ...' if len(new) > 5 else ''))
        if say is print:
            path.write_text('\n'.join(known + new) + '\n')


# ---------------------------------------------------------------------------------------------------------------------
# Training

PEAK = {'H100': 989e12, 'H200': 989e12, 'A100': 312e12}   # bf16 FLOP/s without sparsity, from the data sheets


def flops_per_frame(settings):
    """Of one training step: everything forward, and backward (twice that) where something is trained."""
    rows = models.architecture(asdict(settings))
    return sum(2 * macs * (3 if trained else 1) for *_, trained, macs in rows) / settings.frames


def learning_rate(settings, epoch):
    return settings.lr / 2 * (1 + math.cos(math.pi * epoch / (settings.epochs + 1)))


class Progress:
    """Losses wait here until `settle` brings them to the log and the screen: the one place that waits for the GPU."""

    def __init__(self, settings, log, steps, world, device, say):
        self.settings, self.log, self.steps, self.world, self.say = settings, log, steps, world, say
        self.peak = next((peak for name, peak in PEAK.items()
                          if device.type == 'cuda' and name in torch.cuda.get_device_name(device)), None)
        self.flops = flops_per_frame(settings) if self.peak else None
        self.pending, self.recent, self.since = [], deque(maxlen=steps), time.time()

    def settle(self, path):
        """Log the pending steps. A loss or gradient that is not finite is a SettingsError that says where."""
        s = self.settings
        values = torch.stack([torch.stack([loss, norm]) for _, _, loss, norm in self.pending])     # (steps, 2)
        if self.world > 1:
            dist.all_reduce(values)                       # the same on all processes, so that they stop together
            values /= self.world
        for (step, names, *_), (loss, norm) in zip(self.pending, values.tolist()):
            if not math.isfinite(loss + norm):
                names = ', '.join(itertools.chain(*everyone(names)))
                raise SettingsError(f'step {step}: loss {loss}, gradient norm {norm}; videos: {names}; last good '
                                    f'checkpoint: {path if path.exists() else "none yet"}; try a lower --lr')
            epoch = (step - 1) // self.steps
            self.recent.append(loss)                      # an epoch's, for the screen: one batch says little
            self.log.write(step=step, epoch=epoch, loss=loss, lr=learning_rate(s, epoch), gradient_norm=norm)
        frames = s.batch * 2 * s.frames
        speed = len(self.pending) * frames / (time.time() - self.since)
        share = f'  {speed / self.world * self.flops / self.peak:.0%} of peak' if self.peak else ''
        left = time.strftime('%H:%M:%S', time.gmtime((s.epochs * self.steps - step) * frames / speed))
        line = (f'epoch {epoch + 1}/{s.epochs}  step {step}  loss {np.mean(self.recent):.4f}  '
                f'lr {learning_rate(s, epoch):.1e}  {speed:.0f} frames/s{share}  {left} left')
        done = step == s.epochs * self.steps
        if sys.stdout.isatty():
            self.say(f'\r{line:100}', end='\n' if done else '', flush=True)
        elif done or step % (self.steps * math.ceil(s.epochs / 20)) == 0:
            self.say(line, flush=True)                    # about twenty lines in a file
        self.pending, self.since = [], time.time()


def last_checkpoint(s, path):
    """What the run goes on from, or None. Errors: SettingsError."""
    try:
        resumed = models.load_checkpoint(path) if path.exists() else None
    except models.ModelError as error:
        raise SettingsError(f'{error}; choose another --out, or --fresh to begin anew') from None
    if resumed and (changed := differences(resumed['settings'], asdict(s))):
        raise SettingsError(f'{path}: was trained with other settings ({"; ".join(changed)}); give those, another --out, '
                            f'or --fresh to begin anew')
    return resumed


def open_folder(out, fresh, rank, say):
    """Make the run's folder; with `fresh` an old one is kept under another name. Errors: SettingsError."""
    try:
        if fresh and rank == 0 and any((out / name).exists() for name in ('checkpoint.pt', 'log.jsonl')):
            aside = next(name for n in itertools.count(1) if not (name := out.with_name(f'{out.name}.{n}')).exists())
            out.rename(aside)
            say(f'the old run is kept in {aside}')
        everyone(None)                                    # nobody writes before it is moved
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f'{out}: cannot be a folder for this run ({error.strerror}); choose another --out') from None


def make_model(s, resumed, path, rank, device):
    """The model of the settings on the device, with the weights to start from, and its backbone's fingerprint."""
    torch.manual_seed(s.seed)
    for turn in (True, False):                            # rank 0 alone fetches weights that are not here yet
        if (rank == 0) == turn:
            model = models.build_model(asdict(s))
        everyone(None)
    fingerprint = models.fingerprint(model.backbone)
    if resumed:
        models.load_weights(model, resumed, path)
    elif s.init:
        models.load_weights(model, models.load_checkpoint(s.init), s.init)
    model.to(device)
    if device.type == 'cuda':
        if not s.train_backbone:
            model.backbone.to(torch.bfloat16)
        if s.compile:
            model.backbone.compile()
    return model, fingerprint


def train(settings, fresh=False):
    """One run, from the settings to the table of metrics. Errors: SettingsError, DataError, ModelError, OSError."""
    s = settings
    check(s, int(os.environ.get('WORLD_SIZE', 1)))
    rank, world, device = processes()
    say = print if rank == 0 else lambda *args, **kwargs: None
    cuda, objective = device.type == 'cuda', OBJECTIVES[s.loss]
    videos = data.load(s.dataset, s.data, image_size=s.image_size, seed=s.data_seed)
    steps = len(videos['train']) // s.batch               # of an epoch
    if not steps:
        raise SettingsError(f'--batch {s.batch}: there are only {len(videos["train"])} videos to train on')

    path = Path(s.out) / 'checkpoint.pt'
    resumed = None if fresh else last_checkpoint(s, path)
    model, fingerprint = make_model(s, resumed, path, rank, device)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=s.lr, weight_decay=s.weight_decay)
    step = 0
    if resumed:
        try:
            optimizer.load_state_dict(resumed['optimizer'])
            step = resumed['step']
        except (KeyError, ValueError, TypeError) as error:
            raise SettingsError(f'{path}: lacks what Adam knew ({error}); choose another --out, or --fresh') from None
    parallel = DistributedDataParallel(model, device_ids=[device.index] if cuda else None) if world > 1 else model

    say(' '.join(f'{name}={value}' for name, value in asdict(s).items()))
    say(f'{len(videos["train"])} videos to train on, {len(videos["val"])} to validate; {steps} steps an epoch; '
        f'{sum(w.numel() for w in weights):,} weights are trained; {world} x {device.type}'
        + (f'; going on from step {step}' if resumed else '')
        + ('; compiling the backbone, the first step takes a minute or more' if cuda and s.compile else ''), flush=True)
    open_folder(path.parent, fresh, rank, say)
    log = Log(path.parent / 'log.jsonl', step, write=rank == 0)
    evaluated = everyone(bool(log.lines) and 'loss' not in json.loads(log.lines[-1]))[0]
    if step == s.epochs * steps and evaluated:
        say(f'this run is finished; evaluate it by: python evaluate.py {path}   (--fresh begins anew)')
        return

    clips = data.Clips(videos['train'], frames=s.frames, seed=s.seed, block=s.block, shift=s.shift, pairs=s.pairs,
                       interleaved=objective.interleaved, scale=(s.crop, 1), brightness=s.jitter, contrast=s.jitter,
                       saturation=s.jitter, hue=s.hue)
    loader = torch.utils.data.DataLoader(clips, batch_sampler=batches(len(clips), s, step, rank, world),
                                         collate_fn=data.collate, num_workers=s.workers, pin_memory=cuda,
                                         worker_init_fn=data.leave_signals)
    options = {name: getattr(s, name) for name in objective.settings}
    if model.head is not None and not objective.project:
        options['classifier'] = model.head

    def checkpoint():
        if rank == 0:
            save(path, dict(settings=asdict(s), model=model.trained_state(), optimizer=optimizer.state_dict(), step=step,
                            epoch=step // steps, backbone=fingerprint))

    def measure(last):
        checkpoint()
        on_signals(signal.default_int_handler)            # an evaluation is simply left, and done again
        if any(everyone(bool(stopping))):
            raise KeyboardInterrupt
        log.write(step=step, epoch=step // steps, **evaluate.evaluate(
            model, videos, s, controls=last, picture=path.with_name('entities.png') if last else None))
        on_signals(lambda *_: stopping.append(True))

    def due():
        return s.eval_every and step % (steps * s.eval_every) == 0 < step < s.epochs * steps

    stopping, skipped, saved = [], {}, time.time()
    on_signals(lambda *_: stopping.append(True))          # SIGTERM, Ctrl-C: finish the step, save, leave
    if due() and not evaluated:                           # it was stopped in this evaluation
        measure(last=False)
    progress = Progress(s, log, steps, world, device, say)
    model.train()
    for batch in loader:
        for group in optimizer.param_groups:
            group['lr'] = learning_rate(s, step // steps)
        torch.manual_seed(int(np.random.SeedSequence([s.seed, step, rank]).generate_state(1)[0]))    # dropout and the loss
        views = data.views(batch, s.image_size, device)                                   # (B, 2, T, 3, S, S)
        when, length, valid = (batch[name].to(device, non_blocking=True) for name in ('time', 'length', 'valid'))
        with torch.autocast('cuda', dtype=torch.bfloat16) if cuda else nullcontext():
            z = parallel(rearrange(views, 'b v t c h w -> (b v) t c h w'), rearrange(valid, 'b v t -> (b v) t'),
                         project=objective.project, normalize=objective.unit)
        loss = objective.loss(rearrange(z, '(b v) t d -> b v t d', v=2), when, length, valid, **options)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, 10)
        optimizer.step()
        step += 1
        progress.pending.append((step, list(itertools.chain(*batch['names'])), loss.detach(), norm.detach()))
        skipped |= batch['skipped']

        if step % steps and step % (10 if cuda else 1):
            continue
        progress.settle(path)
        leave = any(everyone(bool(stopping)))
        if leave or time.time() - saved > s.save_every:
            checkpoint()
            saved = time.time()
        if leave:
            say(f'\nstopped at step {step}; the same command goes on from there')
            return
        if step % steps == 0:
            report_skipped(path.with_name('skipped.txt'), skipped, say)
            skipped = {}
            if due():
                measure(last=False)
                model.train()
                progress.since = time.time()
    measure(last=True)


def main():
    parser, settings, fresh = parse()
    try:
        train(settings.resolve(), fresh)
    except (SettingsError, data.DataError, models.ModelError, OSError) as error:
        error.__traceback__ = None                        # lets go of the loader, whose processes can then end
        lines = str(error).splitlines() or [repr(error)]
        print(f'\n{parser.prog}: error: {lines[-1]}', file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print('\nstopped; the same command goes on from the last checkpoint', file=sys.stderr)
        sys.exit(130)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == '__main__':
    main()
