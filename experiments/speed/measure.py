"""How the bench measures, and how it prints.

On CUDA a time is the wall's, until the GPU is done. On a CPU it is the time that this process was
computing, in one thread: what else runs on the machine then counts for little. Memory is what a
call needs beside what was there before it: on the GPU, or resident in RAM (Linux).
"""
import ctypes
import os
import time
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

CUDA = torch.cuda.is_available()
DEVICE = torch.device('cuda', 0) if CUDA else torch.device('cpu')
DTYPE = torch.bfloat16 if CUDA else torch.float32    # of a frozen backbone
NO_GPU = 'no GPU here'


# --------------------------------------------------------------------------------------------------
# Time

def clock(wall=CUDA):
    """Seconds, of which only differences mean something."""
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter() if wall else time.process_time()


def seconds(function, wall=CUDA):
    """Of one call. wall: by the clock on the wall, for where other processes take part."""
    start = clock(wall)
    function()
    return clock(wall) - start


def timed(*functions, runs=5, patience=6.):
    """Median seconds of each function; they take turns, after a warm-up. No new turn begins after
    `patience` seconds, but there is at least one."""
    for function in functions:
        function()
    turns = []
    begun = time.perf_counter()
    while len(turns) < runs:
        turns.append([seconds(function) for function in functions])
        if time.perf_counter() - begun > patience:
            break
    return np.median(turns, 0).tolist()


# --------------------------------------------------------------------------------------------------
# Memory

def bytes_needed(function):
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        now = torch.cuda.memory_allocated
        most = torch.cuda.max_memory_allocated
    elif os.access('/proc/self/clear_refs', os.W_OK):
        ctypes.CDLL(None).malloc_trim(0)              # what is free but kept would hide a need
        Path('/proc/self/clear_refs').write_text('5')     # the high-water mark begins anew
        now = partial(resident, 'VmRSS')
        most = partial(resident, 'VmHWM')
    else:
        now = most = partial(float, 'nan')
    before = now()
    function()
    return most() - before


def resident(mark):
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(mark):
            return 1024 * int(line.split()[1])


# --------------------------------------------------------------------------------------------------
# The machine's ceiling: a large matrix product

def flops(function):
    """FLOPs of a call, as PyTorch counts them: a multiply-add is two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops()


@cache
def ceiling(n):
    """A function that multiplies n x n matrices, and its FLOPs; prints how fast they are."""
    a, b = torch.randn(2, n, n, device=DEVICE).to(DTYPE)
    times = 20 if CUDA else 1

    def product():
        for _ in range(times):
            a @ b

    work = flops(product)
    took, = timed(product, runs=9)
    row(f'ceiling: product of {n} x {n} in {short(DTYPE)}', f'{work / took / 1e12:.3f} TFLOP/s')
    return product, work


def beside_ceiling(function, work, n, **how):
    """Median seconds of a function that does `work` FLOPs, and its FLOP/s as a share of the large
    product's, which takes turns with it."""
    product, its_work = ceiling(n)
    took, ideal = timed(function, product, **how)
    return took, f'{work / took * ideal / its_work:.0%}'


# --------------------------------------------------------------------------------------------------
# Printing

def row(what, *values):
    cells = [f'{value:>18}' for value in values]
    print(f'{what:45}' + ''.join(cells), flush=True)


def compare(what, plain, ours, *more, runs=9):
    """A row: seconds of the plain form and of ours, and how many times as fast ours is."""
    slow, fast = timed(plain, ours, runs=runs)
    row('  ' + what, span(slow), span(fast), f'{slow / fast:.1f} x', *more)


def span(seconds):
    if seconds >= 1:
        return f'{seconds:.2f} s'
    if seconds >= 1e-3:
        return f'{1e3 * seconds:.1f} ms'
    return f'{1e6 * seconds:.0f} us'


def size(number):
    return f'{number / 1e9:.2f} GB' if number >= 1e9 else f'{number / 1e6:.0f} MB'


def cost(function):
    """Time and memory of a call, in words; a call that takes seconds is made once."""
    took = []
    needed = bytes_needed(lambda: took.append(seconds(function)))
    if took[0] < 2:
        took = timed(function, runs=3, patience=1)
    return f'{span(took[0])}, {size(needed)}'


def short(dtype):
    return str(dtype).removeprefix('torch.')


def autocast(dtype):
    """Mixed precision as in training, in this type; none for float32."""
    return torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32)
