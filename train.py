"""Train MV-Former (paper, section 4): two views of each video, one objective, Adam, a cosine.

    python train.py                                                  the synthetic set, on a laptop
    torchrun --nproc_per_node 4 train.py --dataset penn --data DIR   the paper's settings, four GPUs

The batch size is the global one, whatever the number of processes. The same command again goes on
where the run stopped: every random number comes from (seed, epoch or step, video or process), so a
resumed run ends with the same weights as one that was never stopped. What the paper leaves out (T,
widths, epochs, learning rate, weight decay, clipping) is from the authors' configuration files.
"""
import argparse
import itertools
import math
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch.nn.parallel import DistributedDataParallel

import data
import evaluate
import model as models
from backbones.weights import load_strictly
from loss import OBJECTIVES
from running.counting import say_if_slow
from running.errors import UserError
from running.processes import (all_gather, half_dtype, join_processes, leave_processes,
                               mixed_precision,
                               print_rank0,
                               wait_for_all)
from running.record import Log, Progress, open_folder, report_skipped, save_checkpoint
from running.settings import add_arguments, check_limits, refuse_changes, setting
from running.workers import ignore_stop_signals, listen_to_signals, watched


# ----------------------------------------------------------------------------------------------
# Settings: the paper's for Penn Action, and where another data set differs

PRESETS = {
    # wide entities, lr 1e-3: LSTP has few steps here to sharpen its attention, and under Adam the
    # logits of its queries grow with the learning rate and the root of their width
    'synthetic': dict(backbone='tiny', frames=16, entity_width=1024, fc_width=256, epochs=12,
                      lr=1e-3, jitter=0.4, hue=0., workers=0),
    'penn': dict(),
    'pouring': dict(frames=240, layers=[12], epochs=1000),
    'finegym99': dict(frames=240, layers=[10, 11, 12], entities=6, readout='avg', fc_width=1536,
                      embedding=256, epochs=300, batch=8, block='clip'),
    'k400': dict(epochs=10, batch=8, shift=0.),
    'folder': dict(backbone='dino_vits16', frames=32, epochs=100, lr=5e-4),
}
# at 1e-3 three entities stayed at the clock's level in a scene much like it (RESULTS.md)
PRESETS['garden'] = PRESETS['synthetic'] | dict(backbone='tiny_local', epochs=16, lr=5e-4)
PRESETS['finegym288'] = PRESETS['finegym99']
# what may differ when a run goes on
MAY_CHANGE = ('data', 'weights', 'out', 'workers', 'eval_every', 'save_every', 'compile', 'device')


@dataclass
class Settings(models.Architecture):
    dataset: str = setting('penn', '%(choices)s', choices=list(data.DATASETS), group='data')
    data: str = setting(None, 'the folder it lies in', metavar='DIR')
    data_seed: int = setting(0, 'draws a set made in memory', least=0)
    label_unit: str = setting(None, 'of segments: %(choices)s', choices=['seconds', 'frames'])
    crop: float = setting(0.8, 'smallest share of the area that a crop keeps', least=0.01, most=1)
    jitter: float = setting(0.8, 'strength of the colour jitter', least=0)
    hue: float = setting(0.2, 'strength of its hue shift', least=0, most=0.5)
    block: str = setting('length', 'a view comes from 1 to 1.5 lengths of the video or the clip',
                         choices=['length', 'clip'])
    shift: float = setting(0.8, 'block=clip: reach of the second view, in clips', least=0)
    loss: str = setting('scl', '%(choices)s', choices=list(OBJECTIVES), group='objective')
    negatives: str = setting('single', "scl: frames of the same video, or of a process's batch",
                             choices=['single', 'batch'])
    pairs: str = setting('views', 'compare two views of a video, or two videos of an action',
                         choices=['views', 'videos'])
    epochs: int = setting(500, 'passes over the videos', least=1, group='optimisation')
    batch: int = setting(4, 'videos a step, over all processes', least=1)
    lr: float = setting(1e-4, 'learning rate of Adam, before the cosine', least=0)
    weight_decay: float = setting(1e-5, 'L2 penalty', least=0)
    seed: int = setting(0, 'draws weights, clips and dropout', least=0)
    init: str = setting(None, 'start from the weights of this checkpoint', metavar='CKPT')
    out: str = setting(None, 'its folder; else runs/DATASET', metavar='DIR', group='run')
    device: str = setting(None, '%(choices)s; else the best', choices=['cuda', 'mps', 'cpu'])
    workers: int = setting(min(4, os.cpu_count()), 'decoding processes of each trainer', least=0)
    eval_every: int = setting(0, 'evaluate every so many epochs; 0: at the end', least=0)
    save_every: float = setting(60., 'seconds between checkpoints', metavar='SECONDS', least=0)
    compile: bool = setting(True, 'torch.compile the backbone (CUDA)')

    def resolve(self):
        super().resolve()
        self.out = self.out or f'runs/{self.dataset}'
        return self


