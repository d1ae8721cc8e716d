"Folders of strangers, with sums that fit: what cannot be is refused when it is opened, and the network stays silent."

import hashlib
import json
import os
import shutil
import socket
import threading
import time

import faiss
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from closp_nb.core import ClospError, NotFoundError
from closp_nb.data.catalog import Catalog
from closp_nb.models.folder import load_model
from closp_nb.search.filters import read_polygon
from closp_nb.search.index import Index
from closp_nb.search.stores import _flat

SQ = faiss.ScalarQuantizer


@pytest.fixture
def folder(index_folder, tmp_path):
    shutil.copytree(index_folder, tmp_path / 'index')
    return tmp_path / 'index'


@pytest.fixture(scope='module')
def large(index_folder, tmp_path_factory):
    "The same tiles in lists."
    from closp_nb.search.stores import IVFStore

    d, old = tmp_path_factory.mktemp('large') / 'index', Index.load(index_folder)
    store = IVFStore.build(np.array(old.store.z))
    Index(store, old.cat, old.about | dict(store='large')).save(d)
    return d


def sign(folder, **about):
    "Make the sums of index.json right again."
    told = json.loads((folder / 'index.json').read_text()) | about
    for name in told['files']:
        raw = (folder / name).read_bytes()
        told['files'][name] = dict(bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())
    (folder / 'index.json').write_text(json.dumps(told))


def refused(folder, most_seconds=10):
    start = time.perf_counter()
    with pytest.raises(ClospError) as e:
        Index.load(folder)
    assert '\n' not in str(e.value) and time.perf_counter() - start < most_seconds


def filled(ix, z):
    ix.train(z)
    ix.add(z)
    return ix


