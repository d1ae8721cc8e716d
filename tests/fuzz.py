"""Damage small files at random, or craft some that say what cannot be (NAME_types), and read them.

A reader may answer or refuse with one of our errors, nothing else, and it may not fall over.

python tests/fuzz.py SECONDS [READER ...]     # seconds for each reader; ends with what was found
"""

import hashlib
import json
import multiprocessing as mp
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from closp_nb.core import ClospError  # noqa: E402, this checkout comes first
from closp_nb.data.archives import archive, read_item  # noqa: E402
from closp_nb.data.catalog import Catalog, corpus_catalog  # noqa: E402
from closp_nb.data.hdf5 import close_corpora  # noqa: E402
from closp_nb.data.products import find_scenes  # noqa: E402
from closp_nb.data.queries import make_queries, read_qrels, read_queries, write_queries  # noqa: E402
from closp_nb.data.products import read_geotiff  # noqa: E402
from closp_nb.data.scenes import scene_tiles  # noqa: E402
from closp_nb.explorer.workspace import read_visit  # noqa: E402
from closp_nb.models.closp import new_model  # noqa: E402
from closp_nb.models.config import CLOSP_NB  # noqa: E402
from closp_nb.models.folder import load_model, save_model  # noqa: E402
from closp_nb.search.hits import Hits  # noqa: E402
from closp_nb.search.index import Index  # noqa: E402
from closp_nb.synthetic.archives import ARCHIVE_WRITERS  # noqa: E402
from closp_nb.synthetic.products import write_safe, write_sar_pair, write_stac  # noqa: E402
from closp_nb.synthetic.world import build_world  # noqa: E402

PATIENCE = 30  # seconds that one trial may take


def damage(raw, r):
    "Bytes with something wrong: flipped, cut, doubled, zeroed, or a number made huge."
    b = bytearray(raw)
    for _ in range(r.integers(1, 4)):
        if not b:
            break
        at, n = int(r.integers(len(b))), int(min(r.integers(1, 64), len(b)))
        match r.integers(6):
            case 0:
                b[at] ^= 1 << int(r.integers(8))
            case 1:
                del b[at:]
            case 2:
                b[at : at + n] = bytes(n)
            case 3:
                b[at : at + n] = r.bytes(n)
            case 4:
                b[at:at] = b[at : at + n]
            case 5:
                b[at : at + 4] = b'\xff\xff\xff\x7f'
    return bytes(b)


ODD = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    10**12,
    2**63,
    -0.5,
    float('nan'),
    float('inf'),
    '',
    'a',
    '../x',
    '\x1b[2J',
    [],
    ['a'],
    {},
)


def other_json(d, r):
    "Put something else in one place of JSON, at any depth."
    if isinstance(d, dict) and d and r.random() < 0.8:
        k = list(d)[int(r.integers(len(d)))]
        return d | {k: other_json(d[k], r)}
    if isinstance(d, list) and d and r.random() < 0.8:
        i = int(r.integers(len(d)))
        return [*d[:i], other_json(d[i], r), *d[i + 1 :]]
    return ODD[int(r.integers(len(ODD)))]


def other_array(x, r):
    "An array of another type, shape or content."
    x = np.array(x)
    match r.integers(5):
        case 0:
            return x.astype(['f8', 'i4', 'S4', 'U2', 'c8', '?', 'f2'][int(r.integers(7))])
        case 1:
            return x.reshape(-1)[: int(r.integers(x.size + 1))]
        case 2:
            return x[None]
        case 3:
            return np.zeros((int(r.integers(1, 4)),) * int(r.integers(4)), x.dtype)
    if not x.size:
        return x
    flat = x.reshape(-1).copy()
    flat[int(r.integers(flat.size))] = [np.nan, -1, 2**30, 0][int(r.integers(4))] if x.dtype.kind == 'f' else -1
    return flat.reshape(x.shape)


def other_table(t, r):
    "A table that lacks a column or has one of another type."
    import pyarrow as pa

    i, n = int(r.integers(t.num_columns)), len(t)
    if r.random() < 0.3:
        return t.remove_column(i)
    value = [None, 'a', 's1', 5, -1.0, 1e30, [], ['a'], [5], b'\xff', True, 'x' * 10_000][int(r.integers(12))]
    return t.set_column(i, t.column_names[i], pa.array([value] * n))


