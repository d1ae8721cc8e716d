"The three stores against brute force; folders that are cut, damaged, replaced, or written on a full disk."

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from shapely.geometry import Point

from closp_nb.search import stores as room
from closp_nb.models.config import CLOSP_NB
from closp_nb.models.closp import new_model
from closp_nb.models.folder import save_model
from closp_nb.data.catalog import to_catalog
from closp_nb.core import MARK, DamagedError, IncompatibleError, InputError, NotFoundError
from closp_nb.search.index import Index
from closp_nb.search.stores import ScalarQuantizer, ExactStore, STORES, probe_vectors, ann_recall

ROOT, DIM = Path(__file__).resolve().parent.parent.parent, 384
each_store = pytest.mark.parametrize('store', STORES)


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype('float32')


def clouds(n, dim=DIM, centres=30, seed=0):
    rng = np.random.default_rng(seed)
    return unit(
        rng.standard_normal((centres, dim))[rng.integers(centres, size=n)] + 0.8 * rng.standard_normal((n, dim))
    )


def plain(q, z, k, rows=None):
    "Brute force: double precision, rounded, equals by row."
    rows = np.arange(len(z)) if rows is None else rows
    s = (z[rows].astype('f8') @ q.astype('f8')).astype('f4')
    o = np.lexsort((rows, -s))[:k]
    return s[o], rows[o]


def catalog(n, first=0):
    return to_catalog(
        [
            dict(
                id=f't{first + i}',
                sensor='s1' if i % 2 else 's2',
                path='',
                key='',
                source='',
                split='gallery',
                lon=0.0,
                lat=0.0,
                time='',
                raw_labels=[],
                labels=[],
                caption='',
                geometry=Point(0, 0),
            )
            for i in range(n)
        ]
    )


@pytest.fixture(scope='module')
def model():
    return new_model(CLOSP_NB.change(text_encoder='tiny')).eval()


@pytest.fixture(scope='module')
def archive():
    return clouds(30_000)


@pytest.fixture(scope='module')
def stores(archive):
    return {k: c.build(archive) for k, c in STORES.items()}


# ---- the same answers as a full scan


