"""Where the time goes on the machine at hand: the backbone, a training step, and what stands around them.

    python tests/bench.py                    all parts, a few minutes on two CPU cores
    python tests/bench.py --only lstp scl    some of them

A time is the median of repeated runs after a warm-up; runs that are compared take turns. Memory is what a call needs
beside what was there before it. On CUDA the sizes are those of Penn Action (paper, section 4.1), in bf16; a CPU sees
smaller ones in fp32, as the rows say. The plain forms that the code is compared with live here and nowhere else.
"""
import argparse
import ctypes
import math
import os
import platform
import sys
import tempfile
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax
from scipy.stats import kendalltau
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import evaluate
from datasets import images as image_files
from datasets import video as video_files
from evaluation.embedding import embed_all
import model as models
import train
from loss import OBJECTIVES, scl
from lstp import LSTP
from mtf import MTF

CUDA = torch.cuda.is_available()
DEVICE, DTYPE = (torch.device('cuda', 0), torch.bfloat16) if CUDA else (torch.device('cpu'), torch.float32)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
FOLDER = tempfile.TemporaryDirectory()
synchronize = torch.cuda.synchronize if CUDA else lambda: None


# ---------------------------------------------------------------------------------------------- measuring and printing

def precision():
    return torch.autocast('cuda', dtype=DTYPE) if CUDA else nullcontext()                 # as train.py


def seconds(function):
    """Of one call, until the GPU is done with it."""
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def timed(*functions, runs=5, patience=6.):
    """Median seconds of each function, which take turns; the first turn is the warm-up. No new turn begins after
    `patience` seconds, but there is at least one."""
    for function in functions:
        function()
    turns, begun = [], time.perf_counter()
    while not turns or len(turns) < runs and time.perf_counter() - begun < patience:
        turns.append([seconds(function) for function in functions])
    return np.median(turns, 0).tolist()


def memory(function):
    """What a call needs, in words."""
    return size(bytes_needed(function))


def bytes_needed(function):
    """On the GPU, or resident in RAM (Linux)."""
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        now, most = torch.cuda.memory_allocated, torch.cuda.max_memory_allocated
    elif os.access('/proc/self/clear_refs', os.W_OK):
        ctypes.CDLL(None).malloc_trim(0)                  # what is free but not given back would hide what is needed
        Path('/proc/self/clear_refs').write_text('5')     # the high-water mark begins anew
        now, most = partial(resident, 'VmRSS'), partial(resident, 'VmHWM')
    else:
        now = most = partial(float, 'nan')
    before = now()
    function()
    return most() - before


def resident(mark):
    return next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith(mark))


def flops(function):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops()


@cache
def ceiling():
    """A large matrix product, and its FLOPs."""
    n, times = (8192, 20) if CUDA else (2048, 1)
    a, b = torch.randn(2, n, n, device=DEVICE).to(DTYPE)
    work = times * flops(lambda: a @ b)
    row(f'ceiling: product of {n} x {n} in {DTYPE}',
        f'{work / timed(lambda: [a @ b for _ in range(times)], runs=9)[0] / 1e12:.3f} TFLOP/s')
    return lambda: [a @ b for _ in range(times)], work


def beside_ceiling(function, work, **how):
    """Median seconds of a function that does `work` FLOPs, and its FLOP/s as a share of the large product's."""
    product, its_work = ceiling()
    took, ideal = timed(function, product, **how)
    return took, f'{work / took * ideal / its_work:.0%}'


def span(s):
    return f'{s:.2f} s' if s >= 1 else f'{s * 1e3:.1f} ms' if s >= 1e-3 else f'{s * 1e6:.0f} us'


def size(b):
    return f'{b / 1e9:.2f} GB' if b >= 1e9 else f'{b / 1e6:.0f} MB'


def row(what, *values):
    print(f'{what:50}' + ''.join(f'{value:>18}' for value in values), flush=True)


def compare(what, plain, ours, more):
    slow, fast = timed(plain, ours, runs=15)
    row('  ' + what, span(slow), span(fast), f'{slow / fast:.1f} x', *more())


# -------------------------------------------------------------------------------------- the backbone, and a whole step

def prepared(dataset, compiled=CUDA, **changes):
    """Settings and model as train.py sets them up; random weights cost what DINO's cost."""
    s = replace(train.preset(dataset), weights='random', **changes).resolve()
    model = models.build_model(asdict(s)).to(DEVICE)
    model.backbone.to(DTYPE)
    if compiled:
        model.backbone.compile()
    return s, model


