"""1,000 queries against 517,000 tiles at k = 1000: all measures of chapter 60, floors, intervals.

Search is by exact product, relevance is graded, from label sets. Arguments: queries, tiles, k.
"""

import resource
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import numpy as np
from scipy.sparse import csr_array
from closp_nb.evaluation.metrics import (
    Run,
    average_precision,
    bootstrap,
    exponential_gain,
    ndcg,
    precision,
    r_precision,
    random_average_precision,
    random_ndcg,
    random_precision,
    recall,
    reciprocal_rank,
)

Q, N, K = map(int, sys.argv[1:] or (1000, 517_000, 1000))
DIM, BLOCK, THREADS = 384, 64, 2
spent = Counter()  # seconds of all threads together


@contextmanager
def clock(name):
    start = time.perf_counter()
    yield
    spent[name] += time.perf_counter() - start


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def archive(rng):
    "Tiles and queries with labels, and vectors in which the labels can be seen through noise."
    has, words = rng.random((N, 12)) < np.geomspace(0.4, 0.01, 12), rng.standard_normal((12, DIM), dtype='float32')
    asked = np.zeros((Q, 12), bool)
    for row in asked:
        row[rng.choice(12, rng.integers(1, 4), replace=False)] = True
    tiles = np.empty((N, DIM), 'float32')
    for lo in range(0, N, 50_000):
        h = has[lo : lo + 50_000]
        tiles[lo : lo + 50_000] = unit(h @ words + 4 * rng.standard_normal((len(h), DIM), dtype='float32'))
    return (
        has.T.astype('float32'),
        tiles,
        asked,
        unit(asked @ words + rng.standard_normal((Q, DIM), dtype='float32')).astype('float32'),
    )


def measure(scores, rel, number):
    "All measures of some queries and their floors."
    out, right = {}, rel == number[:, None]
    with clock('gain'):
        gain = exponential_gain(rel)
    timed = {
        f'nDCG@{K}': lambda: ndcg(scores, gain, K),
        f'nDCG@{K}, linear': lambda: ndcg(scores, rel, K),
        f'P@{K}': lambda: precision(scores, right, K),
        f'R@{K}': lambda: recall(scores, right, K),
        'R-precision': lambda: r_precision(scores, right),
        'AP': lambda: average_precision(scores, right),
        'RR': lambda: reciprocal_rank(scores, right),
        'floors': lambda: np.stack([random_ndcg(gain, K), random_precision(right), random_average_precision(right)]),
    }
    for name, f in timed.items():
        with clock(name):
            out[name] = f()
    return out


def check(scores, rel, value):
    "Check that a run and sparse relevance give the same nDCG; return seconds per query."
    run, sparse = Run.of(scores, K), exponential_gain(csr_array(rel))
    start = time.perf_counter()
    off = np.abs(ndcg(run, sparse, K) - value).max()
    assert off < 1e-6, off
    return (time.perf_counter() - start) / len(scores)


if __name__ == '__main__':
    has, tiles, asked, queries = archive(np.random.default_rng(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    start, cpu, parts = time.perf_counter(), time.process_time(), []
    with ThreadPoolExecutor(THREADS) as pool:
        for lo in range(0, Q, BLOCK):
            with clock('product, all threads'):
                scores = queries[lo : lo + BLOCK] @ tiles.T
            with clock('relevance, all threads'):
                rel = (asked[lo : lo + BLOCK].astype('float32') @ has).astype('int8')
            halves = [
                (scores[i::THREADS], rel[i::THREADS], asked[lo : lo + BLOCK].sum(1)[i::THREADS])
                for i in range(THREADS)
                if i < len(scores)
            ]
            parts += pool.map(lambda x: measure(*x), halves)
    table = {m: np.concatenate([p[m].T for p in parts]) for m in parts[0]}
    intervals = {m: bootstrap(v) for m, v in table.items() if v.ndim == 1}
    seconds, cpu, peak = (
        time.perf_counter() - start,
        time.process_time() - cpu,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    )
    of_run = check(*halves[0][:2], parts[-len(halves)][f'nDCG@{K}'])
    search = spent['product, all threads']
    for name, s in spent.most_common():
        print(f'{s:8.2f} s  {name}')
    for m, v in intervals.items():
        print(f'{m:24s} {v[0]:.4f}  from {v[1]:.4f} to {v[2]:.4f}')
    print(
        f'{Q:,} queries, {N:,} tiles, {THREADS} threads: '
        f'{seconds:.1f} s with the product, {seconds - search:.1f} s without'
    )
    print(f'processor time of all threads: {cpu:.1f} s, at best half of it on two idle cores')
    print(f'nDCG@{K} of a run with sparse relevance, equal to 1e-6: {of_run * 1000:.2f} ms per query')
    print(f'memory: peak {peak:.2f} GB, of it {before:.2f} GB before the first query (vectors and labels)')
    print(f'bench_metrics ratio={60 / seconds:.1f} goal=1')