OTHER_CODES = {
    'flat': lambda z: filled(faiss.IndexFlatIP(z.shape[1]), z),
    'half a byte': lambda z: filled(faiss.IndexScalarQuantizer(z.shape[1], SQ.QT_4bit, faiss.METRIC_INNER_PRODUCT), z),
    'unsigned': lambda z: filled(faiss.IndexScalarQuantizer(z.shape[1], SQ.QT_8bit, faiss.METRIC_INNER_PRODUCT), z),
    'distances': lambda z: filled(faiss.IndexScalarQuantizer(z.shape[1], SQ.QT_8bit_direct_signed, faiss.METRIC_L2), z),
    'graph': lambda z: filled(faiss.IndexHNSWFlat(z.shape[1], 8), z),
    'fewer': lambda z: filled(_flat(z.shape[1]), z[:-1]),
    'shorter': lambda z: filled(_flat(z.shape[1] // 2), np.ascontiguousarray(z[:, : z.shape[1] // 2])),
    'wrapped': lambda z: filled(faiss.IndexRefineFlat(_flat(z.shape[1])), z),
}


@pytest.mark.parametrize('kind', OTHER_CODES)
def test_codes_of_another_kind(folder, kind):
    z = np.load(folder / 'vectors.npy')
    faiss.write_index(OTHER_CODES[kind](z), str(folder / 'codes.faiss'))
    sign(folder)
    refused(folder)


@pytest.mark.parametrize('number', [-1, 80, 10**9, 2**60])
def test_lists_with_rows_that_are_not_there(large, tmp_path, number):
    folder = shutil.copytree(large, tmp_path / 'index')
    assert len(Index.load(folder)) == 80
    ix = faiss.read_index(str(folder / 'codes.faiss'))
    faiss.rev_swig_ptr(ix.invlists.get_ids(0), ix.invlists.list_size(0))[0] = number
    faiss.write_index(ix, str(folder / 'codes.faiss'))
    sign(folder)
    refused(folder)


OTHER_VECTORS = {
    'whole numbers': lambda z: z.astype('i4'),
    'double': lambda z: z.astype('f8'),
    'turned': lambda z: z.T.copy(),
    'flat': lambda z: z.ravel(),
    'fields': lambda z: z[:, 0].astype([('a', 'f4')]),
    'fewer': lambda z: z[1:],
}


@pytest.mark.parametrize('kind', OTHER_VECTORS)
def test_vectors_of_another_kind(folder, kind):
    np.save(folder / 'vectors.npy', OTHER_VECTORS[kind](np.load(folder / 'vectors.npy')))
    sign(folder)
    refused(folder)


CODERS = {
    'bomb': dict(wild=np.zeros(400_000_000, 'u1')),
    'nan': dict(scale=np.float32('nan')),
    'nought': dict(scale=np.float32(0)),
    'text': dict(mean=np.full(384, 'a')),
    'wide': dict(turn=np.zeros((384, 3), 'f4')),
    'rows': dict(wild=np.array([5, 80])),
    'order': dict(wild=np.array([5, 5])),
    'negative': dict(wild=np.array([-5])),
    'error': dict(error=np.array([1.0, 2.0])),
}


@pytest.mark.parametrize('kind', CODERS)
def test_a_coder_that_cannot_be(folder, kind):
    import tracemalloc

    arrays = dict(np.load(folder / 'coder.npz')) | CODERS[kind]
    (np.savez_compressed if kind == 'bomb' else np.savez)(folder / 'coder.npz', **arrays)
    del arrays
    sign(folder)
    tracemalloc.start()
    refused(folder)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


ABOUT = {
    'count': dict(count=10**12),
    'dim': dict(dim=8),
    'dim text': dict(dim='384'),
    'model': dict(model=5),
    'fingerprint': dict(fingerprint=['a']),
    'recall': dict(recall={'20': 'all'}),
    'calibration': dict(calibration={'s1': dict(slope=float('nan'), offset=0)}),
    'store': dict(store=['exact']),
}


@pytest.mark.parametrize('kind', ABOUT)
def test_an_index_json_that_cannot_be(folder, kind):
    sign(folder, **ABOUT[kind])
    refused(folder)


def test_names_that_lead_out(folder):
    told = json.loads((folder / 'index.json').read_text())
    shutil.copy(folder / 'coder.npz', folder.parent / 'coder.npz')
    for name in ('../coder.npz', str(folder.parent / 'coder.npz')):
        more = told['files'] | {name: told['files']['coder.npz']}
        (folder / 'index.json').write_text(json.dumps(told | dict(files=more)))
        refused(folder)


@pytest.mark.parametrize('text', ['[' * 100_000, '{"a":' * 100_000, '[]', 'null', '\xff'])
def test_json_of_any_kind(folder, text):
    (folder / 'index.json').write_text(text, encoding='latin-1')
    refused(folder)


ROWS = {
    'no place': lambda t: t.drop_columns('lon'),
    'place as text': lambda t: t.set_column(t.schema.get_field_index('lon'), 'lon', pa.array(['a'] * len(t))),
    'far away': lambda t: t.set_column(t.schema.get_field_index('lat'), 'lat', pa.array([1e9] * len(t))),
    'unknown sensor': lambda t: t.set_column(t.schema.get_field_index('sensor'), 'sensor', pa.array(['s9'] * len(t))),
    'no path': lambda t: t.set_column(t.schema.get_field_index('path'), 'path', pa.array([None] * len(t), pa.string())),
    'key as number': lambda t: t.set_column(t.schema.get_field_index('key'), 'key', pa.array([1] * len(t))),
    'labels as text': lambda t: t.set_column(t.schema.get_field_index('labels'), 'labels', pa.array(['a'] * len(t))),
    'fewer': lambda t: t[:-1],
}


@pytest.mark.parametrize('kind', ROWS)
def test_rows_that_cannot_be(folder, kind):
    "Refused when the folder is opened, and not at the first search."
    pq.write_table(ROWS[kind](pq.read_table(folder / 'rows.parquet')), folder / 'rows.parquet')
    sign(folder)
    refused(folder)


def test_more_rows_than_bytes(folder):
    t = pq.read_table(folder / 'rows.parquet')[:1]
    rows = t.take(pa.array(np.zeros(3_000_000, 'i4')))
    pq.write_table(rows, folder / 'rows.parquet', compression='zstd')
    assert (folder / 'rows.parquet').stat().st_size < 3_000_000
    with pytest.raises(ClospError):
        Catalog.load(folder / 'rows.parquet')


@pytest.mark.parametrize('name', ['index.json', 'codes.faiss', 'rows.parquet', 'coder.npz', 'vectors.npy'])
def test_a_pipe_is_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    done = []
    t = threading.Thread(target=lambda: (refused(folder), done.append(1)), daemon=True)
    t.start()
    t.join(20)
    assert done


# ---- what reaches out


@pytest.fixture
def listener():
    "A server on this machine that counts who calls."
    calls, s = [], socket.create_server(('127.0.0.1', 0))

    def serve():
        while True:
            try:
                c, _ = s.accept()
            except OSError:
                return
            calls.append(c)
            c.close()

    threading.Thread(target=serve, daemon=True).start()
    yield s.getsockname()[1], calls
    s.close()


@pytest.mark.parametrize(
    'path',
    [
        '/vsicurl/http://127.0.0.1:{}/a.tif',
        'http://127.0.0.1:{}/a.tif',
        '/vsizip//vsicurl/http://127.0.0.1:{}/a.zip/a.tif',
        '/dev/stdin',
        '/nowhere/a.tif',
    ],
)
@pytest.mark.parametrize('key', ['', '0,0'])
def test_a_row_is_a_file(folder, listener, path, key):
    port, calls = listener
    t = pd.read_parquet(folder / 'rows.parquet', columns=['path', 'key']).assign(path=path.format(port), key=key)
    rows = pq.read_table(folder / 'rows.parquet')
    for c in t:
        rows = rows.set_column(rows.schema.get_field_index(c), c, pa.array(t[c]))
    pq.write_table(rows, folder / 'rows.parquet')
    sign(folder)
    index = Index.load(folder)
    for read in (lambda: index.cat[0], lambda: index.cat.pixels(0)):
        with pytest.raises(ClospError, match='no file here|lies on the web'):
            read()
    assert not calls


VRT = '''<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>/vsicurl/http://127.0.0.1:{}/a.geojson</SrcDataSource>
</OGRVRTLayer></OGRVRTDataSource>'''


@pytest.mark.parametrize('name', ['a.vrt', 'a.geojson', 'a.shp', 'a.gpkg', 'a', 'a.xml'])
def test_an_area_is_a_file_of_its_kind(tmp_path, listener, name):
    port, calls = listener
    for text in (VRT, '<OGRWFSDataSource><URL>http://127.0.0.1:{}/</URL></OGRWFSDataSource>', 'http://127.0.0.1:{}/'):
        (tmp_path / name).write_text(text.format(port))
        with pytest.raises(ClospError):
            read_polygon(tmp_path / name)
    with pytest.raises(NotFoundError):
        read_polygon(f'/vsicurl/http://127.0.0.1:{port}/a.geojson')
    assert not calls


# ---- models


@pytest.fixture
def model(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / 'model')
    return tmp_path / 'model'


def rewrite(model, change):
    "Change what model.json says, and sign it."
    from safetensors.torch import load_file

    from closp_nb.models.folder import _hash

    d = json.loads((model / 'model.json').read_text())
    d.pop('fingerprint')
    d = change(d) or d
    signed = d | dict(fingerprint=_hash(d, load_file(model / 'weights.safetensors')))
    (model / 'model.json').write_text(json.dumps(signed))


MODELS = {
    'head': lambda d: d['recipe']['model'].update(head=10**12),
    'small head': lambda d: d['recipe']['model'].update(head=65_536),
    'head in the name': lambda d: d['recipe']['model'].update(image_encoder='tiny:1000000000000'),
    'dim': lambda d: d['recipe']['model'].update(dim=65_536),
    'sensors': lambda d: d.update(sensors=['s1']),
    'sensor': lambda d: d['sensors'].update(s1=None),
    'bands': lambda d: d['sensors']['s1'].update(bands=None),
    'type': lambda d: d.update(model_type=['closp']),
    'no type': lambda d: d.pop('model_type') and None,
    'recipe': lambda d: d.update(recipe=5),
    'no sensors': lambda d: d.update(sensors={}),
}


@pytest.mark.parametrize('kind', MODELS)
def test_a_model_that_cannot_be(model, kind):
    import resource

    rewrite(model, MODELS[kind])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ClospError) as e:
        load_model(model)
    assert '\n' not in str(e.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, 'kilobytes'


def test_a_model_folder_of_pipes_and_depths(model):
    (model / 'model.json').write_text('[' * 100_000)
    with pytest.raises(ClospError):
        load_model(model)
    (model / 'weights.safetensors').unlink()
    os.mkfifo(model / 'weights.safetensors')
    with pytest.raises(ClospError):
        load_model(model)
