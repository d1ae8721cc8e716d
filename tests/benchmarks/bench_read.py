"""Pixels of a corpus in random order, batches of 64.

The file opened for every tile and image, coords and attributes read (as the official loader does) against
`read_pixels`, which keeps the shards open, reads the image alone and checks it. Twice: a corpus that names only the
tiles that are read, and one that names as many as the real one, because that is what HDF5 looks through whenever it
opens a file. The last line is about the second.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import h5py
import numpy as np
from closp_nb.data import hdf5 as T
from closp_nb.sensors import S1, S2, Tile
from closp_nb.data.hdf5 import close_corpora, read_array, tile_at
from closp_nb.data.hdf5 import read_pixels, write_corpus

# tiles of CrisisLandMark, which the main file names; and how many a shard names, a low guess: not known here
LINKS, NAMES = (
    650_000,
    100_000,
)


def tiles(n):
    "Noise with the statistics of each sensor, in turn."
    rng = np.random.default_rng(0)
    for i in range(n):
        s, name = ((S1, 'benv2s1'), (S2, 'benv2s2'))[i % 2]
        x = s.mean[:, None, None] + 0.3 * s.std[:, None, None] * rng.standard_normal((len(s.bands), 120, 120))
        yield Tile(
            f'{name}_{i:05d}',
            s,
            np.clip(x, *s.plausible),
            ('Pastures',),
            (9.0, 48.0),
            '2021-07-01',
            '',
            'EPSG:32632',
            (677_000, 5_310_000, 678_200, 5_311_200),
        )


def more_names(folder, links, names):
    "Names as long as BigEarthNet's, which all stand for a shard's first tile."
    close_corpora()
    with h5py.File(folder / 'crisislandmark.h5', 'a') as main:
        for j, shard in enumerate(('benv2s1_part1', 'benv2s2_part1')):
            text = f'{shard[:7]}_S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_%06d'
            with h5py.File(folder / f'{shard}.h5', 'a') as f:
                first = f[next(iter(f))].name.encode()
                for i in range(names):
                    f.id.links.create_hard((text % i).encode(), f.id, first)
            for i in range(links // 2):
                main.id.links.create_external((text % i).encode(), f'{shard}.h5'.encode(), f'/{text % i}'.encode())


# ---- ways to read, from the official one to ours


def opened_each_time(path, k):
    with h5py.File(path, 'r') as f:
        g = f[k]
        return g['image'][:], g['coords'][:], dict(g.attrs)


def opened_for_the_image(path, k):
    with h5py.File(path, 'r') as f:
        return f[k]['image'][:]


def main_stays_open(path, k):
    return T.open_h5(path)[k]['image'][:]


def shards_stay_open(path, k):
    return read_array(path, k, 'image')


def undecoded(path, k):
    with tile_at(path, k) as (f, name):
        return h5py.h5d.open(f.id, name + b'/image').read_direct_chunk((0, 0, 0))


def checked_with_care(path, k):
    quick, T._ordinary = T._ordinary, lambda x, s: False
    try:
        return read_pixels(path, k)
    finally:
        T._ordinary = quick


def seconds(read, path, keys):
    "Per tile, in batches of 64."
    start = time.perf_counter()
    held = [read(path, k) for k in keys[:64]]  # a batch is held, as training holds it
    for b in range(64, len(keys), 64):
        held = [read(path, k) for k in keys[b : b + 64]]
    took = (time.perf_counter() - start) / len(keys)
    del held
    close_corpora()  # what one way left open would make the next one's opening cheap
    return took


def compare(path, keys, ways, rounds):
    "Best seconds per tile of each way; all take turns, so that a busy minute is everybody's."
    took = [[seconds(f, path, keys) for f in ways] for _ in range(rounds)]
    return dict(zip(ways, np.min(took, axis=0)))


def resident():
    "Megabytes of memory that this process holds; NaN where the system does not tell."
    f = Path('/proc/self/status')
    return (
        next(int(x.split()[1]) / 1000 for x in f.read_text().splitlines() if x.startswith('VmRSS'))
        if f.exists()
        else np.nan
    )


def measure(n=1024, rounds=3, links=LINKS, names=NAMES):
    "Prints what was measured; returns (ratio with few names, ratio with many, megabytes of growth)."
    d = Path(tempfile.mkdtemp())
    try:
        path = write_corpus(d / 'corpus', tiles(n)) / 'crisislandmark.h5'
        with h5py.File(path) as f:
            keys = list(np.random.default_rng(1).permutation(list(f)))
        size = sum(f.stat().st_size for f in path.parent.glob('*.h5')) / n / 1000
        ways = [
            opened_each_time,
            opened_for_the_image,
            main_stays_open,
            shards_stay_open,
            undecoded,
            checked_with_care,
            read_pixels,
        ]
        t = compare(path, keys, ways, rounds)
        small = t[opened_each_time] / t[read_pixels]
        print(
            f'{n} tiles of {size:.0f} kB, and as many names; microseconds a tile: '
            + ', '.join(f'{f.__name__} {1e6 * t[f]:.0f}' for f in ways)
        )
        print(
            f'the floor is unpacking (Blosc, lz4 and bitshuffle): '
            f'{1e6 * (t[shards_stay_open] - t[undecoded]):.0f} of the {1e6 * t[read_pixels]:.0f}; '
            f'checking takes {1e6 * (t[read_pixels] - t[shards_stay_open]):.0f}, '
            f'with care it took {1e6 * (t[checked_with_care] - t[shards_stay_open]):.0f}; '
            f'with few names the ratio is {small:.1f}'
        )
        more_names(path.parent, links, names)
        t = compare(path, keys, [opened_each_time, read_pixels], rounds)
        print(
            f'{links} names in the main file, {names} in each shard: '
            f'opened each time {1 / t[opened_each_time]:.0f} tiles/s, read_pixels {1 / t[read_pixels]:.0f} tiles/s'
        )
        seconds(read_pixels, path, keys)
        before = resident()
        for _ in range(3):
            seconds(read_pixels, path, keys)
        grown = resident() - before
        print(
            f'memory: {grown:+.1f} MB after {3 * n} tiles more, '
            f'which hold {3 * n * 0.4032:.0f} MB (a batch of 64 holds 26)'
        )
        return small, t[opened_each_time] / t[read_pixels], grown
    finally:
        close_corpora()
        shutil.rmtree(d)


if __name__ == '__main__':
    print(
        f'bench_read ratio={measure(*map(int, sys.argv[1:]))[1]:.1f} goal=5'
    )  # arguments: tiles, rounds, links, names