def backbone():
    frames = 160 if CUDA else 2
    images = torch.randn(frames, 3, 224, 224, device=DEVICE).to(DTYPE)
    work = frames * flops(lambda: prepared('penn', False)[1].features(images[:1]))
    ceiling()
    row('backbone', 'frames/s', 'of ceiling', 'memory', 'first call')
    for compiled in (False, True)[:1 + CUDA]:
        _, model = prepared('penn', compiled)

        def forward():
            with precision():
                model.features(images)
        first = seconds(forward)
        took, share = beside_ceiling(forward, work, runs=15 if CUDA else 3)
        row(f'  ViT-B/8, {frames} frames, {DTYPE}{", compiled" * compiled}', f'{frames / took:.2f}', share,
            memory(forward), span(first))
    if not CUDA:
        row('  in bf16, compiled', 'no CUDA here')


def stepper(s, model):
    """What the loop of train.py does with a batch."""
    objective, weights = OBJECTIVES[s.loss], [weight for weight in model.train().parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=s.lr, weight_decay=s.weight_decay)

    def step(batch):
        views = data.views(batch, s.image_size, DEVICE)
        when, length, valid = (batch[name].to(DEVICE, non_blocking=True) for name in ('time', 'length', 'valid'))
        with precision():
            z = model(rearrange(views, 'b v t c h w -> (b v) t c h w'), rearrange(valid, 'b v t -> (b v) t'),
                      project=objective.loss_on_head_output,
                      normalize=objective.unit_length)
        optimizer.zero_grad()
        objective.loss(rearrange(z, '(b v) t d -> b v t d', v=2), when, length, valid).backward()
        torch.nn.utils.clip_grad_norm_(weights, 10)
        optimizer.step()
    return step


def feed(s, videos, steps, workers):
    """The first batches of a run, loaded as train.py loads them."""
    clips = data.Clips(videos, frames=s.frames, seed=s.seed, block=s.block, shift=s.shift)
    return DataLoader(clips, batch_sampler=list(islice(train.batches(len(clips), s, 0, 0, 1), steps)),
                      collate_fn=data.collate, num_workers=workers, pin_memory=CUDA)


