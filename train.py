"""Train MV-Former (paper, section 4): two views of each video, one objective, Adam, a cosine.

    python train.py                                                  the synthetic set, on a laptop
    torchrun --nproc_per_node 4 train.py --dataset penn --data DIR   the paper's settings, four GPUs

The batch size is the global one (release: a video a GPU), whatever the number of processes. The
same command again goes on where the run stopped: every random number of a step comes from (seed,
epoch or step, video or process), so that a resumed run ends with the weights of one never stopped.
What the paper leaves out (T, widths, Adam, learning rate, cosine, weight decay, clipping) is from
the authors' configuration files. What surrounds the loop is in running/run.py.
"""
import math
import os
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import data
import evaluate
import model as models
from backbones.weights import fingerprint
from loss import OBJECTIVES
from running.command import at_once, end_well, leave_if_asked, on_stop, start_worker, watched
from running.features import see
from running.processes import join_processes, mixed_precision, on_device, print_rank0
from running.record import Log, open_folder, report_skipped, save_checkpoint
from running.run import (announce, check, last_checkpoint, make_clips, make_model, parse_flags,
                         prepare, resemblance, resume)
from running.settings import check_limits, setting


# ----------------------------------------------------------------------------------------------
# Settings: the paper's for Penn Action, and where another data set differs

PRESETS = {    # the paper's, and the release's frames, fc_width, embedding, block; three are ours
    # wide entities and a high lr: LSTP has few steps here in which to sharpen its attention
    'synthetic': dict(backbone='tiny', frames=16, entity_width=1024, fc_width=256, epochs=10,
                      lr=1e-3, jitter=0.4, hue=0., workers=0),
    'penn': dict(),
    'pouring': dict(frames=240, layers=[12], epochs=1000),
    'finegym99': dict(frames=240, layers=[10, 11, 12], entities=6, readout='avg', fc_width=1536,
                      embedding=256, epochs=300, batch=8, block='clip'),
    'k400': dict(epochs=10, batch=8),
    'folder': dict(backbone='dinov2_vits14', image_size=112, frames=16,
                   longest=256, versions=4, epochs=100, lr=1e-3),
}
# at lr 1e-3 LSTP of three entities stayed at the clock's level in a similar scene (RESULTS.md)
PRESETS['garden'] = PRESETS['synthetic'] | dict(backbone='tiny_local', epochs=16, lr=5e-4)
PRESETS['finegym288'] = PRESETS['finegym99']


@dataclass
class Settings(models.Architecture):
    dataset: str = setting('synthetic', '%(choices)s', choices=data.DATASETS, group='data')
    data: str = setting(None, 'the folder it lies in', metavar='DIR')
    data_seed: int = setting(0, 'draws a set made in memory')
    label_unit: str = setting(None, 'of segments: %(choices)s', choices=['seconds', 'frames'])
    crop: float = setting(0.8, 'smallest share of a frame kept', least=0.01, most=1)
    jitter: float = setting(0.8, 'strength of the colour jitter')
    hue: float = setting(0.2, 'and of its hue shift', most=0.5)
    block: str = setting('length', "a view's stretch: 1 to 1.5 times the video or the clip",
                         choices=['length', 'clip'])
    longest: int = setting(0, 'of more frames than this every k-th counts; 0: all')
    versions: int = setting(0, 'augmented ones of each video, made once; 0: anew each step')
    features: str = setting(None, 'where the versions lie; else in the run', metavar='DIR')
    shift: float = setting(0.8, 'block=clip: reach of the second view, in clips')
    loss: str = setting('scl', '%(choices)s', choices=OBJECTIVES, group='objective')
    negatives: str = setting('single', "scl: frames of the other view, or of a process's batch",
                             choices=['single', 'batch'])
    sigma2: float = setting(10., 'scl: width of its target, in frames^2', least=1e-3)
    temperature: float = setting(0.1, 'scl: of its softmax', least=1e-3)
    pairs: str = setting('views', 'two views of a video, or two videos of an action',
                         choices=['views', 'videos'])
    epochs: int = setting(500, 'passes over the videos', least=1, group='optimisation')
    batch: int = setting(4, 'videos a step, over all processes', least=1)
    lr: float = setting(1e-4, 'learning rate, before the cosine')
    weight_decay: float = setting(1e-5, 'L2 penalty')
    seed: int = setting(0, 'draws weights, clips and dropout')
    init: str = setting(None, 'a checkpoint to start from', metavar='FILE')
    out: str = setting(None, 'its folder; else runs/DATASET', metavar='DIR', group='run')
    device: str = setting(None, '%(choices)s; else the best', choices=['cuda', 'mps', 'cpu'])
    workers: int = setting(min(4, os.cpu_count()), 'processes that decode videos')
    eval_every: int = setting(0, 'evaluate every so many epochs; 0: at the end')
    save_every: float = setting(60., 'seconds between checkpoints')
    compile: bool = setting(True, 'torch.compile the backbone (CUDA)')

    def resolve(self):
        super().resolve()
        self.out = self.out or f'runs/{self.dataset}'
        return self


