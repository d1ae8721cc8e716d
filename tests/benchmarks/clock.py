"What the benchmarks of training and embedding share: the device, a clock that waits for it, turns that variants take, and how fast it multiplies matrices."

import time
from pathlib import Path

import torch
from closp_nb.models.inference import best_device

DEVICE = best_device()
GPU = DEVICE.type == 'cuda'


def wait():
    "Until the device has done what it was told."
    if GPU:
        torch.cuda.synchronize()


def seconds(f, least):
    "Of one call, over calls that take at least so many seconds together."
    wait()
    n, start = 0, time.perf_counter()
    while not n or time.perf_counter() - start < least:
        f()
        wait()
        n += 1
    return (time.perf_counter() - start) / n


def in_turns(variants, rounds, least):
    "Name -> seconds of one call, the best of some rounds; all take turns, so that a busy minute is everybody's."
    for f in variants.values():
        f()
        f()  # the first calls set things up
    took = [{n: seconds(f, least) for n, f in variants.items()} for _ in range(rounds)]
    return {n: min(t[n] for t in took) for n in variants}


def matrix_peak(least=2.0, n=None):
    "Floating-point operations per second of a large bfloat16 matrix product."
    n = n or (8192 if GPU else 2048)
    a = torch.randn(n, n, dtype=torch.bfloat16, device=DEVICE)
    return 2 * n**3 / min(seconds(lambda: a @ a, least / 4) for _ in range(4))


def knows_bf16():
    "Does the device multiply in bfloat16?"
    cpu = Path('/proc/cpuinfo')
    return (
        torch.cuda.is_bf16_supported()
        if GPU
        else cpu.exists() and any(f in cpu.read_text() for f in ('avx512_bf16', 'amx_bf16'))
    )


def told():
    "The device, in words."
    return (
        torch.cuda.get_device_name() if GPU else f'{torch.get_num_threads()} threads of the processor'
    ) + f", {'with' if knows_bf16() else 'without'} bfloat16"
