"""The backbone, a whole training step, and what stands around it, beside the machine's ceiling."""
import itertools
import warnings
from dataclasses import asdict, replace
from functools import partial

import torch
from torch.utils.data import DataLoader

import data
import model as models
import train
from evaluation.embedding import embed_splits
from loss import OBJECTIVES, scl
from running.processes import mixed_precision, on_device
from speed import released
from speed.films import films
from speed.measure import (
    CUDA, DEVICE, DTYPE, NO_GPU, autocast, beside_ceiling, bytes_needed, ceiling, compare, row,
    seconds, short, size, span, timed)

GPU_MEMORY = 24e9    # of a card that people have


def prepared(dataset, **changes):
    """Settings and model as train.py sets them up; random weights cost what trained ones cost."""
    s = replace(train.preset(dataset), weights='random', **changes).resolve()
    torch.manual_seed(0)
    model = models.build_model(asdict(s))
    model.head = OBJECTIVES[s.loss].head(s.embedding)
    model.to(DEVICE)
    model.backbone.to(DTYPE)
    return s, model.train()


def compile_backbone(model):
    """On CUDA, as train.py does. Each time from nothing: after 8 recompilations of one function
    dynamo runs it as it is, and the last rows would not be compiled."""
    if CUDA:
        torch.compiler.reset()
        model.backbone.compile()


def optimizer_of(model, s):
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.Adam(weights, lr=s.lr, weight_decay=s.weight_decay)


def work_of(s):
    """Multiply-adds of a frame through the frozen and through the trained part."""
    frozen = trained = 0
    for _, _, _, _, is_trained, macs in models.architecture(asdict(s)):
        if is_trained:
            trained += macs
        else:
            frozen += macs
    return frozen / s.frames, trained / s.frames


# --------------------------------------------------------------------------------------------------
# The backbone

def backbones(sizes):
    """Frames a second of each backbone, and its share of the ceiling: the goal is 60 %."""
    ceiling(sizes.product)
    row('backbone', 'frames/s', 'of ceiling', 'memory', 'first call')
    for name, frames in sizes.backbones:
        s, model = prepared('penn', backbone=name, image_size=sizes.image_size)
        images = torch.randn(frames, 3, s.image_size, s.image_size, device=DEVICE)
        work = 2 * frames * work_of(s)[0]
        what = f'  {name}, {frames} frames, {short(DTYPE)}'
        backbone_row(what, model, images, work, sizes)
        if CUDA:
            compile_backbone(model)
            backbone_row(what + ', compiled', model, images, work, sizes)
    if not CUDA:
        row('  the paper\'s and other backbones, in bfloat16', NO_GPU)


@torch.no_grad()
def backbone_row(what, model, images, work, sizes):
    forward = partial(model.features, images)
    first = seconds(forward)
    took, share = beside_ceiling(forward, work, sizes.product, runs=sizes.runs)
    row(what, f'{len(images) / took:.1f}', share, size(bytes_needed(forward)), span(first))


# --------------------------------------------------------------------------------------------------
# A training step

def batch_of(s, sizes):
    """The first batch of a run, decoded beforehand: eight times one film or more, for what a step
    costs does not depend on what is seen."""
    videos = [films(sizes.film, s.image_size)['mp4']] * max(8, s.batch)
    return next(iter(feed(s, videos, 1, 0)))


def feed(s, videos, steps, workers):
    """The first batches of a run, loaded as train.py loads them."""
    clips = data.Clips(videos, frames=s.frames, seed=s.seed, block=s.block, shift=s.shift)
    chosen = itertools.islice(train.batches(len(clips), s, 0, 0, 1), steps)
    return DataLoader(clips, batch_sampler=list(chosen), collate_fn=data.collate,
                      num_workers=workers, pin_memory=CUDA)


