"""Kill a training run many times, restart it by the same command, and compare it with one that was
never killed.

    python experiments/soak.py                    30 kills, some minutes
    python experiments/soak.py --kills 5 --seed 1

A short run on a few videos of the synthetic set, written as folders of images with labels: it saves
after every step and evaluates after every epoch. Moments come from the seed, some of them in its
start-up; three in four are SIGKILL, the others SIGTERM. Both runs must end with the same checkpoint
(weights, statistics, Adam's moments) and the same log, bit by bit, though one of them decodes in a
worker process and the other in its own. Exit code 0 if so, else 1.
"""
import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import data

VIDEOS = 6                                                # two steps an epoch
FLAGS = ('--dataset folder --batch 3 --frames 6 --eval-every 1 --save-every 0 --backbone tiny '
         '--weights random --layers 4 --entities 2 --entity-width 32 --fc-width 32 --embedding 16')
# how a run may end that is told to stop
STOPPED = (0, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL)


def write_videos(folder):
    """A few short videos of the synthetic set as folders of images with a label a frame."""
    for split, videos in data.load('synthetic').items():
        for number, video in enumerate(videos[::len(videos) // VIDEOS][:VIDEOS]):
            indices = range(0, video.frames, 4)
            frames = folder / split / f'{number}'
            frames.mkdir(parents=True)
            for i, frame in enumerate(video.read(indices)):
                Image.fromarray(frame.permute(1, 2, 0).numpy()).save(frames / f'{i}.png')
            labels = [str(video.labels[i]) for i in indices]
            frames.with_suffix('.txt').write_text(' '.join(labels))


def start(folder, name, epochs, workers, screen):
    """The one command, as a process group: a signal reaches all of it, as from a batch system."""
    command = [sys.executable, ROOT / 'train.py', *FLAGS.split(), '--data', folder / 'videos',
               '--out', folder / name, '--epochs', f'{epochs}', '--workers', f'{workers}']
    return subprocess.Popen(command, stdout=screen, stderr=screen, start_new_session=True,
                            env=os.environ | dict(OMP_NUM_THREADS='1'))


def lines_of(folder):
    """The log's lines, without how long each took."""
    found = []
    for line in (folder / 'log.jsonl').read_text().splitlines():
        entry = json.loads(line)
        entry.pop('seconds', None)
        entry.pop('frames_per_second', None)
        found.append(entry)
    return found


def step_of(folder):
    """The last step of the log; 0 where there is none yet, or a line is half written."""
    try:
        return lines_of(folder)[-1]['step']
    except (OSError, ValueError, IndexError):
        return 0


def wait_for_step(process, folder, step):
    while process.poll() is None and step_of(folder) < step:
        time.sleep(.003)


def kill(rng, start, folder, startup):
    """Start the run and kill it, up to four steps later or in its start-up -> a line on that, or
    None where it ended otherwise."""
    begun = time.time()
    process = start()
    ahead = rng.randint(0, 4)
    wait_for_step(process, folder, step_of(folder) + ahead)
    time.sleep(rng.uniform(0, .5) if ahead else rng.uniform(0, startup))
    if process.poll() is not None:
        return None
    how = rng.choice([signal.SIGKILL] * 3 + [signal.SIGTERM])
    after = time.time() - begun
    os.killpg(process.pid, how)
    if process.wait() not in STOPPED:
        return None
    return f'{how.name}  {after:5.1f} s after launch, step {step_of(folder)}'


def compare(one, other):
    """AssertionError, which names the place, where two finished runs differ in a bit."""
    a, b = [torch.load(folder / 'checkpoint.pt', weights_only=True) for folder in (one, other)]
    assert a['step'] == b['step'], 'the last step'
    for part in ('model', 'optimizer'):
        torch.testing.assert_close(a[part], b[part], rtol=0, atol=0)
    assert lines_of(one) == lines_of(other), 'log.jsonl'


def soak(kills, seed, folder, screen):
    rng = random.Random(seed)
    write_videos(folder / 'videos')
    epochs = 2 * kills + 2                                # so that all kills come before the end
    begun = time.time()
    whole = start(folder, 'whole', epochs, 0, screen)
    wait_for_step(whole, folder / 'whole', 1)
    startup = time.time() - begun
    if whole.wait():
        return f'the run itself fails: exit code {whole.returncode}'
    print(f'never killed: {time.time() - begun:.1f} s, {startup:.1f} s until its first step')
    begin = partial(start, folder, 'killed', epochs, 1, screen)
    for number in range(1, kills + 1):
        line = kill(rng, begin, folder / 'killed', startup)
        if line is None:
            return f'the run ended by itself before kill {number}'
        print(f'kill {number:2}  {line}', flush=True)
    code = begin().wait()
    if code:
        return f'the run ended with exit code {code}'
    try:
        compare(folder / 'whole', folder / 'killed')
    except AssertionError as error:
        return f'they differ: {error}'
    print(f'{kills} kills, {time.time() - begun:.0f} s; bit-identical: weights, statistics, '
          f'optimiser and log')


def main():
    parser = argparse.ArgumentParser(description='Kill a run often; it must end as one never was.')
    parser.add_argument('--kills', type=int, default=30)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='soak') as folder:
        path = Path(folder, 'screen.txt')
        with open(path, 'w') as screen:
            failed = soak(args.kills, args.seed, Path(folder), screen)
        if failed:
            print(path.read_text()[-2000:])
            sys.exit(f'FAILED: {failed}')


if __name__ == '__main__':
    main()
