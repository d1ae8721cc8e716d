"The builder: books that balance over every archive, bytes that repeat after any kill, one line for every mistake."

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import rasterio
from closp_nb.core import ClospError, DamagedError, IncompatibleError, InputError, NotFoundError
from closp_nb.evidence import Declared
from closp_nb.labels import collision_share
from closp_nb.data.catalog import Catalog, corpus_catalog, open_catalog, pixel_hash
from closp_nb.data.rasters import write_geotiff
from closp_nb.data.corpus import build_corpus, source_folder
from closp_nb.data.report import corpus_report, label_counts, unit_report
from closp_nb.synthetic.archives import ARCHIVE_WRITERS
from closp_nb.synthetic.products import write_safe, write_sar_pair, write_stac
from closp_nb.synthetic.world import make_tile

ROOT = Path(__file__).resolve().parent.parent.parent
REAL = ROOT.parent / 'shared' / 'data' / 'real'  # real tiles beside the checkout; optional
pytestmark = [
    pytest.mark.slow,
    pytest.mark.kills,
    pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning'),
    pytest.mark.filterwarnings('ignore:Use .@. matmul:PendingDeprecationWarning'),
]


@pytest.fixture(scope='module')
def copies(tmp_path_factory):
    "Small copies of archives, a folder of products and one of tiles."
    tmp = tmp_path_factory.mktemp('copies')
    for k in ARCHIVE_WRITERS:
        ARCHIVE_WRITERS[k](tmp / k)
    write_safe(tmp / 'products')
    write_safe(tmp / 'products', 'L1C', '02.06')
    write_sar_pair(tmp / 'products')
    write_stac(tmp / 'products' / 'stac')
    for i in range(6):
        write_geotiff(make_tile(i), tmp / 'tiles' / f'{i}.tif')
    (tmp / 'tiles' / 'labels.csv').write_text('path,labels\n0.tif,water\n')
    return tmp


def build(folder, *parts, **kw):
    return build_corpus(folder, *parts, progress=False, **kw)


def alike(a, b):
    "Names that differ between two folders, in bytes or in being there."
    names = {f.relative_to(d).as_posix() for d in (a, b) for f in d.rglob('*') if f.is_file()}
    return sorted(
        n for n in names if not ((a / n).exists() and (b / n).exists() and filecmp.cmp(a / n, b / n, shallow=False))
    )


@pytest.fixture(scope='module')
def whole(copies, tmp_path_factory):
    "A corpus of everything."
    d = tmp_path_factory.mktemp('whole') / 'corpus'
    parts = [f'{k}={copies / k}' for k in ARCHIVE_WRITERS] + [copies / 'products', copies / 'tiles']
    return d, *build(d, *parts, places=4), parts


def test_every_archive_in_one_corpus(whole):
    d, cat, books, _ = whole
    assert (
        len(books) == len(ARCHIVE_WRITERS) + 2
        and (books.read + books.skipped + books.failed == books.found).all()
        and books.read.sum() == len(cat)
    )
    b = books.set_index(books.part.str.split().str[0])
    assert (b.read.drop(['eurosat-rgb', 'bigearthnet-lmdb']) > 0).all(), books
    assert b.loc['bigearthnet-lmdb', ['read', 'skipped']].tolist() == [0, 6], 'the same patches as in the folder form'
    with h5py.File(d / 'crisislandmark.h5') as f:
        assert list(f) == sorted(cat.frame.id)
        for k in f:
            assert (
                f[k]['image'].shape in [(2, 120, 120), (12, 120, 120)]
                and f[k]['coords'].shape == (2, 120, 120)
                and {'crs', 'timestamp', 'labels'} <= set(f[k].attrs)
            )
    left = pd.read_csv(d / 'left.csv')
    assert (
        len(left) == books.skipped.sum() + books.failed.sum()
        and left.reason.notna().all()
        and not left.reason.str.contains(str(d.parent)).any()
    )