def waits(function):
    """How often a call makes the CPU wait for the GPU, as far as PyTorch notices."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
        function()
        torch.cuda.set_sync_debug_mode('default')
    return sum('called a synchronizing' in str(each.message) for each in caught)


def whole_step():
    """A training step with its frames decoded beforehand; then fed by workers from files: does it wait for them?"""
    ceiling()
    row('step', 'frames/s', 'of ceiling', 'memory', 'a step', 'augmentation', *['waits in it'] * CUDA)
    for dataset, changes in [('penn', dict(workers=min(CORES, 16)))] if CUDA else [
            ('synthetic', {}), ('folder', dict(workers=1)), ('penn', dict(batch=1, frames=2))]:
        s, model = prepared(dataset, **changes)
        sources = files(s.image_size) if CUDA or dataset == 'folder' else {}
        videos = sources.get('JPEG') or data.load('synthetic')['train']
        batch, step, frames = next(iter(feed(s, videos, 1, 0))), stepper(s, model), s.batch * 2 * s.frames
        times = 5 if CUDA else 1                          # in one go: a step may begin before the last one has ended
        took, share = beside_ceiling(lambda: [step(batch) for _ in range(times)],
                                     times * frames * train.flops_per_frame(s), runs=3)
        took /= times
        augmentation, = timed(lambda: data.views(batch, s.image_size, DEVICE))
        row(f'  {dataset}: {s.backbone}, {s.batch} x 2 x {s.frames} frames', f'{frames / took:.2f}', share,
            memory(lambda: step(batch)), span(took), f'{augmentation / took:.1%}',
            *([waits(lambda: step(batch))] if CUDA else []))
        for kind, videos in sources.items():
            count = 40 if CUDA else 4
            loader = iter(feed(s, videos, 1 + count, s.workers))
            step(next(loader))                            # all workers have begun, little lies ready
            fed = seconds(lambda: [step(batch) for batch in loader]) / count
            row(f'    fed from {kind}, {s.workers} worker{"s" * (s.workers > 1)}', f'{frames / fed:.2f}',
                f'{max(0, 1 - took / fed):.0%} waiting')
    if not CUDA:
        row('  penn: dino_vitb8, 4 x 2 x 80 frames', 'no CUDA here')


# ------------------------------------------------------------------------------------------------------------ decoding

@cache
def files(side):
    """{'JPEG': videos, 'mp4': videos}: eight times one of 300 frames, 480 x 272, where a camera pans over a scene."""
    folder, film, rng = Path(FOLDER.name, 'frames'), Path(FOLDER.name, 'film.mp4'), np.random.default_rng(0)
    if not folder.exists():
        folder.mkdir()
        scene = Image.fromarray(rng.integers(0, 256, (34, 135, 3), np.uint8)).resize((1080, 272), Image.BICUBIC)
        scene = np.clip(scene + rng.integers(-12, 13, (272, 1080, 3)), 0, 255).astype(np.uint8)
        with av.open(str(film), 'w') as container:
            stream = container.add_stream('libx264', rate=25)
            stream.width, stream.height, stream.pix_fmt = 480, 272, 'yuv420p'
            for i in range(300):
                frame = np.ascontiguousarray(scene[:, 2 * i:2 * i + 480])
                Image.fromarray(frame).save(folder / f'{i:06}.jpg', quality=90)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
            container.mux(stream.encode())
    return {'JPEG': [data.Video('JPEG', lambda: 300, partial(image_files.read_folder, folder, size=side))] * 8,
            'mp4': [data.Video('mp4', lambda: 300, partial(video_files.read_file, film, size=side))] * 8}


def reading(video, wanted, _):
    start = time.perf_counter()
    video.read(wanted)
    return time.perf_counter() - start


def decoding():
    wanted = np.sort(np.random.default_rng(0).choice(300, 80, replace=False))
    row('decoding, one core', 'frames/s', '80 frames')
    for kind, (video, *_) in files(224).items():          # inside a worker, as in training: one thread
        loader = DataLoader(range(10), None, num_workers=1, collate_fn=partial(reading, video, wanted))
        took = np.median(list(loader)[1:])
        row(f'  80 of 300 frames, {kind}, 480 x 272 to 224 x 224', f'{80 / took:.0f}', span(took))


# ---------------------------------------------------------------------------------------------------- objective, pooler

def pooling():
    frames = 160 if CUDA else 8
    pool = LSTP(2304, 3).to(DEVICE)
    patches = torch.randn(frames, 784, 2304, device=DEVICE).to(DTYPE)                     # of a frozen backbone
    direction = torch.randn(frames, 3, 384, device=DEVICE)

    def plain(patches):
        keys, values = pool.key(patches), pool.value(patches)
        return (pool.query @ keys.mT / math.sqrt(pool.width)).softmax(-1) @ values,

    def forward(form):
        with precision():
            return form(patches)[0]

    def both(form):
        pool.zero_grad()
        (forward(form).float() * direction).sum().backward()

    row(f'LSTP: {frames} frames, P 784, L*C 2304, N 3', 'plain', 'folded', 'ratio', 'memory, plain', 'folded')
    for name, run in (('forward', forward), ('forward and backward', both)):
        forms = partial(run, plain), partial(run, pool)
        compare(name, *forms, lambda: map(memory, forms))
    row('  largest difference', f'{(forward(plain) - forward(pool)).abs().max():.1e}')


def looped_scl(z, frames, length, valid):
    total = 0
    for b in range(len(z)):
        for v, w in ((0, 1), (1, 0)):
            gap = (frames[b, v][:, None] - frames[b, w]).float()
            target = torch.exp(-gap ** 2 / 20) * (valid[b, v][:, None] & valid[b, w])
            target = target / target.sum(1, keepdim=True).clamp(min=1e-37)
            p = (z[b, v] @ z[b, w].T / 0.1).masked_fill(~valid[b, w], -1e9).softmax(1)
            loss = (torch.xlogy(target, target) - target * (p + 1e-6).log()).sum()
            total = total + loss / valid[b].sum() / len(z)
    return total


def contrast():
    rng, (B, T, D) = np.random.default_rng(0), (4, 80, 128)
    z = F.normalize(torch.randn(B, 2, T, D, device=DEVICE), dim=-1).requires_grad_()
    frames = torch.tensor(np.sort([[rng.choice(200, T, False) for _ in range(2)] for _ in range(B)]), device=DEVICE)
    length = torch.tensor(np.tile(rng.integers(60, 200, (B, 1)), 2), device=DEVICE)

    def gradient(form):
        z.grad = None
        form(z, frames, length, frames < length[..., None]).backward()
        return z.grad

    row(f'SCL: {B} videos, T {T}, D {D}', 'per pair', 'at once', 'ratio', 'difference')
    compare('forward and backward', partial(gradient, looped_scl), partial(gradient, scl),
            lambda: [f'{(gradient(looped_scl) - gradient(scl)).abs().max():.1e}'])


# ------------------------------------------------------------------------------------------------------------- metrics

def embedded(videos, seed, least, most):
    """Unit-length embeddings (n_i, 128) of videos that go through two phases, each at its own pace; labels (n_i,)."""
    rng, (speed, start) = np.random.default_rng(seed), np.random.default_rng(0).normal(size=(2, 128))
    z, labels = [], []
    for n in rng.integers(least, most + 1, videos):
        phase = np.linspace(0, 1, n) ** rng.uniform(0.5, 2)
        x = np.cos(4 * phase[:, None] * speed + 3 * start) + rng.normal(size=(n, 128))
        z.append((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32))
        labels.append((phase > 0.5).astype(np.int64))
    return z, labels


def looped_tau(videos):
    taus = []
    for i, queries in enumerate(videos):
        for others in videos[:i] + videos[i + 1:]:
            nearest = cdist(queries, others, 'sqeuclidean').argmin(1)
            taus.append(kendalltau(np.arange(len(nearest)), nearest).statistic)
    return np.nanmean(taus)


def looped_retrieval(videos, labels):
    scores = []
    for i, queries in enumerate(videos):
        others, theirs = (np.concatenate(one[:i] + one[i + 1:]) for one in (videos, labels))
        nearest = [cdist(query[None], others, 'sqeuclidean')[0].argsort()[:5] for query in queries]
        scores.append(np.mean([(theirs[n] == label).mean() for n, label in zip(nearest, labels[i])]))
    return np.mean(scores)


def with_ones(videos):
    return np.array([[*frame, 1] for video in videos for frame in video])                 # (n, D + 1), for intercepts


def looped_classification(videos, labels, val, val_labels):
    """Softmax regression, its loss written down and given to L-BFGS."""
    x, truth = with_ones(videos), np.eye(2)[np.concatenate(labels)]

    def loss(w):
        w = w.reshape(-1, 2)
        logits, penalised = x @ w, w * (np.arange(len(w)) < len(w) - 1)[:, None]
        value = logsumexp(logits, 1).sum() - (logits * truth).sum() + (penalised ** 2).sum() / 2
        return value, (x.T @ (softmax(logits, 1) - truth) + penalised).ravel()

    w = minimize(loss, np.zeros(2 * x.shape[1]), jac=True, method='L-BFGS-B', options=dict(ftol=1e-15)).x
    return np.mean((with_ones(val) @ w.reshape(-1, 2)).argmax(1) == np.concatenate(val_labels))


def looped_progression(videos, labels, val, val_labels):
    def targets(labels):
        return [(t - np.flatnonzero(one == 0)[-1]) / len(one) for one in labels for t in range(len(one))]

    weights, truth = np.linalg.lstsq(with_ones(videos), targets(labels), rcond=None)[0], targets(val_labels)
    return 1 - ((with_ones(val) @ weights - truth) ** 2).mean() / np.var(truth)


def metrics():
    """As many videos as Penn Action has of pushup."""
    x, y, val, val_y = both = *embedded(102, 1, 30, 110), *embedded(106, 2, 30, 110)
    half = [z[::2].astype(np.float64) for z in val], [z[::2] for z in val_y]
    row(f'metrics: {sum(map(len, x))} + {sum(map(len, val))} frames', 'loops', 'here', 'ratio', 'value', 'difference')
    for name, plain, ours in (
            ('classification', partial(looped_classification, *both), partial(evaluate.classification, *both)),
            ('progression', partial(looped_progression, *both), partial(evaluate.progression, *both)),
            ("Kendall's tau, stride 2", partial(looped_tau, half[0]), partial(evaluate.kendalls_tau, val, 2)),
            ('AP@5, stride 2', partial(looped_retrieval, *half), partial(evaluate.retrieval, val, val_y, 5, 2))):
        values = []
        compare(name, lambda: values.append(plain()), lambda: values.append(ours()),
                lambda: [f'{values[-1]:.4f}', f'{abs(values[-1] - values[-2]):.1e}'])


# -------------------------------------------------------------------------------------------------------------- growth

def cost(function):
    """Time and memory of a call; one that takes seconds is made once."""
    took = []
    used = memory(lambda: took.append(seconds(function)))
    return f'{span(took[0] if took[0] > 2 else timed(function, runs=3, patience=1)[0])}, {used}'


def fusing(entities, frames, backward):
    mtf = MTF(384, entities, frames=80).to(DEVICE).train(backward)
    x = torch.randn(1, frames, entities, 384, device=DEVICE)

    def run():
        with torch.set_grad_enabled(backward), precision() if backward else nullcontext():
            z = mtf(x).float().sum()
        return z.backward() if backward else None
    return run


def merging():
    """What --merge K saves: neighbouring frames share their tokens in the MTF's transformer."""
    row('merge K: MTF, and backward, T 240, N 6, two views', 'time', 'of K 1', 'memory', 'of K 1')
    merges = (1, 2, 4)
    runs = []
    for k in merges:
        mtf = MTF(384, 6, frames=240, merge=k).to(DEVICE).train()
        runs.append(partial(forward_and_backward, mtf, torch.randn(2, 240, 6, 384, device=DEVICE)))
    times = timed(*runs, runs=9)
    needed = [bytes_needed(run) for run in runs]
    for k, time_of_one, bytes_of_one in zip(merges, times, needed):
        row(f'  K {k}', span(time_of_one), f'{time_of_one / times[0]:.2f}',
            size(bytes_of_one), f'{bytes_of_one / needed[0]:.2f}')


