"""Kill a training run many times, restart it by the same command, and compare it with one never killed.

    python experiments/soak.py                    30 kills, some minutes
    python experiments/soak.py --kills 5 --seed 1

One short run on a few videos of the synthetic set, written as folders of images with labels, so that reading,
training, checkpoints and evaluation are all met. Moments come from the seed: in start-up, in training, while
a checkpoint is written, in an evaluation; three in four are SIGKILL, the others SIGTERM. Both runs must end
with the same checkpoint (weights, statistics, Adam's moments) and the same log, bit by bit, though one of them
decodes in a worker process and the other in its own. Exit code 0 if so, else 1.
"""
import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import data

BATCH, STEPS = 3, 2                                       # videos a step, steps an epoch
STOPPED = (0, 130, 143, -signal.SIGTERM, -signal.SIGKILL)      # how a run may end that is told to stop


def write_videos(folder):
    """A few short videos of the synthetic set as folders of images with a label a frame."""
    for split, videos in data.load('synthetic').items():
        for number, video in enumerate(videos[::len(videos) // (BATCH * STEPS)][:BATCH * STEPS]):
            indices = range(0, video.frames, 4)
            frames = folder / split / f'{number}'
            frames.mkdir(parents=True)
            for i, frame in enumerate(video.read(indices)):
                Image.fromarray(frame.permute(1, 2, 0).numpy()).save(frames / f'{i}.png')
            frames.with_suffix('.txt').write_text(' '.join(str(video.labels[i]) for i in indices))


def start(folder, out, epochs, workers, screen):
    """The one command, as a process group: a signal reaches all of it, as from a batch system."""
    flags = dict(dataset='folder', data=folder / 'videos', out=out, epochs=epochs, batch=BATCH, frames=6,
                 eval_every=1, save_every=0, backbone='tiny', weights='random', layers=4, entities=2,
                 entity_width=32, fc_width=32, embedding=16, workers=workers)
    flags = [word for name, value in flags.items() for word in ('--' + name.replace('_', '-'), str(value))]
    return subprocess.Popen([sys.executable, str(ROOT / 'train.py'), *flags], stdout=screen, stderr=screen,
                            start_new_session=True, env=os.environ | dict(OMP_NUM_THREADS='1'))


def last_line(log, since=0.):
    """What the log ends with, once the run has opened it after the time `since`."""
    try:
        if log.stat().st_mtime >= since:
            return json.loads(log.read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError):             # not there yet, or a line half written
        pass
    return dict(step=0)


def state(out, since):
    """(step, what the run is doing), as far as its files tell."""
    line, beside = last_line(out / 'log.jsonl', since), out / 'checkpoint.pt.new'
    with suppress(FileNotFoundError):                     # as soon as it is whole it is renamed
        if beside.stat().st_mtime >= since:
            return line['step'], 'writing a checkpoint'
    if 'loss' not in line:                                # nothing yet, or metrics
        return line['step'], 'training' if line['step'] else 'start-up'
    return line['step'], 'training' if line['step'] % STEPS else 'evaluating'


def aim(rng, process, out, launched, moment, target, startup):
    """Wait for the moment -> (step, what it is doing), or None if the run ended before."""
    if moment == 'start-up':
        time.sleep(rng.uniform(0, startup))
        return None if process.poll() is not None else state(out, launched)
    while process.poll() is None:
        step, doing = state(out, launched)
        if step > target or step == target and doing == moment:
            time.sleep(rng.choice([0, rng.uniform(0, .05), rng.uniform(0, .5)]))
            return state(out, launched)
        time.sleep(.003)


def differences(whole, killed):
    """The names of what differs between the two finished runs."""
    a, b = (torch.load(out / 'checkpoint.pt', weights_only=True) for out in (whole, killed))
    for checkpoint in (a, b):
        del checkpoint['settings']['out'], checkpoint['settings']['workers']

    def unequal(name, a, b):
        if torch.is_tensor(a) and torch.is_tensor(b):
            return [] if a.dtype == b.dtype and torch.equal(a, b) else [name]
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            return [found for key in a for found in unequal(f'{name}.{key}', a[key], b[key])]
        return [] if a == b else [name]
    found = unequal('checkpoint', a, b)
    lines = [(out / 'log.jsonl').read_text().splitlines() for out in (whole, killed)]
    if lines[0] != lines[1]:
        at = next((i for i, pair in enumerate(zip(*lines)) if pair[0] != pair[1]), min(map(len, lines)))
        found.append(f'log.jsonl from line {at + 1} on ({len(lines[0])} lines, {len(lines[1])} killed)')
    return found


def soak(kills, seed, folder):
    rng, begun = random.Random(seed), time.time()
    epochs = max(6, kills * 2 // 3)
    total = epochs * STEPS
    write_videos(folder / 'videos')
    with open(folder / 'screen.txt', 'w') as screen:
        launched = time.time()
        whole = start(folder, folder / 'whole', epochs, 0, screen)
        while whole.poll() is None and not last_line(folder / 'whole' / 'log.jsonl')['step']:
            time.sleep(.01)
        startup = time.time() - launched
        if whole.wait():
            print((folder / 'screen.txt').read_text()[-2000:], f'\nthe run itself fails: {whole.returncode}')
            return 1
        print(f'never killed: {total} steps, {epochs} evaluations in {time.time() - launched:.1f} s, '
              f'{startup:.1f} s of them until the first step', flush=True)

        out, done, reached, hit = folder / 'killed', 0, 0, {}
        while True:
            launched = time.time()
            process = start(folder, out, epochs, 1, screen)
            if done == kills:
                break
            # a pace that brings the last kill near the end, not past it, where nothing is left to kill
            ahead = rng.randint(1, max(1, round(1.4 * (total - reached) / (kills - done))))
            target, moment = min(reached + ahead, total - 1), rng.choice(
                ['start-up', 'training', 'writing a checkpoint', 'evaluating'])
            if reached == total:                          # only its last evaluation is left
                moment = 'start-up'
            how = rng.choice([signal.SIGKILL] * 3 + [signal.SIGTERM])
            found = aim(rng, process, out, launched, moment, target, startup)
            if found is None:
                break
            os.killpg(process.pid, how)
            after, sent = time.time() - launched, time.time()
            process.wait()
            if process.returncode not in STOPPED:
                break
            done += 1
            step, doing = found
            reached = max(reached, step)
            hit[doing] = hit.get(doing, 0) + 1
            print(f'kill {done:2}  {how.name}  {after:5.1f} s after launch  {doing:20}  '
                  + (f'step {step}/{total}' if step else 'no step yet')
                  + (f'  left after {time.time() - sent:.1f} s' if how == signal.SIGTERM else ''), flush=True)
        code = process.wait()
    print(f'{done} kills: ' + ', '.join(f'{count} {doing}' for doing, count in sorted(hit.items()))
          + f'; {time.time() - begun:.0f} s in all')
    if code:
        print((folder / 'screen.txt').read_text()[-2000:], f'\nFAILED: the run ended with exit code {code}')
        return 1
    if wrong := differences(folder / 'whole', out):
        print(f'FAILED: {len(wrong)} differ: ' + ', '.join(wrong[:5]))
        return 1
    if done < kills:
        print(f'FAILED: bit-identical, but the run ended after {done} of {kills} kills; try another --seed')
        return 1
    print('bit-identical: weights, statistics, optimiser and log')
    return 0


def main():
    parser = argparse.ArgumentParser(description='Kill a run many times; it must end as one never killed.')
    parser.add_argument('--kills', type=int, default=30)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--keep', action='store_true', help='keep the files of both runs')
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix='soak'))
    try:
        sys.exit(soak(args.kills, args.seed, folder))
    finally:
        if args.keep:
            print(f'files: {folder}')
        else:
            shutil.rmtree(folder)


if __name__ == '__main__':
    main()
