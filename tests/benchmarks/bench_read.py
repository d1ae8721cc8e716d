"Pixels of a corpus in random order, batches of 64: the file opened for every tile (as the official loader does) against one handle and the image alone."
import shutil, sys, tempfile, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import h5py
import numpy as np
from closp_nb.core import S1, S2, Tile
from closp_nb.tiles import close_corpora, read_pixels, write_corpus

def tiles(n):
    "Noise with the statistics of each sensor, in turn."
    rng = np.random.default_rng(0)
    for i in range(n):
        s, name = ((S1, 'benv2s1'), (S2, 'benv2s2'))[i % 2]
        x = s.mean[:, None, None] + .3*s.std[:, None, None]*rng.standard_normal((len(s.bands), 120, 120))
        yield Tile(f'{name}_{i:05d}', s, np.clip(x, *s.plausible), ('Pastures',), (9., 48.), '2021-07-01', '', 'EPSG:32632', (677_000, 5_310_000, 678_200, 5_311_200))

def opened_each_time(path, keys):
    for k in keys:
        with h5py.File(path, 'r') as f: g = f[k]; yield g['image'][:], g['coords'][:], dict(g.attrs)

def rate(read, path, keys):
    "Tiles per second, in batches of 64."
    start = time.perf_counter()
    items = list(read(path, keys[:64]))                        # a batch is held, as training holds it
    for b in range(64, len(keys), 64): items = list(read(path, keys[b:b+64]))
    return len(keys)/(time.perf_counter()-start)

def measure(n=1024, rounds=3):
    d = Path(tempfile.mkdtemp())
    try:
        path = write_corpus(d/'corpus', tiles(n))/'crisislandmark.h5'
        keys = list(np.random.default_rng(1).permutation([t for t in h5py.File(path)]))
        ours = lambda p, ks: (read_pixels(p, k) for k in ks)
        a, b = (max(rate(f, path, keys) for _ in range(rounds)) for f in (opened_each_time, ours))
        start = time.perf_counter()
        size = sum(len(f.read_bytes()) for f in path.parent.glob('*.h5'))
        disk = size/(time.perf_counter()-start)
        print(f'{n} tiles, {size/n/1000:.0f} kB each: opened each time {a:.0f} tiles/s, one handle {b:.0f} tiles/s; files straight through {disk/1e6:.0f} MB/s (cached), {disk/(size/n):.0f} tiles/s')
        return b/a
    finally:
        close_corpora()
        shutil.rmtree(d)

if __name__ == '__main__': print(f'bench_read ratio={measure():.1f} goal=5')
