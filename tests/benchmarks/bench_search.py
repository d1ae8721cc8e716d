"""One query to 647,000 vectors of 384 numbers (a mixture of 2,000 centres), the best 1,000:
the three stores of an index against faiss's flat one, in turns. Then a query from words to rows of the catalog,
and how time, memory and disk grow. `--out DIR` also writes search_stores.csv and search_growth.csv."""

import argparse
import csv
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import faiss
import numpy as np
from numpy.lib.format import open_memmap
from closp_nb.search.stores import STORES, probe_vectors, ann_recall

DIM, BLOCK = 384, 2**15


def mixture(path, n, centres=2000, seed=0):
    "Unit vectors around some centres, written block by block and mapped."
    rng = np.random.default_rng(seed)
    c = rng.standard_normal((centres, DIM), 'float32')
    c /= np.linalg.norm(c, axis=1, keepdims=True)
    z = open_memmap(path, 'w+', 'float32', (n, DIM))
    for i in range(0, n, BLOCK):
        m = min(BLOCK, n - i)
        x = c[rng.integers(centres, size=m)] + 0.03 * rng.standard_normal((m, DIM), 'float32')
        z[i : i + m] = x / np.linalg.norm(x, axis=1, keepdims=True)
    z.flush()
    return np.load(path, mmap_mode='r')


def in_turns(ways, questions, rounds):
    "Name -> seconds for a question, the best round's mean; all take turns."
    for f in ways.values():
        f(questions[0])
    took = {n: [] for n in ways}
    for _ in range(rounds):
        for n, f in ways.items():
            start = time.perf_counter()
            for q in questions:
                f(q)
            took[n].append((time.perf_counter() - start) / len(questions))
    return {n: min(t) for n, t in took.items()}


def bandwidth(z):
    "Bytes per second when all threads add up what is in memory."
    x = np.ascontiguousarray(z).view('int64').ravel()
    m = faiss.omp_get_max_threads()
    parts = np.array_split(x, m)
    with ThreadPoolExecutor(m) as pool:

        def once():
            start = time.perf_counter()
            list(pool.map(np.add.reduce, parts))
            return x.nbytes / (time.perf_counter() - start)

        return max(once() for _ in range(5))


def peak_MB():
    "Highest memory of this process, mapped files that were read included."
    status = Path('/proc/self/status')  # what getrusage says on Linux begins with the parent's
    if status.exists():
        return int(re.search(r'VmHWM:\s+(\d+)', status.read_text())[1]) / 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def size(folder):
    return sum(f.stat().st_size for f in Path(folder).iterdir())


def alone(n, rounds, work):
    "The search alone; returns (ratio, rows for a table)."
    z = np.array(mixture(work / 'z.npy', n))
    questions, k, few = probe_vectors(z, 20), min(1000, n), min(20, n)
    flat = faiss.IndexFlatIP(DIM)
    flat.add(z)
    stores = {name: c.build(z) for name, c in STORES.items()}
    ways = {'faiss flat': lambda q: flat.search(q[None], k)} | {
        f'{name}, {m}': lambda q, s=s, m=m: s.search(q, m) for name, s in stores.items() for m in (k, few)
    }
    took, read = in_turns(ways, questions, rounds), bandwidth(z)
    found = {(name, m): ann_recall(s, z, probe_vectors(z, 100, 1), m) for name, s in stores.items() for m in (k, few)}
    print(
        f'{n:,} x {DIM}, {faiss.omp_get_max_threads()} threads, memory is read at {read / 1e9:.1f} GB/s\n'
        f'{"faiss flat":10s} best {k}: {took["faiss flat"] * 1e3:7.2f} ms',
        flush=True,
    )
    rows = [dict(store='faiss flat', tiles=n, best=k, ms=took['faiss flat'] * 1e3, recall=1.0, bytes_a_tile=4 * DIM)]
    for name, s in stores.items():
        (folder := work / name).mkdir()
        s.write(folder)
        for m in (k, few):
            rows.append(
                dict(
                    store=name,
                    tiles=n,
                    best=m,
                    ms=took[f'{name}, {m}'] * 1e3,
                    recall=found[name, m],
                    bytes_a_tile=size(folder) / n,
                )
            )
            row, speed = rows[-1], n * DIM / took[f'{name}, {m}'] / read
            print(
                f'{name:10s} best {m:4d}: {row["ms"]:7.2f} ms, recall {row["recall"]:.4f}, '
                f'{row["bytes_a_tile"]:.0f} bytes a tile'
                + ('' if name == 'large' else f', codes read at {speed:.0%} of that speed'),
                flush=True,
            )
    return took['faiss flat'] / took[f'exact, {k}'], rows