def test_what_is_read_back_is_what_was_written(whole):
    d, cat, _, _ = whole
    for i in range(0, len(cat), 3):
        assert pixel_hash(cat.pixels(i)) == cat.frame.hash[i], cat.frame.id[i]
    again = corpus_catalog(d, progress=False).frame.set_index('id').loc[cat.frame.id]
    for c in ('sensor', 'split', 'caption', 'lon', 'lat', 'time', 'event'):
        assert (again[c].to_numpy() == cat.frame[c].to_numpy()).all() or np.allclose(again[c], cat.frame[c]), c


def test_it_opens_elsewhere(whole):
    import geopandas as gpd

    d, cat, _, _ = whole
    g = gpd.read_parquet(d / 'catalog.parquet')
    assert g.crs == 'EPSG:4326' and g.geometry.is_valid.all() and g.path.eq('crisislandmark.h5').all()
    meta = pd.read_parquet(d / 'metadata.parquet')
    assert (
        list(meta) == ['key', 'split', 'labels']
        and meta.key.tolist() == cat.frame.id.tolist()
        and set(meta.split) == {'train', 'corpus'}
    )


def test_the_corpus_may_be_moved(whole, tmp_path):
    moved = shutil.copytree(whole[0], tmp_path / 'elsewhere')
    c = Catalog.load(moved / 'catalog.parquet')
    assert str(moved) in c.frame.path[0] and pixel_hash(c.pixels(5)) == c.frame.hash[5]


@pytest.mark.parametrize('kw', [dict(workers=2), dict(workers=3, progress=True)], ids=['two', 'three'])
def test_workers_change_nothing(whole, tmp_path, kw):
    d, _, _, parts = whole
    build_corpus(tmp_path / 'corpus', *parts, places=4, **({'progress': False} | kw))
    assert not alike(d, tmp_path / 'corpus')


CALL = '''
import sys
from closp_nb.data.corpus import build_corpus

build_corpus(sys.argv[1], *sys.argv[3:], workers=int(sys.argv[2]), chunk=3, progress=False)
'''


def start(folder, workers, parts):
    return subprocess.Popen(
        [sys.executable, '-c', CALL, str(folder), str(workers), *map(str, parts)], cwd=ROOT, start_new_session=True
    )


def reached(work, goal, before):
    "Is it time for the kill?"
    if goal is None:
        return False
    if goal == 'assembly':
        return (work / 'crisislandmark.h5').exists()
    return len(list(work.glob('rows/*.json'))) >= before + goal


@pytest.mark.parametrize('workers', [1, 2])
def test_killed_anywhere_it_ends_with_the_same_bytes(copies, tmp_path, workers):
    "Kills at random moments, the last of them while the pieces are put together."
    parts, rng, kills = (
        [copies / 'mmflood', copies / 'quakeset', copies / 'products', copies / 'tiles'],
        np.random.default_rng(workers),
        0,
    )
    work = tmp_path / 'killed.building'
    for goal in [*rng.integers(1, 4, 3), 'assembly', None]:
        run, end = start(tmp_path / 'killed', workers, parts), time.time() + 120
        before = len(list(work.glob('rows/*.json')))
        while run.poll() is None and time.time() < end and not reached(work, goal, before):
            time.sleep(0.002)
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            kills += 1
        run.wait()
        assert goal is None or not (tmp_path / 'killed').exists() or goal == 'assembly'
    assert kills >= 3 and run.returncode == 0
    build(tmp_path / 'calm', *parts, chunk=3)
    assert not alike(tmp_path / 'calm', tmp_path / 'killed') and not work.exists()


