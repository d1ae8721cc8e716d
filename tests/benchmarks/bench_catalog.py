"""A catalog of 650,000 rows with all columns, loaded in a fresh process: seconds and memory.

Imports are included in the memory and told apart in the seconds.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

LOAD = '''
import json, resource, sys, time
start = time.perf_counter()
from closp_nb.data.catalog import Catalog
imported = time.perf_counter()
cat = Catalog.load(sys.argv[1])
loaded = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(1000 if sys.platform == 'linux' else 1e6)
took = dict(imports=imported-start, load=loaded-imported)
def timed(name, f):
    start = time.perf_counter()
    out = f()
    took[name] = time.perf_counter()-start
    return out
part = timed('where', lambda: cat.where(sensor='s1', split='train'))
rows = timed('groupby', lambda: cat.table.groupby(['source', 'sensor', 'split'], observed=True).size())
timed('frame', lambda: cat.frame.geometry.iloc[0])
whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(1000 if sys.platform == 'linux' else 1e6)
timed('save', lambda: cat.save(sys.argv[2]))
later = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(1000 if sys.platform == 'linux' else 1e6)
counts = dict(n=len(cat), part=len(part), rows=int(rows.sum()))
print(json.dumps(dict(took=took, peak=peak, whole=whole, later=later) | counts))
'''


def make(path, n):
    "A catalog with ids as long as BigEarthNet's, places over Europe, 5,000 different label lists."
    import geopandas as gpd
    import numpy as np
    import pandas as pd
    import shapely
    from closp_nb.data.catalog import Catalog
    from closp_nb.labels import CORINE, caption, harmonize

    rng = np.random.default_rng(0)
    words = [list(rng.choice(list(CORINE), rng.integers(1, 6), replace=False)) for _ in range(5_000)]
    names = [list(harmonize(w)) for w in words]
    kind, s1 = rng.integers(0, 5_000, n), rng.random(n) < 0.5
    lon, lat = rng.uniform(-10, 30, n), rng.uniform(36, 68, n)
    ids = (
        np.where(s1, 'benv2s1_', 'benv2s2_').astype(object)
        + pd.Series(np.arange(n)).map('S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{:06d}'.format).to_numpy()
    )
    frame = gpd.GeoDataFrame(
        dict(
            id=ids,
            sensor=np.where(s1, 's1', 's2'),
            path='corpus/crisislandmark.h5',
            key=ids,
            source=np.where(s1, 'benv2s1', 'benv2s2'),
            split=np.where(rng.random(n) < 0.2, 'train', 'gallery'),
            lon=lon,
            lat=lat,
            time=pd.Series(pd.Timestamp('2017-06-01') + pd.to_timedelta(rng.integers(0, 30_000_000, n), 's')).map(
                lambda t: t.isoformat()
            ),
            raw_labels=[words[k] for k in kind],
            labels=[names[k] for k in kind],
            caption=[caption(tuple(names[k])) for k in kind],
            event=[f'S2A_MSIL2A_20170613T101031_{e:05d}' for e in rng.integers(0, 3_000, n)],
            notes=[['divided by 10000'] if o else ['linear power turned into dB'] for o in s1],
            cloud=np.nan,
            gaps=0.0,
            hash=[f'{h:016x}' for h in rng.integers(0, 2**63, n)],
        ),
        geometry=shapely.box(lon, lat, lon + 0.015, lat + 0.011),
        crs='EPSG:4326',
    )
    Catalog(frame).save(path)


def measure(n=650_000, rounds=3):
    "Prints what was measured; returns (best seconds to load, peak megabytes)."
    with tempfile.TemporaryDirectory() as d:
        path = Path(d) / 'catalog.parquet'
        subprocess.run(
            [sys.executable, __file__, 'make', str(path), str(n)], check=True
        )  # in a process of its own, so that its memory is not counted
        runs = [
            json.loads(
                subprocess.run(
                    [sys.executable, '-c', LOAD, str(path), f'{d}/{r}.parquet'],
                    check=True,
                    capture_output=True,
                    text=True,
                    cwd=ROOT,
                ).stdout
            )
            for r in range(rounds)
        ]
        best = min(runs, key=lambda r: r['took']['load'])
        assert best['n'] == best['rows'] == n and 0 < best['part'] < n
        print(
            f'{n} rows, {path.stat().st_size / 1e6:.0f} MB: '
            + ', '.join(f'{k} {v:.2f} s' for k, v in best['took'].items())
        )
        print(
            f"memory at its highest: {best['peak']:.0f} MB when loaded, imports included (1,000 allowed); "
            f"{best['whole']:.0f} MB with all shapes unpacked; {best['later']:.0f} MB after saving"
        )
        return best['took']['load'], best['peak']


if __name__ == '__main__':
    if sys.argv[1:2] == ['make']:
        make(sys.argv[2], int(sys.argv[3]))
    else:
        print(f'bench_catalog ratio={3 / measure(*map(int, sys.argv[1:]))[0]:.1f} goal=1')  # arguments: rows, rounds
