"Shared by the benchmarks of training and embedding: device, clock, turns of variants, speed of a matrix product."

import time
from pathlib import Path

import torch
from closp_nb.models.inference import best_device

DEVICE = best_device()
GPU = DEVICE.type == 'cuda'


def wait():
    "Wait until the device is idle."
    if GPU:
        torch.cuda.synchronize()


def seconds(f, min_seconds):
    "Time one call, as the mean of calls that take at least so many seconds together."
    wait()
    n, start = 0, time.perf_counter()
    while not n or time.perf_counter() - start < min_seconds:
        f()
        wait()
        n += 1
    return (time.perf_counter() - start) / n


def in_turns(variants, rounds, min_seconds):
    "Time variants by name, the best of some rounds; all take turns, so that a busy minute slows all of them."
    for f in variants.values():
        f()
        f()  # the first calls set things up
    took = [{n: seconds(f, min_seconds) for n, f in variants.items()} for _ in range(rounds)]
    return {n: min(t[n] for t in took) for n in variants}


def matrix_peak(min_seconds=2.0, n=None):
    "Measure the floating-point operations per second of a large bfloat16 matrix product."
    n = n or (8192 if GPU else 2048)
    a = torch.randn(n, n, dtype=torch.bfloat16, device=DEVICE)
    return 2 * n**3 / min(seconds(lambda: a @ a, min_seconds / 4) for _ in range(4))


def knows_bf16():
    "Check whether the device multiplies in bfloat16."
    cpu = Path('/proc/cpuinfo')
    return (
        torch.cuda.is_bf16_supported()
        if GPU
        else cpu.exists() and any(f in cpu.read_text() for f in ('avx512_bf16', 'amx_bf16'))
    )


def told():
    "Describe the device."
    return (
        torch.cuda.get_device_name() if GPU else f'{torch.get_num_threads()} threads of the processor'
    ) + f", {'with' if knows_bf16() else 'without'} bfloat16"