def craft(folder, r):
    "Change what one file of an index or model folder says, and make its sums right again."
    import pyarrow.parquet as pq

    from closp_nb.models.folder import _hash

    files = [p for p in sorted(folder.iterdir()) if p.suffix in ('.json', '.npy', '.npz', '.parquet')]
    p = files[int(r.integers(len(files)))]
    if p.suffix == '.json':
        d = other_json(json.loads(p.read_text()), r)
        if p.name == 'model.json' and isinstance(d, dict):
            from safetensors.torch import load_file

            plain = {k: v for k, v in d.items() if k != 'fingerprint'}
            d = plain | dict(fingerprint=_hash(plain, load_file(folder / 'weights.safetensors')))
        p.write_text(json.dumps(d))
        return p.name
    if p.suffix == '.npy':
        np.save(p, other_array(np.load(p), r))
    elif p.suffix == '.npz':
        arrays = dict(np.load(p))
        k = list(arrays)[int(r.integers(len(arrays)))]
        np.savez(p, **arrays | {k: other_array(arrays[k], r)})
    else:
        pq.write_table(other_table(pq.read_table(p), r), p)
    told = json.loads((folder / 'index.json').read_text())
    raw = p.read_bytes()
    told['files'][p.name] = dict(bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())
    (folder / 'index.json').write_text(json.dumps(told))
    return p.name


def all_rows(cat):
    for i in range(min(3, len(cat))):
        cat[i]
    return len(cat)


def corpus(p):
    close_corpora()
    return all_rows(corpus_catalog(p, progress=False))


def search(p):
    index = Index.load(p)
    index.search(np.eye(1, index.about['dim'], dtype='f4'), 3)
    return index.cat.table.id.iloc[0]


def use(p):
    "Everything that a search does with an index."
    from closp_nb.search.filters import filter_mask

    index = Index.load(p)
    s, rows = index.search(np.eye(1, index.dim, dtype='f4'), 3)
    for where in (dict(bbox=(-10, 40, 10, 50)), dict(since='2020-01-01'), dict(label='water'), dict(sensor='s1')):
        filter_mask(index.cat, **where)
    hits = Hits(index.cat.take(rows[0]).frame.assign(rank=1, score=s[0]), 'x')
    hits.table().to_string()
    for end in ('csv', 'geojson', 'gpkg', 'parquet'):
        hits.save(p.parent / f'hits.{end}', overwrite=True)
    return [index.cat[int(i)] for i in rows[0]]


def items(key):
    "All items of an archive."
    a = archive(key)
    return lambda p: [read_item(a, p, item) for item in sorted(a.find(p))[:4]]


def scenes(p):
    "Scenes of a folder, cut."
    return [list(scene_tiles(s, corners=[(0, 0)])) for s in find_scenes(p).scenes]


def prepare(d):
    "Small sound files, and who reads them: name -> (file or folder, reader)."
    cat = build_world(d / 'world', 24, train_frac=0.5, geotiffs=2, progress=False)
    model = new_model(CLOSP_NB.change(text_encoder='tiny')).eval()
    save_model(model, d / 'model')
    Index.build(model, cat, model_folder=d / 'model', progress=False).save(d / 'index')
    cat.save(d / 'catalog.parquet', overwrite=True)
    write_queries(d / 'queries', make_queries(cat), cat)
    side = dict(question=dict(text='water', bbox=[0, 0, 1, 1], k=5), marks={'a': True})
    (d / 'visit.json').write_text(json.dumps(dict(model='x', sides=[side])))
    write_safe(d / 'scenes', size=120)
    write_sar_pair(d / 'scenes', size=120)
    write_stac(d / 'scenes' / 'stac', size=120)
    tif = next(p for p in d.rglob('*.tif'))
    shutil.copy(tif, d / 'tile.tif')
    jobs = dict(
        geotiff=(d / 'tile.tif', read_geotiff),
        corpus=(d / 'world', corpus),
        catalog=(d / 'catalog.parquet', lambda p: all_rows(Catalog.load(p))),
        index=(d / 'index', search),
        model=(d / 'model', load_model),
        index_types=(d / 'index', use),
        model_types=(d / 'model', load_model),
        visit=(d / 'visit.json', lambda p: read_visit(p.read_bytes())),
        scenes=(d / 'scenes', scenes),
        queries=(next((d / 'queries').glob('*.jsonl')), read_queries),
        qrels=(next(p for p in (d / 'queries').rglob('*') if 'qrels' in p.as_posix() and p.is_file()), read_qrels),
    )
    for key, write in ARCHIVE_WRITERS.items():
        if key == 'bigearthnet-lmdb':
            continue  # a memory map of a damaged database is LMDB's own affair
        write(d / key)
        jobs[key] = (d / key, items(key))
    return jobs