def test_a_kill_between_the_last_two_steps(copies, tmp_path):
    "The folder has its name, and the scaffold still stands in it."
    build(tmp_path / 'a', copies / 'mmflood')
    build(tmp_path / 'b', copies / 'mmflood')
    (tmp_path / 'b' / 'rows').mkdir()
    (tmp_path / 'b' / 'rows' / 'x.json').write_text('{}')
    (tmp_path / 'b' / 'plan.json').write_text('{}')
    (tmp_path / 'b' / 'y.1.tmp').write_text('')
    assert len(build(tmp_path / 'b', copies / 'mmflood')[0]) and not alike(tmp_path / 'a', tmp_path / 'b')


def test_another_plan_is_refused(copies, tmp_path):
    work = tmp_path / 'x.building'
    run = start(tmp_path / 'x', 1, [copies / 'quakeset'])
    while not list(work.glob('rows/*.json')) and run.poll() is None:
        time.sleep(0.002)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert work.exists()
    for parts, kw in (([copies / 'mmflood'], dict(chunk=3)), ([copies / 'quakeset'], dict(chunk=4))):
        with pytest.raises(IncompatibleError, match='was begun from other folders or with other options'):
            build(tmp_path / 'x', *parts, **kw)
    build(tmp_path / 'x', copies / 'mmflood', overwrite=True)
    assert set(Catalog.load(tmp_path / 'x' / 'catalog.parquet').frame.source) == {'mmflood'}
    (tmp_path / 'y.building').mkdir()
    (tmp_path / 'y.building' / 'thesis.txt').write_text('mine')
    with pytest.raises(InputError, match='holds no plan'):
        build(tmp_path / 'y', copies / 'mmflood', overwrite=True)
    assert (tmp_path / 'y.building' / 'thesis.txt').exists()


def test_another_split_needs_no_new_reading(copies, tmp_path, monkeypatch):
    from closp_nb.data import corpus as c

    whole = c._finish
    monkeypatch.setattr(c, '_finish', lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / 'x', copies / 'mmflood')
    monkeypatch.setattr(c, '_fill', lambda *a: 1 / 0)  # nothing may be read any more
    monkeypatch.setattr(c, '_finish', whole)
    cat, _ = build(tmp_path / 'x', copies / 'mmflood', train_frac=0.5)
    assert (cat.frame.split == 'train').mean() == 0.5


@pytest.fixture
def published(copies, tmp_path):
    "Two corpora with splits of their own."
    a, _ = build(tmp_path / 'a', copies / 'quakeset', copies / 'mmflood', train_frac=0.3, seed=1)
    b, _ = build(tmp_path / 'b', copies / 'cabuar', copies / 'tiles', train_frac=0.6, seed=2)
    return tmp_path / 'a', tmp_path / 'b', pd.concat([a.table, b.table]).set_index('id').split


def test_joined_corpora_keep_their_splits(copies, tmp_path, published):
    "Published gallery tiles became training tiles, with no word about it."
    a, b, before = published
    cat, _ = build(tmp_path / 'both', f'corpus={a}', f'corpus={b}')
    assert cat.table.set_index('id').split.equals(before[cat.table.id])
    meta = pd.read_parquet(tmp_path / 'both' / 'metadata.parquet').set_index('key').split
    assert (meta[before.index[before == 'gallery']] == 'corpus').all() and (before == 'train').sum() > 5
    more, _ = build(tmp_path / 'more', a, copies / 'sen12flood', train_frac=0.5)
    new = ~more.table.id.isin(before.index)
    assert (more.table[~new].set_index('id').split == before[more.table.id[~new]]).all()
    assert 0.3 < (more.table.split[new] == 'train').mean() < 0.7
    anew, _ = build(tmp_path / 'anew', a, b, split='stratified', seed=5)
    assert (anew.table.set_index('id').split != before[anew.table.id]).any()


