"""Read damaged video files for a long time beside busy processes: none may hang.

    nice python experiments/soak_video.py                 # 10,000 reads; prints how they ended

Four threads read mp4, mkv and avi files of which some bytes are overwritten, each with as many
decoding threads as there are cores. A watchdog that needs no interpreter lock prints where every
thread stands and ends the process with 1 if no read comes back for a minute.
"""
import argparse
import faulthandler
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

import data
from miniatures import write_video
from running.errors import UserError

FORMATS = {'a.mp4': {}, 'a.mkv': {}, 'a.avi': {'codec': 'mpeg4'}}


def burn(parent):
    """Keep a core busy for as long as the parent lives, however it ends."""
    while os.getppid() == parent:
        sum(range(10 ** 6))


def damaged(content, rng):
    """A copy with up to 8 stretches of up to 20 bytes overwritten, and sometimes cut off."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        start = rng.integers(len(content) - 40)
        size = rng.integers(1, 21)
        content[start:start + size] = rng.bytes(size)
    if rng.random() < 0.2:
        del content[rng.integers(len(content)):]
    return content


def read(whole, folder, number):
    """Damage a file in a way that its number decides, and read it -> how that ended."""
    rng = np.random.default_rng(number)
    name = list(whole)[number % len(whole)]
    path = folder / f'{number}{Path(name).suffix}'
    path.write_bytes(damaged(whole[name], rng))
    try:
        video = data.video_file(path.name, path)
        video.read(np.sort(rng.integers(video.frames, size=8)))
        return f'{name}: read'
    except UserError:
        return f'{name}: refused'
    finally:
        path.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--reads', type=int, default=10_000)
    parser.add_argument('--busy', type=int, default=4, help='processes beside this one')
    args = parser.parse_args()
    for _ in range(args.busy):
        multiprocessing.Process(target=burn, args=[os.getpid()], daemon=True).start()
    began = time.time()
    ends = Counter()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, form in FORMATS.items():
            write_video(folder / name, 60, **form)
        whole = {name: (folder / name).read_bytes() for name in FORMATS}
        with ThreadPoolExecutor(4) as pool:
            faulthandler.dump_traceback_later(60, exit=True)
            for end in pool.map(partial(read, whole, folder), range(args.reads)):
                ends[end] += 1
                faulthandler.dump_traceback_later(60, exit=True)    # begins anew
        faulthandler.cancel_dump_traceback_later()
    for end, count in sorted(ends.items()):
        print(f'{end}: {count:,}')
    seconds = time.time() - began
    print(f'{args.reads:,} reads beside {args.busy} busy processes in {seconds:.0f} s, none hung')


if __name__ == '__main__':
    main()