def from_words(n, rounds, work, text='minilm'):
    "Words to rows of a catalog."
    import bench_catalog
    from closp_nb.models.config import CLOSP_NB
    from closp_nb.models.closp import new_model
    from closp_nb.data.catalog import Catalog
    from closp_nb.search.index import Index
    from closp_nb.search.searcher import Searcher

    bench_catalog.make(work / 'catalog.parquet', n)
    cat, model, z = (
        Catalog.load(work / 'catalog.parquet'),
        new_model(CLOSP_NB.change(text_encoder=text)).eval(),
        np.load(work / 'z.npy', mmap_mode='r'),
    )
    ask = Searcher(Index.build(model, cat, z), model)
    said = [
        f'{a} {b} {c}'
        for a in ('flooded', 'burned', 'bare')
        for b in ('crops', 'forest')
        for c in ('near water', 'by a village', 'in the hills')
    ]

    def fresh(f):
        "Each sentence is asked once: the reader remembers what it has read."

        def g(t):
            getattr(ask.model.text_encoder, 'read', {}).clear()
            return f(t)

        return g

    encode = in_turns({'': fresh(ask.text_vector)}, said, rounds)['']
    whole = in_turns({'': fresh(lambda t: ask.search_text(t, min(1000, n)))}, said, rounds)['']
    filtered = in_turns(
        {'': fresh(lambda t: ask.search_text(t, min(1000, n), sensor='s1', bbox=(0, 40, 10, 50)))}, said, rounds
    )['']
    few = ask.search_text(said[0], 20, bbox=(5, 45, 5.3, 45.3))
    rare = in_turns({'': fresh(lambda t: ask.search_text(t, 20, bbox=(5, 45, 5.3, 45.3)))}, said, rounds)['']
    assert len(ask.search_text(said[0], min(1000, n))) == min(1000, n)
    print(
        f'words to {min(1000, n)} rows of a catalog: {whole * 1e3:.1f} ms, of it {encode * 1e3:.1f} for the sentence; '
        f'with sensor and box {filtered * 1e3:.1f} ms; '
        f'with a box that {len(few)} or more of {n:,} tiles pass {rare * 1e3:.1f} ms',
        flush=True,
    )


def grow(n, name, work):
    "In a process of its own: build, write, open and ask; prints JSON."
    folder = Path(work) / f'{name}-{n}'
    if not folder.exists():
        z = np.load(Path(work) / f'z{n}.npy', mmap_mode='r')
        if name != 'compact':
            z = np.array(z)
        start = time.perf_counter()
        s = STORES[name].build(z)
        folder.mkdir()
        s.write(folder)
        print(json.dumps(dict(build_s=time.perf_counter() - start, build_MB=peak_MB(), GB=size(folder) / 1e9)))
        return
    start = time.perf_counter()
    s = STORES[name].open(folder)
    opened = time.perf_counter() - start
    questions = np.load(Path(work) / f'q{n}.npy')
    took = in_turns({k: lambda q, k=k: s.search(q, k) for k in (1000, 20)}, questions, 3)
    print(
        json.dumps(dict(open_ms=opened * 1e3, best1000_ms=took[1000] * 1e3, best20_ms=took[20] * 1e3, ask_MB=peak_MB()))
    )


def growth(sizes, work):
    "Rows for a table: store, tiles, and what it takes."
    out = []
    for n, names in sizes.items():
        z = mixture(work / f'z{n}.npy', n)
        np.save(work / f'q{n}.npy', probe_vectors(z, 20))
        for name in names:
            command = [sys.executable, __file__, '--grow', str(n), name, str(work)]
            made, asked = (
                json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(2)
            )
            out.append(dict(store=name, tiles=n) | made | asked)
            print(
                ', '.join(f'{k} {v:,.4g}' if isinstance(v, float) else f'{k} {v}' for k, v in out[-1].items()),
                flush=True,
            )
        del z
        (work / f'z{n}.npy').unlink()
    return out


def write(path, rows):
    with open(path, 'w', newline='') as f:
        w = csv.DictWriter(f, list(rows[0]))
        w.writeheader()
        w.writerows([{k: f'{v:.4g}' if isinstance(v, float) else v for k, v in r.items()} for r in rows])


if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--tiles', type=int, default=647_000)
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--sizes', default='10000,100000,647000', help='of the growth table, all stores')
    p.add_argument('--largest', type=int, default=5_000_000, help='of the growth table, compact only; 0: none')
    p.add_argument('--text', default='minilm')
    p.add_argument('--out')
    p.add_argument('--grow', nargs=3)
    a = p.parse_args()
    if a.grow:
        sys.exit(grow(int(a.grow[0]), *a.grow[1:]))
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    with tempfile.TemporaryDirectory() as d:
        work = Path(d)
        ratio, rows = alone(a.tiles, a.rounds, work)
        from_words(a.tiles, a.rounds, work, a.text)
        for f in work.iterdir():
            if f.is_file():
                f.unlink()
        sizes = {int(n): list(STORES) for n in a.sizes.split(',') if n} | (
            {a.largest: ['compact']} if a.largest else {}
        )
        grown = growth(sizes, work)
        if a.out:
            write(Path(a.out) / 'search_stores.csv', rows)
            write(Path(a.out) / 'search_growth.csv', grown)
    print(f'bench_search ratio={ratio:.1f} goal=5')