def preset(dataset):
    """The settings for a data set, as the paper has them."""
    return Settings(**PRESETS.get(dataset, {}) | dict(dataset=dataset))


def parse(argv=None):
    """The command line -> (parser, Settings, fresh). The data set decides the other defaults."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument('--dataset', choices=list(data.DATASETS), default='synthetic')
    known, _ = first.parse_known_args(argv)
    defaults = preset(known.dataset)
    parser = argparse.ArgumentParser(
        usage='%(prog)s [options]', allow_abbrev=False,
        description=f'Train MV-Former. In brackets: the defaults for --dataset {defaults.dataset}.',
        formatter_class=partial(argparse.HelpFormatter, max_help_position=42, width=120))
    add_arguments(parser, defaults)
    parser.add_argument('--fresh', action='store_true',
                        help='begin anew; the old run is kept under another name')
    arguments = vars(parser.parse_args(argv))
    fresh = arguments.pop('fresh')
    return parser, Settings(**arguments), fresh


def check(settings, world):
    """Refuse settings that cannot train. Errors: UserError."""
    s = settings
    check_limits(s)
    objective = OBJECTIVES[s.loss]
    if objective.interleaved and s.frames % 2:
        raise UserError(f'--frames {s.frames}: {s.loss} takes pairs of them; choose an even number')
    if s.frames < objective.min_frames:
        raise UserError(f'--frames {s.frames}: {s.loss} needs at least {objective.min_frames}')
    if s.batch % world:
        raise UserError(f'--batch {s.batch}: {world} processes do not divide it evenly; '
                        f'choose a multiple of {world}')
    if s.pairs == 'videos' and not objective.allows_video_pairs:
        able = [name for name, other in OBJECTIVES.items() if other.allows_video_pairs]
        raise UserError(f'--pairs videos: {s.loss} compares two views of one video; '
                        f'{" and ".join(able)} can take videos')


# ----------------------------------------------------------------------------------------------
# One training step

def training_step(model, batch, settings, optimizer, device, options, teacher=None):
    """A batch as data.collate makes it -> the loss and the gradient's norm, still on the device.

    model: the MVFormer or its DistributedDataParallel; options: what the objective takes besides;
    teacher: of objectives that have one.
    """
    objective = OBJECTIVES[settings.loss]
    batch = to_device(batch, device)
    clips = rearrange(data.views(batch, settings.image_size, device),
                      'b v t c h w -> (b v) t c h w')                      # two views a video
    valid = rearrange(batch['valid'], 'b v t -> (b v) t')
    with mixed_precision(device):
        z = model(clips, valid, project=objective.loss_on_head_output,
                  normalize=objective.unit_length)
        if teacher:
            options = options | teacher(clips, valid)
    z = rearrange(z, '(b v) t d -> b v t d', v=2)                          # (B, 2, T, D)
    if objective.labels:
        options = options | dict(labels=batch['labels'])
    loss = objective.loss(z, batch['time'], batch['length'], batch['valid'], **options)
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]['params'], 10)
    optimizer.step()
    return loss.detach(), norm.detach()


def to_device(batch, device):
    """The batch's tensors on the device; its lists of frames follow in data.views."""
    return {name: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
            for name, value in batch.items()}


def learning_rate(settings, epoch):
    """Half a cosine over the epochs, without warm-up."""
    return settings.lr / 2 * (1 + math.cos(math.pi * epoch / (settings.epochs + 1)))


