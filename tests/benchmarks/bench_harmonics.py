"""Spherical harmonics, 10,000 places, degree 40, double precision.

One term at a time (as the closed form of SatCLIP does) against one climb for all.
"""

import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch
from closp_nb.models.geoclosp import spherical_harmonics


def term(degree, m, phi, theta):
    "One harmonic: the Legendre recurrence from the bottom, normalised at the end."
    x, s, a = theta.cos(), theta.sin(), abs(m)
    p, before = torch.ones_like(x), torch.zeros_like(x)
    for i in range(1, a + 1):
        p = p * (2 * i - 1) * s
    for k in range(a + 1, degree + 1):
        before, p = p, ((2 * k - 1) * x * p - (k + a - 1) * before) / (k - a)
    norm = math.sqrt((2 * degree + 1) / (4 * math.pi) * math.factorial(degree - a) / math.factorial(degree + a))
    return norm * p * (1 if m == 0 else 2**0.5 * ((a * phi).sin() if m < 0 else (a * phi).cos()))


def term_by_term(lonlat, degree):
    phi, theta = torch.deg2rad(lonlat + torch.tensor([180.0, 90.0])).T
    return torch.stack([term(n, m, phi, theta) for n in range(degree) for m in range(-n, n + 1)], 1)


def fastest(f, x, degree, n):
    def once():
        start = time.perf_counter()
        f(x, degree)
        return time.perf_counter() - start

    return min(once() for _ in range(n))


if __name__ == '__main__':
    torch.set_num_threads(1)  # a second thread helps the climb only, and makes timings on a busy machine worthless
    x = torch.rand(10_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [360.0, 180.0]
    ) - torch.tensor([180.0, 90.0])
    off = (spherical_harmonics(x, 40) - term_by_term(x, 40)).abs().max().item()
    assert off < 1e-10, off
    slow, fast = fastest(term_by_term, x, 40, 3), fastest(spherical_harmonics, x, 40, 15)
    print(f'term by term {slow:.3f} s, one climb {fast:.3f} s, largest difference {off:.1e}, one thread')
    print(f'bench_harmonics ratio={slow / fast:.1f} goal=20')