@given(
    st.integers(2, 400),
    st.integers(1, 60),
    st.sampled_from([3, 16, 50]),
    st.sampled_from(['clouds', 'noise', 'copies', 'one', 'narrow']),
    st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_exact_equals_a_full_scan(n, k, dim, how, seed):
    rng = np.random.default_rng(seed)
    z = {
        'clouds': lambda: clouds(n, dim, 5, seed),
        'noise': lambda: unit(rng.standard_normal((n, dim))),
        'copies': lambda: clouds(9, dim, 3, seed)[rng.integers(9, size=n)],
        'one': lambda: np.repeat(clouds(1, dim, 1, seed), n, 0),
        'narrow': lambda: unit(np.eye(dim)[0] + 1e-3 * rng.standard_normal((n, dim))),
    }[how]()
    store, before = ExactStore.build(z), room.MAX_SCAN
    some = np.flatnonzero(rng.random(n) < 0.7)
    room.MAX_SCAN = 0  # or small matrices would not be scanned by codes
    try:
        for q in (z[0], unit(rng.standard_normal(dim))):
            for rows in (None, some):
                got, want = store.search(q, k, rows), plain(q, z, k, rows)
                assert np.array_equal(got[0], want[0]) and np.array_equal(got[1], want[1])
    finally:
        room.MAX_SCAN = before


@pytest.mark.parametrize('k', [1, 20, 300])
def test_exact_equals_a_full_scan_of_many(stores, archive, k, monkeypatch):
    seen = []
    monkeypatch.setattr(
        ExactStore, 'search_codes', lambda self, *a, f=ExactStore.search_codes: (seen.append(a), f(self, *a))[1]
    )
    for q in probe_vectors(archive, 20):
        got, want = stores['exact'].search(q, k), plain(q, archive, k)
        assert np.array_equal(got[0], want[0]) and np.array_equal(got[1], want[1])
    assert len(seen) >= 20, 'codes were not scanned: this test says nothing'


def test_certificate_holds_for_every_row(stores, archive):
    for q in probe_vectors(archive, 10):
        s, rows, rest = stores['exact'].search_codes(q, 3_000)
        true, off = archive.astype('f8') @ q, stores['exact'].quantizer.encode_query(q)[3]
        tame = ~np.isin(rows, stores['exact'].quantizer.outliers)
        assert np.abs(s - true[rows])[tame].max() <= off
        assert np.delete(true, np.union1d(rows, stores['exact'].quantizer.outliers)).max() <= rest + off


def test_outliers_are_found(monkeypatch):
    "Rows whose codes say nothing: the steps are fitted to others, and they reach far beyond."
    z = clouds(30_000)
    odd = np.arange(0, 30_000, 6_000)
    quantizer = ScalarQuantizer.fit(z)
    z[odd] = quantizer.rotation.T[: len(odd)]  # one number is all there is after the turn
    monkeypatch.setattr(ScalarQuantizer, 'fit', classmethod(lambda *a: quantizer))
    store = ExactStore.build(z)
    assert set(odd) <= set(store.quantizer.outliers)
    some = np.flatnonzero(np.arange(30_000) % 30_000 != odd[2])
    for q in (z[odd[1]], unit(z[odd[2]] + 0.3 * z[5])):
        for rows in (None, some):
            for a, b in zip(store.search(q, 30, rows), plain(q, z, 30, rows)):
                assert np.array_equal(a, b)


def test_without_a_certificate_everything_is_read(monkeypatch):
    z = unit(np.random.default_rng(0).standard_normal((25_000, DIM)))
    store = ExactStore.build(z)
    store.quantizer.error = 9.0  # as if the codes were useless
    q = unit(np.random.default_rng(1).standard_normal(DIM))
    assert np.array_equal(store.search(q, 50)[1], plain(q, z, 50)[1])


def test_equals_are_ordered_by_row(archive):
    z = np.concatenate([archive[:15_000]] * 2)
    s, rows = ExactStore.build(z).search(z[77], 2)
    assert rows.tolist() == [77, 15_077] and s[0] == s[1]


def test_one_thread_or_three(archive, stores):
    "The share of each thread does not change the answer."
    code = """
import sys
from closp_nb.search.stores import ExactStore
e = ExactStore.open(sys.argv[1])
print([e.search(e.z[i], 30)[1].tolist() for i in range(5)])
"""

    with tempfile.TemporaryDirectory() as d:
        stores['exact'].write(d)
        out = {
            subprocess.run(
                [sys.executable, '-c', code, d],
                env=os.environ | dict(OMP_NUM_THREADS=n, PYTHONPATH=str(ROOT)),
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for n in ('1', '2', '3')
        }
    assert len(out) == 1


# ---- filters, recall, size


@each_store
@pytest.mark.parametrize('share', [0.9, 0.3, 0.01, 0.0001])
def test_filters(stores, archive, store, share):
    rng = np.random.default_rng(3)
    rows = np.flatnonzero(rng.random(len(archive)) < share)
    for q in probe_vectors(archive, 5):
        s, got = stores[store].search(q, 20, rows)
        want = plain(q, archive, 20, rows)[1]
        assert len(got) == len(want) == min(20, len(rows)) and np.isin(got, rows).all() and (np.diff(s) <= 0).all()
        if store == 'exact' or store == 'large' and share < 0.5:
            assert np.array_equal(got, want)
        assert len(set(got) & set(want)) >= 0.8 * len(want)


def test_recall_is_what_is_found(stores, archive):
    q = probe_vectors(archive, 30, seed=5)
    want = {k: ann_recall(stores[k], archive, q, 20) for k in STORES}
    assert want['exact'] == 1 and want['compact'] > 0.9 and want['large'] >= 0.95
    byhand = np.mean([len(set(stores['compact'].search(o, 20)[1]) & set(plain(o, archive, 20)[1])) / 20 for o in q])
    assert want['compact'] == pytest.approx(byhand, abs=1e-3)


def test_compact_is_small(stores, tmp_path):
    stores['compact'].write(tmp_path)
    fixed = (tmp_path / 'coder.npz').stat().st_size
    codes = (tmp_path / 'codes.faiss').stat().st_size
    assert codes / 30_000 < 385 and fixed < 1e6 and (codes * 647 / 30 + fixed) / 647_000 < 400


@each_store
def test_more_than_there_are(store):
    z = clouds(50)
    s, rows = STORES[store].build(z).search(z[0], 80)
    assert sorted(rows) == list(range(50)) and rows[0] == 0


def test_codes_know_their_error():
    z = clouds(20_000)
    c = ScalarQuantizer.fit(z[:500])  # rows it has not seen reach further
    codes, said = c.encode(z)
    np.testing.assert_allclose(np.linalg.norm(c.decode(codes) - z, axis=1), said, atol=1e-5)
    c.add_to(STORES['exact'].build(z).ix, z)
    assert (
        0 < len(c.outliers) < 10
        and np.delete(said, c.outliers).max() <= c.error < said[c.outliers].min()
        and np.abs(codes).max() <= 127
    )


# ---- folders


@pytest.fixture
def folder(tmp_path, model):
    def make(store='exact', n=60, name='index', seed=0):
        return Index.build(model, catalog(n), clouds(n, seed=seed), store=store).save(tmp_path / name, overwrite=True)

    return make


def test_an_index_of_windows_opens_here(model, tmp_path):
    "Its paths have backslashes, and an editor put a byte-order mark before index.json."
    save_model(model, tmp_path / 'my' / 'model')
    Index.build(model, catalog(60), clouds(60), model_folder=tmp_path / 'my' / 'model').save(tmp_path / 'i' / 'index')
    about = tmp_path / 'i' / 'index' / 'index.json'
    d = json.loads(about.read_text())
    assert d['model'] == '../../my/model'
    about.write_text(json.dumps(d | dict(model=r'..\..\my\model')), encoding='utf-8-sig')
    assert Index.load(about.parent).about['model'] == str(tmp_path / 'my' / 'model')


@each_store
def test_a_folder_opens_as_it_was_built(model, tmp_path, store):
    z, cat = clouds(3_000), catalog(3_000)
    a = Index.build(model, cat, z, store=store)
    b = Index.load(a.save(tmp_path / 'i'), whole=True)
    q = probe_vectors(z, 5)
    for x, y in zip(a.search(q, 30), b.search(q, 30)):
        assert np.array_equal(x, y)
    assert (
        set(b.about['recall']) == {'20', '1000', 'questions'}
        and b.about['store'] == store
        and b.about['recall']['20'] >= 0.97
    )
    assert set(b.about['files']) == {p.name for p in (tmp_path / 'i').iterdir()} - {'index.json', MARK}
    none = b.search(q, 30, np.zeros(3_000, bool))
    assert none[0].shape == none[1].shape == (5, 0)


@each_store
def test_every_file_is_watched(folder, store):
    d = folder(store)
    for p in sorted(d.glob('[!.]*')):
        whole = p.read_bytes()
        harm = [whole[: len(whole) // 2], b''] + (
            [whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:]] if p.name != 'index.json' else [b'{"count": 60}', b'[]']
        )
        for bad in harm + [None]:
            p.unlink() if bad is None else p.write_bytes(bad)
            with pytest.raises(NotFoundError if (p.name, bad) == ('index.json', None) else DamagedError) as e:
                Index.load(d).cat
            assert '\n' not in str(e.value) and ('build' in str(e.value))
        p.write_bytes(whole)
    assert len(Index.load(d)) == 60


def test_large_files_by_size_and_whole(folder, monkeypatch):
    from closp_nb.search import index as ix

    d = folder()
    monkeypatch.setattr(ix, 'MAX_CHECKSUM', 1_000)
    p = d / 'vectors.npy'
    b = bytearray(p.read_bytes())
    b[-3] ^= 1
    p.write_bytes(b)
    assert len(Index.load(d)) == 60
    with pytest.raises(DamagedError, match='checksum'):
        Index.load(d, whole=True)


def test_an_older_index_is_refused(folder):
    "Earlier versions named the store otherwise."
    d = folder()
    about = json.loads((d / 'index.json').read_text())
    (d / 'index.json').write_text(json.dumps({'kind' if k == 'store' else k: v for k, v in about.items()}))
    with pytest.raises(IncompatibleError, match='older version .* build the index again') as e:
        Index.load(d)
    assert '\n' not in str(e.value)
    (d / 'index.json').write_text(json.dumps(about | dict(store='hnsw')))
    with pytest.raises(IncompatibleError, match="store 'hnsw', known are exact"):
        Index.load(d)
    (d / 'index.json').write_text(json.dumps(about | dict(count=41)))
    with pytest.raises(DamagedError, match='does not fit together'):
        Index.load(d)


def test_a_bug_is_no_damage(folder, monkeypatch):
    "What is wrong in the code itself is not told as a damaged file."
    d = folder()
    for what in ('ExactStore.open', 'ScalarQuantizer.open'):
        name, method = what.split('.')
        with monkeypatch.context() as m:
            m.setattr(getattr(room, name), method, classmethod(lambda cls, *a: 1 / 0))
            with pytest.raises(ZeroDivisionError):
                Index.load(d)
    assert len(Index.load(d)) == 60


@pytest.mark.parametrize(
    'make,words',
    [
        (lambda m: Index.build(m, catalog(3), np.full((3, DIM), np.nan)), 'not of length one'),
        (lambda m: Index.build(m, catalog(3), 2 * clouds(3)), 'divide by the length'),
        (lambda m: Index.build(m, catalog(3), clouds(3, 20)), '3 vectors of 384'),
        (lambda m: Index.build(m, catalog(3), clouds(4)), '3 vectors of 384'),
        (lambda m: Index.build(m, catalog(3), clouds(3), store='hnsw'), 'exact, compact, large'),
        (lambda m: Index.build(m, catalog(3), clouds(3)).search(np.full((1, DIM), np.inf)), 'infinite'),
        (
            lambda m: Index.build(m, catalog(3), clouds(3)).search(clouds(1), mask=np.ones(4, bool)),
            'each of the 3 tiles',
        ),
    ],
    ids=range(7),
)
def test_bad_input(model, make, words):
    with pytest.raises(InputError, match=words) as e:
        make(model)
    assert '\n' not in str(e.value)


# ---- building while others read; disks that fill; processes that die


@each_store
def test_a_full_disk_leaves_the_old_index(folder, tmp_path, store, model):
    d = folder(store)
    before = {p.name: p.read_bytes() for p in d.iterdir()}
    new = Index.build(model, catalog(900), clouds(900, seed=1), store=store)
    limit, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
    try:
        with pytest.raises(InputError, match='could not be written') as e:
            new.save(d, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (
        '\n' not in str(e.value)
        and {p.name: p.read_bytes() for p in d.iterdir()} == before
        and [p.name for p in tmp_path.iterdir()] == ['index']
    )


def test_a_killed_build_leaves_the_old_index(folder, tmp_path):
    d = folder()
    code = '''
import os, sys, numpy as np, signal
sys.path.insert(0, sys.argv[2])
from test_index import catalog, clouds
from closp_nb.search.index import Index
from closp_nb.search.stores import ExactStore
z = clouds(50)
def write(self, folder):
    (folder/'vectors.npy').write_bytes(bytes(99))
    os.kill(os.getpid(), signal.SIGKILL)
ExactStore.write = write
about = dict(store='exact', fingerprint='', model='', count=50)
Index(ExactStore.build(z), catalog(50), about).save(sys.argv[1], overwrite=True)
'''
    p = subprocess.run(
        [sys.executable, '-c', code, str(d), str(ROOT / 'tests' / 'search')],
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert p.returncode == -signal.SIGKILL, p.stderr
    assert len(Index.load(d, whole=True)) == 60
    folder(n=70)
    assert len(Index.load(d)) == 70 and [p.name for p in tmp_path.iterdir()] == ['index']


@each_store
def test_a_reader_keeps_its_snapshot(folder, store):
    d = folder(store)
    reader, q = Index.load(d), clouds(60)[:4]
    before = reader.search(q, 10)
    folder(store, n=90, seed=8)
    shutil.rmtree(d)
    for a, b in zip(before, reader.search(q, 10)):
        assert np.array_equal(a, b)
    assert len(reader.cat) == 60  # the rows were not read before


def test_build_and_query_at_once(model, tmp_path):
    "Each build's rows say its number; a reader must never see two builds at once."

    def build(n):
        return Index.build(model, catalog(40 + n, first=1_000 * n), clouds(40 + n, seed=n))

    builds = [build(n) for n in range(4)]
    builds[0].save(tmp_path / 'i')
    done, seen, wrong = threading.Event(), set(), []

    def read():
        while not done.is_set():
            try:
                index = Index.load(tmp_path / 'i')
                n = len(index) - 40
                ok = np.array_equal(index.store.z, builds[n].store.z) and index.cat.table.id[0] == f't{1_000 * n}'
                seen.add(n)
                if not ok:
                    wrong.append(n)
            except Exception as e:  # whatever a thread meets is told by the test
                wrong.append(repr(e))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for r in readers:
        r.start()
    for i in range(24):
        builds[i % 4].save(tmp_path / 'i', overwrite=True)
        time.sleep(0.01)
    done.set()
    for r in readers:
        r.join()
    assert not wrong and len(seen) > 1, (wrong[:3], seen)


# ---- change


@given(
    st.lists(st.tuples(st.sampled_from(['add', 'remove', 'replace']), st.integers(0, 10_000)), min_size=1, max_size=5),
    st.sampled_from(list(STORES)),
)
@settings(max_examples=15, deadline=None)
def test_changes_equal_a_fresh_build(steps, store):
    pool, m = clouds(80, seed=2), MODEL
    index = Index.build(m, catalog(30), pool[:30], store=store)
    rows = {f't{i}': pool[i] for i in range(30)}  # in order
    for what, seed in steps:
        rng = np.random.default_rng(seed)
        if what == 'remove':
            ids = [str(i) for i in rng.choice(list(rows), min(3, len(rows) - 1), replace=False)]
            if not ids:
                continue
            index = index.remove(ids)
            for i in ids:
                del rows[i]
        else:
            first = rng.integers(0, 60) if what == 'replace' else 1_000 + 10 * seed
            new, z = catalog(4, first), pool[rng.integers(80, size=4)]
            if what == 'add' and f't{first}' in rows:
                continue
            index = index.add(m, new, z, replace=what == 'replace')
            for i in new.table.id:
                rows.pop(i, None)
            rows |= dict(zip(new.table.id, z))
    want = np.stack(list(rows.values()))
    assert index.cat.table.id.tolist() == list(rows) and index.about['count'] == len(index) == len(rows)
    np.testing.assert_allclose(index.vectors(range(len(rows))), want, atol=0.03 if store == 'compact' else 0)
    for q in pool[:5]:
        got = index.search(q[None], 3)
        if store != 'compact':
            assert np.array_equal(got[1][0], plain(q, want, 3)[1])
        else:
            np.testing.assert_allclose(got[0][0], plain(q, want, 3)[0], atol=0.03)


MODEL = new_model(CLOSP_NB.change(text_encoder='tiny')).eval()


def test_compact_codes_stay_as_they_are(model):
    a = Index.build(model, catalog(50), clouds(50), store='compact')
    b = a.add(model, catalog(5, 100), clouds(5, seed=4)).remove([f't{i}' for i in range(10)])
    assert np.array_equal(a.store.z.codes[10:50], b.store.z.codes[:40])