def preset(dataset):
    """The settings for a data set: the paper's, or ours where the paper has no such set."""
    return Settings(**PRESETS.get(dataset, {}) | dict(dataset=dataset))


# ----------------------------------------------------------------------------------------------
# The run

def train(settings, fresh=False):
    """From the settings to the table. Errors: UserError, OSError."""
    s = settings.resolve()
    rank, world, device = join_processes(s.device)
    check_limits(s)
    videos = data.load(s.dataset, s.data, image_size=s.image_size, seed=s.data_seed,
                       label_unit=s.label_unit)
    check(s, world, videos)
    path = Path(s.out) / 'checkpoint.pt'
    resumed = None if fresh else last_checkpoint(s, path)    # a checkpoint, or None
    objective = OBJECTIVES[s.loss]
    clips = make_clips(s, objective, videos['train'])
    model = make_model(s, objective, clips.classes, resumed)
    # what all checkpoints of the run share; here, before `prepare` takes the backbone to 16 bits
    identity = fingerprint(model.backbone, s.train_backbone)
    names = [video.name for video in videos['train']]
    about = dict(settings=asdict(s), backbone=identity, videos=names)
    prepare(model, s, device)    # there a frozen backbone is in 16 bits, where that is faster
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=s.lr, weight_decay=s.weight_decay, fused=True)
    teacher = objective.teacher(model) if objective.teacher else None
    step = resume(resumed, videos['train'], optimizer, teacher, path) if resumed else 0
    epoch_steps = len(clips) // s.batch
    last_step = s.epochs * epoch_steps
    net = DistributedDataParallel(model) if world > 1 else model
    options = {name: getattr(s, name) for name in objective.settings}
    if objective.head and not objective.loss_on_head_output:
        # not called by `net`, and yet averaged over the processes: DDP's hooks are on the weights
        options['classifier'] = model.head
    strength = dict(crop=s.crop, jitter=s.jitter, hue=s.hue)

    # From here to `model.train()` is what surrounds the loop; pass over it at a first reading.
    # A signal (Ctrl-C) is obeyed between two steps, by leave_if_asked; inside `at_once`, at once.
    noted = []    # signals
    with open_folder(path.parent, fresh, asdict(s)), on_stop(noted.append):
        if s.versions:
            # the backbone sees all videos now. From here on `views` are features in place of
            # frames, which the backbone only hands on (running/features.py)
            with at_once(noted):
                videos = see(model, videos, s.features or path.with_name('features'), s.versions,
                             strength, longest=s.longest, device=device, rank=rank, world=world)
            clips.videos = videos['train']
        log = Log(path.parent, step, epochs=s.epochs, steps=epoch_steps,
                  frames=s.batch * 2 * s.frames, every=10 if device.type == 'cuda' else 1)
        # log.evaluated: the step of the log's last line, if that is an evaluation
        if step == last_step == log.evaluated:
            print_rank0(f'this run is finished; evaluate it: python evaluate.py {path} '
                        f'(--fresh begins anew)')
            return
        announce(s, model, clips, videos, step, world, device)

        def save():
            log.report()    # in all processes; raises, before the save, where a loss is not finite
            checkpoint = about | dict(model=model.trained_state(), step=step,
                                      optimizer=optimizer.state_dict())
            if teacher:
                checkpoint['teacher'] = teacher.trained_state()
            save_checkpoint(path, checkpoint)

        def evaluate_now(final=False):
            """The table; the controls and the picture only at the end."""
            save()
            with at_once(noted):
                evaluate.evaluate(
                    model, videos, vars(s), controls=final, log=partial(log.write, step),
                    picture=path.with_name('entities.png') if final else None)

        model.train()
        saved = time.time()
        skipped = {}    # videos that could not be read: why
        for batch in watched(loader(s, clips, step, rank, world, device)):
            # where a signal came or a worker died (then the batch is None), all processes leave
            leave_if_asked(noted, batch, step, save)
            # before a step, not after it: a run that was stopped while evaluating evaluates first
            due = s.eval_every and step > 0 and step % (s.eval_every * epoch_steps) == 0
            if due and step != log.evaluated:
                evaluate_now()
            lr = learning_rate(s, step // epoch_steps)
            for group in optimizer.param_groups:
                group['lr'] = lr
            # (B, 2, T, 3, S, S), or features packed like images: see MVFormer.forward
            views = data.views(batch, s.image_size, device, **strength)
            time_, length, valid, labels = on_device(
                [batch[name] for name in ('time', 'length', 'valid', 'labels')], device)
            clips_valid = batch['valid'].flatten(0, 1)    # (B * 2, T), on the CPU: see MVFormer
            seed_step(s.seed, step, rank)

            with mixed_precision(device):
                z = net(views.flatten(0, 1), clips_valid, unit_length=objective.unit_length,
                        project=objective.loss_on_head_output)             # (B * 2, T, D)
                if teacher:
                    options |= teacher(views.flatten(0, 1), clips_valid)
            z = z.unflatten(0, (-1, 2))                                    # (B, 2, T, D)
            if objective.labels:
                options['labels'] = labels
            loss = objective.loss(z, time_, length, valid, **options)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, 10)
            optimizer.step()

            step += 1
            if teacher:
                teacher.follow(model, step / last_step)
            # resemblance: mean cosine of two frames of a view, as the loss sees them; 1: all alike
            log.add(step, lr, batch['names'], loss, norm, resemblance(z, valid))
            skipped |= batch['skipped']
            if step % epoch_steps == 0:
                report_skipped(path.with_name('skipped.txt'), skipped)
                skipped = {}
            # to report, all processes meet, and their clocks differ: so only with nothing pending
            if time.time() - saved > s.save_every and not log.pending:
                save()
                saved = time.time()
        evaluate_now(final=True)