def test_a_published_gallery_tile_never_trains(copies, tmp_path, published):
    "Neither by a part that disagrees, nor by a word that we do not use."
    a, _, before = published
    other = shutil.copytree(a, tmp_path / 'other')
    meta = pd.read_parquet(other / 'metadata.parquet')
    swapped = meta.assign(split=meta.split.map(dict(train='corpus', corpus='train')).astype(object))
    swapped.loc[:2, 'split'] = ['test', None, 'buffer']
    swapped.to_parquet(other / 'metadata.parquet')
    held = set(before.index[before == 'gallery']) & set(meta.key) | set(
        meta.key[swapped.split.isin(['test', 'corpus'])]
    )
    for i, parts in enumerate([(a, other), (other, a)]):
        cat, _ = build(tmp_path / f'both{i}', *parts, copies / 'sen12flood')
        split = cat.table.set_index('id').split
        assert (split[list(held)] == 'gallery').all() and (split == 'train').any()


def test_a_split_that_leaves_nothing_keeps_what_was_read(copies, tmp_path):
    with pytest.raises(InputError, match='what was read is kept'):
        build(tmp_path / 'x', copies / 'mmflood', train_frac=0.001)
    assert list((tmp_path / 'x.building' / 'rows').glob('*.json'))
    assert len(build(tmp_path / 'x', copies / 'mmflood')[0]) == 14


def test_no_labels_no_queries(copies, tmp_path):
    build(tmp_path / 'x', copies / 'products')
    assert not (tmp_path / 'x' / 'queries.jsonl').exists() and corpus_report(
        open_catalog(tmp_path / 'x'), per_group=1, progress=False
    )


def test_force_replaces_and_nothing_else_does(copies, tmp_path):
    build(tmp_path / 'c', copies / 'mmflood')
    before = (tmp_path / 'c' / 'catalog.parquet').read_bytes()
    with pytest.raises(InputError, match='overwrite=True'):
        build(tmp_path / 'c', copies / 'quakeset')
    assert (tmp_path / 'c' / 'catalog.parquet').read_bytes() == before
    build(tmp_path / 'c', copies / 'quakeset', overwrite=True)
    assert set(Catalog.load(tmp_path / 'c' / 'catalog.parquet').frame.source) == {'quakeset'} and not list(
        tmp_path.glob('.c*')
    )


def test_same_ids_are_counted(copies, tmp_path):
    twin = shutil.copytree(copies / 'mmflood', tmp_path / 'twin')
    cat, books = build(tmp_path / 'c', copies / 'mmflood', twin)
    assert cat.frame.id.is_unique and books.skipped.iloc[1] == books.found.iloc[1] - books.failed.iloc[1]
    left = pd.read_csv(tmp_path / 'c' / 'left.csv')
    assert (left.reason == 'a tile of this id came before').sum() == len(cat)


def test_scenes_of_one_name_stay_apart(copies, tmp_path):
    "Two pairs whose files bear the same names, in two folders."
    for level in ('a', 'b'):
        d = tmp_path / 'in' / level
        shutil.copytree(next((copies / 'products').glob('S1A*')), d / 'pair')
    cat, books = build(tmp_path / 'c', tmp_path / 'in')
    assert books.read.sum() == len(cat) == 8


def test_tiles_bring_labels_and_scenes_get_them_from_rasters(copies, tmp_path):
    cat, _ = build(tmp_path / 't', copies / 'tiles')
    assert (
        cat.frame.set_index('id').caption['own1_tiles~0.tif'] == 'water'
        and (cat.frame.caption != '').all()
        and set(cat.frame.sensor) == {'s1', 's2'}
    )
    with pytest.raises(DamagedError, match='no tile could be read'):
        build(tmp_path / 's', source_folder(copies / 'products', labels=str(tmp_path / 'nolabels.tif')))


