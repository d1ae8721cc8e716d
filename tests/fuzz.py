"""Damage small files at random and read them: a reader may answer or refuse with `InputError`, nothing else, and it may not fall over.

python tests/fuzz.py SECONDS [READER ...]     # seconds for each reader; ends with what was found
"""

import json, multiprocessing as mp, os, shutil, sys, tempfile, time, traceback, warnings
from pathlib import Path

import numpy as np
import torch

from closp_nb.models.config import CLOSP_NB
from closp_nb.models.folder import load_model, save_model
from closp_nb.models.closp import new_model
from closp_nb.data.catalog import Catalog, corpus_catalog
from closp_nb.core import ClospError
from closp_nb.explorer.workspace import read_visit
from closp_nb.search.index import Index
from closp_nb.synthetic.archives import ARCHIVE_WRITERS
from closp_nb.data.queries import make_queries, read_qrels, read_queries, write_queries
from closp_nb.data.archives import archive, read_item
from closp_nb.data.hdf5 import close_corpora
from closp_nb.data.rasters import read_geotiff
from closp_nb.synthetic.world import build_world

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


def items(key):
    "All items of an archive."
    a = archive(key)
    return lambda p: [read_item(a, p, item) for item in sorted(a.find(p))[:4]]


def prepare(d):
    "Small sound files, and who reads them: name -> (file or folder, reader)."
    cat = build_world(d / 'world', 24, train_frac=0.5, geotiffs=2, progress=False)
    model = new_model(CLOSP_NB.change(text_encoder='tiny')).eval()
    save_model(model, d / 'model')
    Index.build(model, cat, model_folder=d / 'model', progress=False).save(d / 'index')
    cat.save(d / 'catalog.parquet', overwrite=True)
    write_queries(d / 'queries', make_queries(cat), cat)
    (d / 'visit.json').write_text(
        json.dumps(
            dict(model='x', sides=[dict(question=dict(text='water', bbox=[0, 0, 1, 1], k=5), marks={'a': True})])
        )
    )
    tif = next(p for p in d.rglob('*.tif'))
    shutil.copy(tif, d / 'tile.tif')
    jobs = dict(
        geotiff=(d / 'tile.tif', read_geotiff),
        corpus=(d / 'world', corpus),
        catalog=(d / 'catalog.parquet', lambda p: all_rows(Catalog.load(p))),
        index=(d / 'index', search),
        model=(d / 'model', load_model),
        visit=(d / 'visit.json', lambda p: read_visit(p.read_bytes())),
        queries=(next((d / 'queries').glob('*.jsonl')), read_queries),
        qrels=(next(p for p in (d / 'queries').rglob('*') if 'qrels' in p.as_posix() and p.is_file()), read_qrels),
    )
    for key, write in ARCHIVE_WRITERS.items():
        if key == 'bigearthnet-lmdb':
            continue  # a memory map of a damaged database is LMDB's own affair
        write(d / key)
        jobs[key] = (d / key, items(key))
    return jobs


def work(job, folder, seed, stop, said):
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
        target.write_bytes(damage(pick.read_bytes(), r))
        try:
            read(bad)
        except ClospError:
            pass
        except Exception as e:
            where = traceback.extract_tb(e.__traceback__)
            ours = [f for f in where if 'closp_nb/' in f.filename.replace(os.sep, '/')][-1:]
            said.append(
                (
                    f'{type(e).__name__} in {ours[0].name if ours else "?"} line {ours[0].lineno if ours else 0} after {where[-1].name}: {str(e)[:120]}',
                    f'seed {seed}, trial {n}, {pick.name}',
                )
            )
        if sound.is_dir():
            target.write_bytes(pick.read_bytes())
    said.append(('trials', n))


def attack(name, job, seconds):
    "All trials of one reader, in processes that may fall over."
    found, trials, seed, stop = {}, 0, 0, time.time() + seconds
    with mp.Manager() as m, tempfile.TemporaryDirectory() as d:
        while time.time() < stop:
            said = m.list()
            p = mp.get_context('fork').Process(target=work, args=(job, Path(d), seed, stop, said))
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