def learning_rate(settings, epoch):
    """CARL: half a cosine over epochs + 1, no warm-up."""
    return settings.lr / 2 * (1 + math.cos(math.pi * epoch / (settings.epochs + 1)))


def seed_step(seed, step, rank):
    """What dropout and the objective draw depends on seed, step and process, not on what ran
    before, so that a run can resume."""
    drawn = np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]
    torch.manual_seed(int(drawn))


def loader(s, clips, step, rank, world, device):
    return DataLoader(
        clips, batch_sampler=batches(len(clips), s, step, rank, world),
        collate_fn=data.collate, pin_memory=device.type == 'cuda',
        num_workers=s.workers, worker_init_fn=start_worker)


def batches(count, settings, first_step, rank, world):
    """For each step from first_step on, this process's [(epoch, video)]: an epoch is a permutation
    of so many videos drawn from (seed, epoch), in global batches, an incomplete last one dropped.
    """
    steps = count // settings.batch
    local = settings.batch // world
    for epoch in range(first_step // steps, settings.epochs):
        order = np.random.default_rng([settings.seed, epoch]).permutation(count)
        for step in range(steps):
            if epoch * steps + step >= first_step:
                start = step * settings.batch + rank * local
                yield [(epoch, int(index)) for index in order[start:start + local]]


def main():
    settings, fresh = parse_flags(preset)
    end_well('train.py', train, settings, fresh)


if __name__ == '__main__':
    main()