def stepper(s, model):
    """The step of train.py's loop with SCL, a function of a batch -> the loss."""
    optimizer = optimizer_of(model, s)
    objective = OBJECTIVES[s.loss]
    options = {name: getattr(s, name) for name in objective.settings}
    device = next(model.mtf.parameters()).device

    def step(batch, lr=s.lr):
        optimizer.param_groups[0]['lr'] = lr
        views = data.views(batch, s.image_size, device)               # (B, 2, T, 3, S, S)
        names = ('time', 'length', 'valid')
        time, length, valid = on_device([batch[name] for name in names], device)
        with mixed_precision(device):
            z = model(views.flatten(0, 1), batch['valid'].flatten(0, 1), project=True)
        loss = objective.loss(z.unflatten(0, (-1, 2)), time, length, valid, **options)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]['params'], 10)
        optimizer.step()
        return loss.detach()
    return step


def released_stepper(s, model, dtype):
    """The same in the form of the authors' release."""
    optimizer = optimizer_of(model, s)
    scaler = torch.amp.GradScaler(DEVICE.type, enabled=dtype == torch.float16)
    return partial(released.training_step, model, s, optimizer, scaler, dtype)


def steps(sizes):
    """A step with its frames decoded beforehand: the goal is 55 % of the ceiling."""
    ceiling(sizes.product)
    waits = ['waits in it'] if CUDA else []
    row('training step', 'frames/s', 'of ceiling', 'memory', 'a step', 'augmentation', *waits)
    for dataset, changes in sizes.steps:
        s, model = prepared(dataset, **changes)
        compile_backbone(model)
        step_row(s, stepper(s, model), batch_of(s, sizes), sizes)
    if not CUDA:
        row('  penn: dino_vitb8, 4 x 2 x 80 frames', NO_GPU)


def step_row(s, step, batch, sizes):
    frozen, trained = work_of(s)
    frames = s.batch * 2 * s.frames
    work = 2 * frames * (frozen + 3 * trained)            # forward, and twice that backward
    times = 5 if CUDA else 1                              # in one go: the next may begin early

    def several():
        for _ in range(times):
            step(batch)

    took, share = beside_ceiling(several, times * work, sizes.product, runs=sizes.runs)
    took = took / times
    augmentation, = timed(partial(data.views, batch, s.image_size, DEVICE), runs=3)
    more = [waits(partial(step, batch))] if CUDA else []
    row(f'  {s.dataset}: {s.backbone}, {s.batch} x 2 x {s.frames}', f'{frames / took:.1f}', share,
        size(bytes_needed(partial(step, batch))), span(took), f'{augmentation / took:.1%}', *more)


def waits(function):
    """How often a call makes the CPU wait for the GPU, as far as PyTorch notices."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
        function()
        torch.cuda.set_sync_debug_mode('default')
    return sum('called a synchronizing' in str(each.message) for each in caught)


def beside_released(sizes):
    """Our step beside the same in the form of the authors' release (released.py)."""
    dtype = torch.float16 if CUDA else torch.float32
    row('step beside the release\'s form', 'its', 'ours', 'faster', 'its memory', 'our memory')
    for dataset, changes in sizes.steps:
        s, model = prepared(dataset, **changes)
        compile_backbone(model)
        theirs = prepared(dataset, **changes)[1]
        theirs.backbone.float()
        batch = batch_of(s, sizes)
        ours = partial(stepper(s, model), batch)
        its = partial(released_stepper(s, theirs, dtype), batch)
        compare(f'{s.dataset}: {s.backbone}, {short(dtype)}', its, ours, size(bytes_needed(its)),
                size(bytes_needed(ours)), runs=sizes.runs)


def batches(sizes):
    """Time and memory of a step against the number of videos in it."""
    dataset, changes = sizes.steps[0]
    row(f'batch, {dataset}', 'frames/s', 'a step', 'memory', 'memory/video')
    for videos in sizes.batches:
        s, model = prepared(dataset, **changes | dict(batch=videos))
        step = partial(stepper(s, model), batch_of(s, sizes))
        took, = timed(step, runs=sizes.runs)
        needed = bytes_needed(step)
        row(f'  {videos} videos', f'{videos * 2 * s.frames / took:.1f}', span(took), size(needed),
            size(needed / videos))