def work(job, folder, seed, stop, said, crafted=False):
    "Damage and read until the time is up; each trial is told before it is made."
    warnings.simplefilter('ignore')
    sound, read = job
    r, n = np.random.default_rng(seed), 0
    files = [p for p in sorted(sound.rglob('*')) if p.is_file()] if sound.is_dir() else [sound]
    while time.time() < stop:
        n += 1
        bad = folder / sound.name
        if sound.is_dir():
            if not bad.exists():
                shutil.copytree(sound, bad)
        pick = files[int(r.integers(len(files)))]
        target = bad / pick.relative_to(sound) if sound.is_dir() else bad
        (folder / 'trial').write_text(f'{seed} {n} {pick.name}')
        if crafted:
            (folder / 'trial').write_text(f'{seed} {n} {craft(bad, r)}')
        else:
            target.write_bytes(damage(pick.read_bytes(), r))
        try:
            read(bad)
        except ClospError:
            pass
        except Exception as e:
            where = traceback.extract_tb(e.__traceback__)
            ours = [f for f in where if 'closp_nb/' in f.filename.replace(os.sep, '/')][-1:]
            line = f'{ours[0].name} line {ours[0].lineno}' if ours else '? line 0'
            what = f'{type(e).__name__} in {line} after {where[-1].name}: {str(e)[:120]}'
            said.append((what, f'seed {(folder / "trial").read_text()}'))
        if crafted:
            shutil.rmtree(bad)
        elif sound.is_dir():
            target.write_bytes(pick.read_bytes())
    said.append(('trials', n))


def attack(name, job, seconds):
    "All trials of one reader, in processes that may fall over."
    found, trials, seed, stop = {}, 0, 0, time.time() + seconds
    with mp.Manager() as m, tempfile.TemporaryDirectory() as d:
        while time.time() < stop:
            said = m.list()
            p = mp.get_context('fork').Process(
                target=work, args=(job, Path(d), seed, stop, said, name.endswith('_types'))
            )
            p.start()
            trial, begun = Path(d) / 'trial', time.time()
            while p.is_alive() and time.time() - (trial.stat().st_mtime if trial.exists() else begun) < PATIENCE:
                p.join(1)
            if p.is_alive():
                p.kill()
                p.join()
                found.setdefault(f'hangs on {(Path(d) / "trial").read_text()}', 'killed')
            elif p.exitcode:
                found.setdefault(f'falls over with {p.exitcode}', (Path(d) / 'trial').read_text())
            for what, where in said:
                if what == 'trials':
                    trials += where
                else:
                    found.setdefault(what, where)
            if p.exitcode:
                trials += int((Path(d) / 'trial').read_text().split()[1])
            shutil.rmtree(d, ignore_errors=True)
            Path(d).mkdir(exist_ok=True)
            seed += 1
    print(
        f'{name}: {trials:,} trials, {len(found)} findings',
        *(f'\n   {k}   ({v})' for k, v in found.items()),
        flush=True,
    )
    return found


if __name__ == '__main__':
    torch.set_num_threads(1)  # a forked process would wait for threads that it does not have
    seconds, names = float(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory() as d:
        jobs = prepare(Path(d))
        close_corpora()
        bad = [n for n in names or jobs if attack(n, jobs[n], seconds)]
    sys.exit(bool(bad))
