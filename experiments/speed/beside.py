"""The same work in this checkout of the project and in another one, as it was before a change.

    python experiments/bench.py --beside ../before

Each job runs in a process of its own, which imports the project from one of the two; they take
turns. A row has the median time of a second call (on a CPU in one thread the time computed there),
the memory of the first, and how far the two results are apart; of the demo the time on the wall.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from inspect import signature
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if __name__ == '__main__':
    checkout, wanted_job, files, seed = sys.argv[1:]
    sys.path[:0] = [checkout, str(ROOT / 'experiments')]

import torch

import data
import evaluate
import loss
from speed.measure import bytes_needed, row, seconds, size, span


# --------------------------------------------------------------------------------------------------
# The jobs: of a folder and a seed, a function whose result is a number

def embedded(videos, seed, least, most, phases=2):
    """Unit-length embeddings (n_i, 128) of videos that go through some phases, each at its own
    pace, and their labels (n_i,)."""
    rng = np.random.default_rng(seed)
    speed, start = np.random.default_rng(0).normal(size=(2, 128))
    z = []
    labels = []
    for n in rng.integers(least, most + 1, videos):
        progress = np.linspace(0, 1, n) ** rng.uniform(0.5, 2)
        x = np.cos(4 * progress[:, None] * speed + 3 * start) + rng.normal(size=(n, 128))
        z.append((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32))
        labels.append((progress * phases).astype(np.int64).clip(0, phases - 1))
    return z, labels


def tau(folder, seed):
    return partial(evaluate.kendalls_tau, embedded(200, seed, 30, 110)[0])


def retrieval(folder, seed):
    return partial(evaluate.retrieval, *embedded(200, seed, 30, 110))


def scored(metric, folder, seed):
    train = embedded(107, seed, 30, 110, 4)
    val = embedded(106, seed + 1, 30, 110, 4)
    return partial(getattr(evaluate, metric), *train, *val)


def labelled(folder, seed):
    """Which frames have labels, of 300,000 that all have, as FineGym's."""
    z, labels = embedded(3000, seed, 100, 100)
    return lambda: len(evaluate.labelled_only(z, labels)[0])


def objective(name, frames, folder, seed):
    """Forward and backward; the result: the norm of the gradient."""
    torch.manual_seed(seed)
    z = torch.nn.functional.normalize(torch.randn(4, 2, frames, 128), dim=-1).requires_grad_()
    time = torch.arange(frames).expand(4, 2, frames)
    length = torch.full((4, 2), frames)

    def gradient():
        z.grad = None
        loss.OBJECTIVES[name].loss(z, time, length, time >= 0).backward()
        return z.grad.norm().item()
    return gradient


def decoding(kind, folder, seed):
    """A quarter of a film's frames, squashed to 224 pixels."""
    path = Path(folder, 'film300' if kind == 'JPEG' else 'film300.mp4')
    open_video = data.frame_folder if path.is_dir() else data.video_file
    video = open_video(kind, path, 224)
    wanted = np.sort(np.random.default_rng(seed).choice(video.frames, video.frames // 4, False))
    return lambda: video.read(wanted).double().mean().item()


def listing(folder, seed):
    """A folder of 8,000 pictures in 100 videos."""
    return lambda: len(data.load('folder', str(Path(folder, 'pictures')))['train'])


def aligned(folder, seed):
    """Two videos of 2,000 frames -> a film and a table; the result: its rows."""
    from pictures.align import align
    videos = [data.video_file(name, Path(folder, 'film2000.mp4')) for name in 'ab']
    z, _ = embedded(2, seed, 2000, 2000)
    # an older checkout asks for the frames' times
    times = dict(times=[None, None]) if 'times' in signature(align).parameters else {}

    def make():
        align(videos, z, Path(folder, 'aligned.mp4'), **times)
        return np.loadtxt(Path(folder, 'aligned.csv'), str, delimiter=',').shape[0]
    return make


def demo(folder, seed):
    """python train.py; the result: classification."""
    def run():
        where = Path(folder, f'{time.time()}')
        subprocess.run([sys.executable, 'train.py', '--seed', str(seed), '--data-seed', '5',
                        '--out', where], cwd=checkout, check=True, capture_output=True)
        last = (where / 'log.jsonl').read_text().splitlines()[-1]
        return json.loads(last)['classification']
    return run


DEMO = 'python train.py, on all cores'
JOBS = {
    "Kendall's tau of 200 videos": tau,
    'AP@5 of 200 videos': retrieval,
    'classification, 4 phases': partial(scored, 'classification'),
    'progression, 4 phases': partial(scored, 'progression'),
    'labelled frames of 300,000': labelled,
    'LAV, T 80': partial(objective, 'lav', 80),
    'LAV, T 240': partial(objective, 'lav', 240),
    'GTA, T 80': partial(objective, 'gta', 80),
    'decoding JPEGs': partial(decoding, 'JPEG'),
    'decoding an mp4': partial(decoding, 'mp4'),
    'listing 8,000 pictures': listing,
    'align, 2,000 frames': aligned,
    DEMO: demo,
}


def work(call, wall):
    """In a process of its own: print seconds, bytes and the result."""
    found = []
    needed = 0 if wall else bytes_needed(call)
    took = seconds(lambda: found.append(call()), wall)
    print(json.dumps([took, needed, found[0]]))


# --------------------------------------------------------------------------------------------------
# Both checkouts in turn

def write_files(folder):
    """What the jobs read."""
    from speed import films
    for frames in (300, 2000):
        for path in films.written(frames):
            path.rename(folder / path.name)
    picture = (folder / 'film300' / '000000.jpg').read_bytes()
    for video in range(100):
        where = folder / 'pictures' / f'{video:03}'
        where.mkdir(parents=True)
        for number in range(80):
            (where / f'{number:03}.jpg').write_bytes(picture)


def run(checkout, job, folder, seed):
    environment = dict(os.environ)
    if job == DEMO:
        del environment['OMP_NUM_THREADS']
    line = [sys.executable, __file__, checkout, job, folder, str(seed)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f'{checkout}: {job}: {done.stderr}')
    return json.loads(done.stdout.splitlines()[-1])


def compare_checkouts(other, runs=3):
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        row('', 'there', 'here', 'here / there', 'memory there', 'memory here', 'difference')
        for job in JOBS:
            there, here = [], []
            for seed in range(runs):
                there.append(run(other, job, folder, seed))
                here.append(run(ROOT, job, folder, seed))
            there, here = np.array(there), np.array(here)                   # (runs, 3)
            (old, old_size, _), (new, new_size, _) = np.median(there, 0), np.median(here, 0)
            apart = np.abs(there[:, 2] - here[:, 2]).max()
            memory = [size(needed) if needed else '-' for needed in (old_size, new_size)]
            row(f'  {job}', span(old), span(new), f'{new / old:.2f}', *memory, f'{apart:.1e}')


if __name__ == '__main__':
    work(JOBS[wanted_job](files, int(seed)), wanted_job == DEMO)