def feeding(sizes):
    """Does a step wait for its frames? Of wall time, with workers that decode from disk."""
    row('fed from disk', 'frames/s', 'needed', 'waiting')
    for dataset, changes in sizes.fed:
        s, model = prepared(dataset, **changes)
        compile_backbone(model)
        step = stepper(s, model)
        for kind, video in films(sizes.film, s.image_size).items():
            videos = [video] * max(8, s.batch)
            for workers in sizes.workers:
                feeding_row(f'  {dataset}: {kind}, {workers} workers', s, step, videos, workers,
                            sizes.fed_steps)


def feeding_row(what, s, step, videos, workers, count):
    frames = s.batch * 2 * s.frames
    loader = iter(feed(s, videos, 1 + count, workers))
    batch = next(loader)                                  # all workers have begun
    step(batch)
    alone = min(seconds(partial(step, batch), wall=True) for _ in range(3))

    def train_on_all():
        for each in loader:
            step(each)

    fed = seconds(train_on_all, wall=True) / count
    row(what, f'{frames / fed:.1f}', f'{frames / alone:.1f}', f'{max(0, 1 - alone / fed):.0%}')


# --------------------------------------------------------------------------------------------------
# What a fast form must not change

def precision(sizes):
    """bfloat16 beside float32, on the same weights and the same batch."""
    row('bfloat16 beside float32', 'float32', 'bfloat16', 'difference')
    for dataset, changes in sizes.steps:
        s, model = prepared(dataset, **changes)
        batch = batch_of(s, sizes)
        clips = data.views(batch, s.image_size, DEVICE)
        images = clips[0, 0]                                          # (T, 3, S, S)
        features = {}
        losses = {}
        for dtype in (torch.float32, torch.bfloat16):
            model.backbone.to(dtype)
            with torch.no_grad():
                features[dtype] = model.features(images).patches.float()
            losses[dtype] = loss_of(model, s, clips, batch, dtype)
        whole, half = features.values()
        error = (half - whole).norm() / whole.norm()
        row(f'  {s.backbone}: norm of the features', f'{whole.norm():.4g}', f'{half.norm():.4g}',
            f'{error:.1e}')
        whole, half = losses.values()
        row(f'  {s.backbone}: SCL', f'{whole:.4f}', f'{half:.4f}', f'{abs(half / whole - 1):.1e}')


@torch.no_grad()
def loss_of(model, s, clips, batch, dtype):
    torch.manual_seed(0)                                              # the same dropout
    valid = batch['valid'].to(DEVICE)
    with autocast(dtype):
        z = model(clips.flatten(0, 1), valid.flatten(0, 1), project=True)
    z = z.unflatten(0, (-1, 2))                                       # (B, 2, T, D)
    return scl(z, batch['time'].to(DEVICE), batch['length'].to(DEVICE), valid).item()


# --------------------------------------------------------------------------------------------------
# Long videos

def long_video(sizes):
    """A long video through the whole model, as evaluation does it: what it takes and needs."""
    dataset, changes = sizes.steps[0]
    s, model = prepared(dataset, **changes)
    model.eval()
    scene = torch.randint(0, 256, (64, 3, s.image_size, s.image_size), dtype=torch.uint8)

    def decode(indices):
        for i in indices:
            yield scene[i % 64]

    video = data.Video('long', partial(int, sizes.long), decode)
    took = []
    embed = partial(embed_splits, {'': model}, {'val': [video]}, limit=1000, device=DEVICE)
    needed = bytes_needed(lambda: took.append(seconds(embed)))
    row('long video', 'time', 'frames/s', 'memory', 'of 24 GB')
    row(f'  {s.backbone}, {sizes.long} frames', span(took[0]), f'{sizes.long / took[0]:.1f}',
        size(needed), f'{needed / GPU_MEMORY:.1%}')
