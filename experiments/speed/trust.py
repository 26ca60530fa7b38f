"""What a fast form must not change: half precision, long videos, runs stopped or in parts."""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

import data
from evaluation.embedding import embed_splits
from loss import scl
from speed.films import written
from speed.measure import CUDA, DEVICE, autocast, bytes_needed, row, seconds, size, span
from speed.training import batch_of, made_videos, prepared

ROOT = Path(__file__).resolve().parent.parent.parent
GPU_MEMORY = 24e9    # of a card that people have


def precision(sizes):
    """bfloat16 beside float32, on the same weights and the same batch."""
    row('bfloat16 beside float32', 'float32', 'bfloat16', 'difference')
    for dataset, changes in sizes.steps:
        s, model = prepared(dataset, **changes)
        batch = batch_of(s, made_videos(sizes, s))
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


# --------------------------------------------------------------------------------------------------
# A run that was stopped, and goes on

def resume(sizes):
    """One run stopped in the middle and begun again, beside one that was left alone."""
    row('resume', 'stopped at', 'of steps', 'difference', 'largest weight')
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, *command_to_train(Path(root, 'videos'), sizes)]
        whole = Path(root, 'whole')
        subprocess.run([*command, '--out', whole], check=True, stdout=subprocess.DEVNULL)
        halved = Path(root, 'halved')
        stopped = stop_after([*command, '--out', halved], halved / 'log.jsonl', 3)
        subprocess.run([*command, '--out', halved], check=True, stdout=subprocess.DEVNULL)
        one = load(whole)
        other = load(halved)
    if not 0 < stopped < one['step']:
        raise RuntimeError(f'stopped at step {stopped} of {one["step"]}, not in the middle')
    differences = []
    largest = []
    for name, weight in one['model'].items():
        differences.append((weight - other['model'][name]).abs().max().item())
        largest.append(weight.abs().max().item())
    row(f'  {sizes.resumed} on {DEVICE.type}', stopped, one['step'], f'{max(differences):.1e}',
        f'{max(largest):.2g}')


def command_to_train(videos, sizes, batch=1, epochs=6):
    """train.py and its arguments: on four copies of a film."""
    folder, _ = written(sizes.film)
    for number in range(4):
        shutil.copytree(folder, videos / f'{number}')
    return [ROOT / 'train.py', '--dataset', 'folder', '--data', videos,
            '--backbone', sizes.resumed, '--weights', 'random', '--layers', '1',
            '--frames', '8', '--batch', f'{batch}', '--epochs', f'{epochs}', '--workers', '0',
            '--device', DEVICE.type, '--no-compile']


def stop_after(command, log, steps):
    """Begin a run and end it by SIGTERM when its log has so many steps -> where it stopped."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and lines(log) < steps:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    if process.wait():
        raise RuntimeError(f'the run that was to be stopped ended by itself: {process.returncode}')
    return load(log.parent)['step']


def lines(log):
    return len(log.read_text().splitlines()) if log.exists() else 0


def load(folder):
    return torch.load(folder / 'checkpoint.pt', weights_only=True)


# --------------------------------------------------------------------------------------------------
# Several processes

def processes(sizes):
    """A run of the same global batch by torchrun in 1, 2, 4 processes, as its last report says:
    by the clock on the wall, of processes that have a GPU or a core each."""
    most = torch.cuda.device_count() if CUDA else os.cpu_count()
    row('processes, one global batch of 4 videos', 'frames/s', 'of one')
    speeds = []
    for count in sizes.processes:
        if count > most:
            row(f'  {count} processes', f'only {most} here')
            continue
        with tempfile.TemporaryDirectory() as root:
            command = [
                sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', f'{count}',
                *command_to_train(Path(root, 'videos'), sizes, batch=4, epochs=sizes.fed_steps),
                '--out', Path(root, 'run')]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        speeds.append(int(re.findall(r'(\d+) frames/s', said)[-1]))
        row(f'  {count} processes', speeds[-1], f'{speeds[-1] / speeds[0]:.2f} x')