def batches(videos, settings, first_step, rank, world):
    """Which (epoch, video) this process trains on, step by step, whatever happened before: each
    epoch is a permutation from (seed, epoch), in global batches, an incomplete last one dropped."""
    steps = videos // settings.batch
    local = settings.batch // world
    for epoch in range(first_step // steps, settings.epochs):
        order = np.random.default_rng([settings.seed, epoch]).permutation(videos)
        for step in range(steps):
            if epoch * steps + step >= first_step:
                start = step * settings.batch + rank * local
                yield [(epoch, int(index)) for index in order[start:start + local]]


# ----------------------------------------------------------------------------------------------
# The run

def train(settings, fresh=False):
    """From the settings to the table. Errors: UserError, OSError."""
    s = settings
    rank, world, device = join_processes(s.device)
    check(s, world)
    videos = data.load(s.dataset, s.data, image_size=s.image_size, seed=s.data_seed,
                       label_unit=s.label_unit)
    if OBJECTIVES[s.loss].labels and not any(video.annotate for video in videos['train']):
        raise UserError(f'--loss {s.loss}: needs phase labels, and no video to train on has any')
    if len(videos['train']) < s.batch:
        raise UserError(f'--batch {s.batch}: only {len(videos["train"])} videos to train on')
    run = Run(s, fresh, videos, rank, world, device)
    if run.finished:
        print_rank0(f'this run is finished; evaluate it by: python evaluate.py {run.path}   '
                    f'(--fresh begins anew)')
        return
    if run.evaluation_is_due() and not run.log.ends_with_metrics:
        run.evaluate()                                    # it was stopped in this evaluation
    run.model.train()
    for batch in run.batches():
        run.take_step(batch)
        epoch_ends = run.step % run.steps_per_epoch == 0
        if epoch_ends or run.step % run.report_every == 0:
            run.progress.report()
            leave = any(all_gather(run.stop_asked))       # all processes leave at the same step
            if leave or time.time() - run.saved_at > s.save_every:
                run.save()
            if leave:
                print_rank0(f'\nstopped at step {run.step}; the same command goes on from there')
                return
        if epoch_ends:
            report_skipped(run.path.with_name('skipped.txt'), run.skipped)
            run.skipped = {}
        if run.evaluation_is_due():
            run.evaluate()
            run.model.train()
    run.evaluate(last=True)


class Run:
    """The model and its optimiser, the step they are at, and the folder that they are kept in."""

    def __init__(self, settings, fresh, videos, rank, world, device):
        s = settings
        self.settings = s
        self.videos = videos
        self.rank, self.world = rank, world
        self.device = device
        self.objective = OBJECTIVES[s.loss]
        self.steps_per_epoch = len(videos['train']) // s.batch
        self.last_step = s.epochs * self.steps_per_epoch
        self.report_every = 10 if device.type == 'cuda' else 1          # a report waits for the GPU
        self.clips = data.Clips(
            videos['train'], frames=s.frames, seed=s.seed, block=s.block, shift=s.shift,
            pairs=s.pairs, interleaved=self.objective.interleaved,
            with_labels=self.objective.labels, scale=(s.crop, 1),
            brightness=s.jitter, contrast=s.jitter, saturation=s.jitter, hue=s.hue)
        self.path = Path(s.out) / 'checkpoint.pt'
        self.skipped = {}                                 # videos that could not be read: why
        self.saved_at = time.time()
        self.stop_asked = False
        resumed = None if fresh else last_checkpoint(s, self.path)
        self.step = resumed['step'] if resumed else 0
        self.build(resumed)                               # before anything on disk is touched
        self.lock = open_folder(self.path.parent, fresh)
        self.announce()
        self.log = Log(self.path.with_name('log.jsonl'), self.step)
        self.finished = self.log.ends_with_metrics and self.step == self.last_step
        self.progress = Progress(self.log, self.path, epochs=s.epochs, steps=self.steps_per_epoch,
                                 frames=s.batch * 2 * s.frames)
        listen_to_signals(self.ask_to_stop)

    def build(self, resumed):
        """The model with the weights to start from, on the device, and its optimiser."""
        s = self.settings
        if resumed:
            s.weights = s.weights or resumed['settings']['weights']
        elif s.init:
            start = models.load_checkpoint(s.init)
            if start['backbone'] is None:                 # a checkpoint that brings its backbone
                s.weights = s.weights or s.init
        torch.manual_seed(s.seed)
        if self.rank > 0:
            all_gather(None)                              # wait: rank 0 fetches the weights first
        self.model = models.build_model(asdict(s))
        if self.rank == 0:
            all_gather(None)
        if self.objective.head:
            self.model.head = self.objective.head(s.embedding, self.clips.classes)
        if resumed:
            models.load_trained(self.model, resumed, self.path)
        elif s.init:
            same = start['settings']['loss'] == s.loss    # else it was another objective's head
            models.load_trained(self.model, start, s.init, head=same)
        self.fingerprint = models.fingerprint(self.model.backbone)
        self.model.to(self.device)
        half = half_dtype(self.device)
        if half and not s.train_backbone:
            self.model.backbone.to(half)
        if self.device.type == 'cuda' and s.compile:
            self.model.backbone.compile()
        parameters = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.Adam(parameters, lr=s.lr, weight_decay=s.weight_decay)
        if resumed:
            try:
                self.optimizer.load_state_dict(resumed['optimizer'])
            except (KeyError, ValueError, TypeError) as error:
                raise UserError(f'{self.path}: lacks what Adam knew ({error}); choose another '
                                f'--out, or --fresh') from None
        self.options = {name: getattr(s, name) for name in self.objective.settings}
        if self.objective.head and not self.objective.loss_on_head_output:
            self.options['classifier'] = self.model.head
        self.teacher = self.objective.teacher(self.model) if self.objective.teacher else None
        if self.teacher and resumed:
            state = self.teacher.state_dict() | resumed['teacher']
            load_strictly(self.teacher, state, self.path)
        self.ddp_model = DistributedDataParallel(self.model) if self.world > 1 else self.model

    def announce(self):
        s = self.settings
        print_rank0(' '.join(f'{name}={value}' for name, value in asdict(s).items()))
        trained = sum(weight.numel() for weight in self.optimizer.param_groups[0]['params'])
        precision = next(self.model.backbone.parameters()).dtype
        videos = {split: len(self.videos[split]) for split in self.videos}
        line = (f'{videos["train"]} videos to train on, {videos["val"]} to validate; '
                f'{self.steps_per_epoch} steps an epoch; {trained:,} weights are trained; '
                f'{self.world} x {self.device.type}, backbone in {precision}')
        if self.device.type == 'cuda' and s.compile:
            line += '; compiling it, the first step takes a minute or more'
        if self.step:
            line += f'; going on from step {self.step}'
        print_rank0(line, flush=True)
        if self.device.type == 'cpu':
            frames = (self.last_step - self.step) * s.batch * 2 * s.frames // self.world
            say_if_slow(self.model, frames, s.image_size, s.backbone)

    def batches(self):
        """The data loader's batches from the present step on. Errors: UserError."""
        s = self.settings
        sampler = batches(len(self.clips), s, self.step, self.rank, self.world)
        loader = torch.utils.data.DataLoader(
            self.clips, batch_sampler=sampler, collate_fn=data.collate, num_workers=s.workers,
            pin_memory=self.device.type == 'cuda', worker_init_fn=ignore_stop_signals)
        return watched(loader, self.save)

    def take_step(self, batch):
        s = self.settings
        lr = learning_rate(s, self.step // self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group['lr'] = lr
        # what dropout and the objective draw depends on the step alone, so that a run can resume
        seed = np.random.SeedSequence([s.seed, self.step, self.rank]).generate_state(1)[0]
        torch.manual_seed(int(seed))
        loss, norm = training_step(self.ddp_model, batch, s, self.optimizer, self.device,
                                   self.options, self.teacher)
        if self.teacher:
            self.teacher.follow(self.model, self.step / self.last_step)
        self.step += 1
        names = list(itertools.chain(*batch['names']))
        self.progress.add(self.step, lr, names, loss, norm)
        self.skipped |= batch['skipped']

    def save(self):
        self.saved_at = time.time()
        checkpoint = dict(
            settings=asdict(self.settings), model=self.model.trained_state(),
            optimizer=self.optimizer.state_dict(), backbone=self.fingerprint,
            step=self.step, epoch=self.step // self.steps_per_epoch,
            classes=self.videos['train'][0].classes)      # names of the labels, where they have any
        if self.teacher:
            checkpoint['teacher'] = self.teacher.trained_state()
        if self.rank == 0:
            save_checkpoint(self.path, checkpoint)

    def evaluation_is_due(self):
        every = self.settings.eval_every * self.steps_per_epoch
        return every > 0 and self.step % every == 0 and 0 < self.step < self.last_step

    def evaluate(self, last=False):
        """Save, evaluate, log the metrics; the controls and the picture only at the end."""
        self.save()
        listen_to_signals(signal.default_int_handler)     # Ctrl-C exits; a resumed run repeats it
        if any(all_gather(self.stop_asked)):
            raise KeyboardInterrupt
        picture = self.path.with_name('entities.png') if last else None
        log = partial(self.log.write, step=self.step, epoch=self.step // self.steps_per_epoch)
        evaluate.evaluate(self.model, self.videos, vars(self.settings), controls=last,
                          picture=picture, log=log)
        listen_to_signals(self.ask_to_stop)
        self.progress.since = time.time()

    def ask_to_stop(self, *_):
        """SIGTERM, Ctrl-C: finish the step, save, leave."""
        self.stop_asked = True


def last_checkpoint(settings, path):
    """What the run goes on from, or None. Errors: UserError."""
    if not path.exists():
        return None
    try:
        resumed = models.load_checkpoint(path)
    except UserError as error:
        raise UserError(f'{error}; choose another --out, or --fresh to begin anew') from None
    refuse_changes(settings, resumed['settings'], MAY_CHANGE, path)
    return resumed


def main():
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors='backslashreplace')     # a video's name may not fit the screen
    parser, settings, fresh = parse()
    try:
        train(settings.resolve(), fresh)
        wait_for_all()
    except (UserError, OSError) as error:
        error.__traceback__ = None                        # it holds the loader and its workers
        lines = str(error).splitlines() or [repr(error)]
        print(f'\n{parser.prog}: error: {lines[-1]}', file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print('\nstopped; the same command goes on from the last checkpoint', file=sys.stderr)
        sys.exit(130)
    finally:
        leave_processes()


if __name__ == '__main__':
    main()