def forward_and_backward(mtf, entities):
    mtf.zero_grad()
    with precision():
        z = mtf(entities)
    z.float().sum().backward()


def growth():
    lengths, counts, too_long = (80, 240, 1000, 5000), (10, 100, 1000), 'not on a CPU'
    for name, backward, most in (('MTF, forward, one video', False, 6000), ('MTF, and backward, one view', True, 3000)):
        row(name, *(f'T {t}' for t in lengths))
        for n in (1, 3, 6):
            row(f'  N {n}', *(cost(fusing(n, t, backward)) if CUDA or t * n <= most else too_long for t in lengths))
    row('evaluation, videos of 20 to 40 frames', *(f'{count} videos' for count in counts))
    network, frames = prepared('synthetic', False)[1], torch.randint(0, 256, (40, 3, 64, 64), dtype=torch.uint8)
    videos = [data.Video(f'{i}', partial(int, n), lambda indices: frames[indices])
              for i, n in enumerate(np.random.default_rng(0).integers(20, 41, counts[-1]))]
    row('  embedding, tiny backbone', *(
        cost(lambda: embed_all({'': network}, videos[:count], device=DEVICE))
        if CUDA or count <= 100 else too_long for count in counts))
    sets = [(*embedded(count, 1, 20, 40), *embedded(count, 2, 20, 40)) for count in counts]
    for name, metric in (('classification', evaluate.classification), ('progression', evaluate.progression),
                         ("Kendall's tau", lambda x, y, val, val_y: evaluate.kendalls_tau(val)),
                         ('AP@5', lambda x, y, val, val_y: evaluate.retrieval(val, val_y))):
        row('  ' + name, *(cost(partial(metric, *arguments)) for arguments in sets))


PARTS = {'ceiling': ceiling, 'backbone': backbone, 'step': whole_step, 'lstp': pooling, 'scl': contrast,
         'decoding': decoding, 'metrics': metrics, 'merge': merging, 'growth': growth}


def main():
    parser = argparse.ArgumentParser(description='Speed and memory on the machine at hand.')
    parser.add_argument('--only', nargs='+', choices=PARTS, default=PARTS, metavar='PART', help=', '.join(PARTS))
    parts, begun = parser.parse_args().only, time.perf_counter()
    torch.manual_seed(0)
    print(f'{torch.cuda.get_device_name() if CUDA else "no GPU"}; {CORES} cores {platform.machine()}, '
          f'{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, '
          f'PyTorch {torch.__version__}')
    for part in parts:
        PARTS[part]()
    print(f'{time.perf_counter() - begun:.0f} s in all')


if __name__ == '__main__':
    main()