def test_no_build_without_a_nomenclature(copies, tmp_path):
    cover = tmp_path / 'esri.tif'
    with rasterio.open(next((copies / 'products').rglob('*B02*.jp2'))) as d:
        grid = dict(crs=d.crs, transform=d.transform, width=d.width, height=d.height, count=1, dtype='uint8')
    with rasterio.open(cover, 'w', driver='GTiff', **grid) as d:
        d.write(np.full((grid['height'], grid['width']), 11, 'uint8'), 1)
    for labels in (cover, tmp_path):
        with pytest.raises(InputError, match='use one of .* codes 11 fit esri'):
            build(tmp_path / 's', source_folder(copies / 'products', labels=str(labels)))
    with pytest.raises(IncompatibleError, match='codes 11, which dynamic-world lacks'):
        build(tmp_path / 's', source_folder(copies / 'products', labels=str(cover), nomenclature='dynamic-world'))
    assert not (tmp_path / 's.building').exists()
    cat, _ = build(tmp_path / 's', source_folder(copies / 'products', labels=str(cover), nomenclature='esri'))
    assert 'grass' in set(cat.table.caption)


@pytest.mark.parametrize('harm', ['truncated', 'nan', 'emptyfile'])
def test_damage_costs_its_own_tiles(copies, tmp_path, harm):
    d = shutil.copytree(copies / ('mmflood' if harm == 'emptyfile' else 'quakeset'), tmp_path / 'd')
    clean = build(tmp_path / 'clean', copies / ('mmflood' if harm == 'emptyfile' else 'quakeset'))[1]
    if harm == 'truncated':
        f = d / 'earthquakes.h5'
        f.write_bytes(f.read_bytes()[: f.stat().st_size // 2])
        with pytest.raises(DamagedError, match='broken download|cannot be opened|no tile could be read'):
            build(tmp_path / 'c', f'quakeset={d}')
        return
    if harm == 'nan':
        with h5py.File(d / 'earthquakes.h5', 'r+') as f:
            e = f[next(iter(f))]
            p = e[next(k for k in e if isinstance(e[k], h5py.Group))]
            p['post' if 'post' in p else next(iter(p))][:] = np.nan
    else:
        sorted(d.rglob('s1_raw/*.tif'))[0].write_bytes(b'')
    books = build(tmp_path / 'c', d)[1]
    assert (
        books.read.sum() < clean.read.sum()
        and (books.read + books.skipped + books.failed == books.found).all()
        and books.skipped.sum() + books.failed.sum() > clean.skipped.sum() + clean.failed.sum()
    )


def test_labels_of_another_language_are_counted(copies, tmp_path):
    d = shutil.copytree(copies / 'bigearthnet-v1', tmp_path / 'ben')
    f = sorted(d.rglob('*_labels_metadata.json'))[0]
    j = json.loads(f.read_text())
    f.write_text(json.dumps(j | dict(labels=['Nadelwald'])))
    cat, books = build(tmp_path / 'c', f'bigearthnet-v1={d}', train_frac=0.5)
    left = pd.read_csv(tmp_path / 'c' / 'left.csv')
    assert books.failed.sum() == 1 and 'Nadelwald' in left.reason[0]


def dies(*args):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_told(copies, tmp_path, monkeypatch):
    from closp_nb.data import corpus as c

    monkeypatch.setattr(c, '_chunk', dies)
    with pytest.raises(ClospError, match='ended from outside'):
        build(tmp_path / 'c', copies / 'mmflood', workers=2)
    monkeypatch.undo()
    assert len(build(tmp_path / 'c', copies / 'mmflood', workers=2)[0]) == 14


def test_blocks(copies, tmp_path):
    cat, _ = build(
        tmp_path / 'c',
        copies / 'mmflood',
        copies / 'quakeset',
        copies / 'bigearthnet-v2',
        copies / 'cabuar',
        split='blocks',
        km=50,
        buffer=10,
    )
    ev = cat.frame[cat.frame.event != ''].groupby('event').split.agg(set)
    assert not any({'train', 'gallery'} <= s for s in ev) and {'train', 'gallery'} <= set(cat.frame.split)


UNKNOWN = [
    ('nowhere', NotFoundError, 'not a folder'),
    ('mmfloods=nowhere', InputError, 'no archive'),
    ('mmflood=nowhere', NotFoundError, 'not a folder'),
]


@pytest.mark.parametrize('text,kind,say', UNKNOWN)
def test_source_folders(text, kind, say):
    with pytest.raises(kind, match=say):
        source_folder(text)


def test_what_the_plan_and_corpus_json_keep(copies, tmp_path):
    "Old builds go on only if their fingerprint is still met."
    build(tmp_path / 'c', copies / 'mmflood', copies / 'quakeset')
    d = json.loads((tmp_path / 'c' / 'corpus.json').read_text())
    assert list(d['split']) == ['how', 'share', 'km', 'buffer', 'seed']
    assert [list(p) for p in d['parts']] == [
        ['kind', 'folder', 'labels', 'nomenclature', 'least', 'max_cloud', *(f.name for f in fields(Declared))]
    ] * 2
    assert [p['kind'] for p in d['parts']] == ['mmflood', 'quakeset']


def test_a_bug_of_ours_is_no_damage(copies, tmp_path, monkeypatch):
    from closp_nb.data import corpus as c

    build(tmp_path / 'a', copies / 'mmflood')
    monkeypatch.setattr(c, 'read_table', lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(tmp_path / 'b', tmp_path / 'a')
    monkeypatch.undo()
    monkeypatch.setattr(c, '_fit', lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(tmp_path / 'c', copies / 'mmflood')
    (tmp_path / 'a' / 'metadata.parquet').write_bytes(b'')
    with pytest.raises(DamagedError, match='fetch it again'):
        build(tmp_path / 'd', tmp_path / 'a')


# ---- report


def test_report_of_everything(whole):
    d, cat, _, _ = whole
    page = corpus_report(cat, per_group=2, progress=False)
    counts = label_counts(cat)
    assert counts.loc['all tiles'].sum() == len(cat) and all(
        w in page for w in ('trees', 'in one sensor only', 'captioned tiles meet their own')
    )
    assert (unit_report(cat, per_group=2, progress=False).wrong == '').all()
    assert len(open_catalog(d / 'catalog.parquet')) == len(open_catalog(d)) == len(cat)


def test_report_without_fingerprints_or_labels(whole):
    d, cat, _, _ = whole
    bare = Catalog(cat.frame.drop(columns=['hash', 'notes', 'cloud', 'gaps']).head(8))
    bare = Catalog(
        bare.frame.assign(hash='', labels=[[] for _ in range(8)], caption='', split=['train', 'gallery'] * 4)
    )
    assert 'unknown' in corpus_report(bare, per_group=1, progress=False)


def test_collision_share_is_right_by_counting():
    caps = list('aabbbc')
    for b in range(1, 7):
        hits = [sum(caps[i] == caps[j] for j in s) > 1 for s in combinations(range(6), b) for i in s]
        assert np.isclose(collision_share(caps, [b])[0], np.mean(hits)), b
    assert collision_share([], [4])[0] == 0


@pytest.mark.skipif(not REAL.exists(), reason='no real tiles beside the checkout')
def test_real_scenes_become_a_corpus(tmp_path):
    "TerraMind's radar and level 2A, five places each, labelled by their land cover."
    names = tuple('B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12'.split())
    cover = dict(labels=str(REAL / 'terramind' / 'LULC'), nomenclature='terramind')
    optical = source_folder(f"scenes={REAL / 'terramind' / 'S2L2A'}", bands=names, **cover)
    radar = source_folder(f"scenes={REAL / 'terramind' / 'S1RTC'}", bands=('VV', 'VH'), **cover)
    cat, books = build(tmp_path / 'c', optical, radar)
    assert (
        (books.read + books.skipped + books.failed == books.found).all()
        and set(cat.frame.sensor) == {'s1', 's2'}
        and (cat.frame.caption != '').any()
    )
    pairs = cat.frame.assign(place=cat.frame.id.str.split('~', n=1).str[1]).groupby('place').caption.nunique()
    assert (pairs == 1).all(), 'one ground, one caption, in both sensors'
