"Catalogs: what is saved comes back, wherever the folder went and whoever wrote it; and the benchmark of loading, in small."
import re, shutil, subprocess, sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shapely.geometry import box

from closp_nb.catalog import Catalog, pixel_hash, tile_row, to_catalog
from closp_nb.core import BadInput, S1, S2, Tile
from closp_nb.tiles import write_geotiff

BENCH = Path(__file__).resolve().parent/'benchmarks'/'bench_catalog.py'
WHERE = dict(crs='EPSG:32632', bounds=(600_000., 5_300_000., 601_200., 5_301_200.), lonlat=(10.3435, 47.8512))

def tile(s=S2, **kw):
    x = s.mean[:, None, None] + .1*s.std[:, None, None]*np.random.default_rng(0).standard_normal((len(s.bands), 120, 120))
    return Tile(**(dict(id='a', sensor=s, pixels=x, labels=('Mixed forest',)) | WHERE | kw))

def rows(n, folder):
    return [tile_row(tile(S1 if i % 2 else S2, id=f't{i}', labels=[('Mixed forest',), ('Pastures', 'Water bodies'), ()][i % 3]), folder/'data'/f't{i}.tif', '0,0', 'corpus') for i in range(n)]

def test_loading_is_quick_and_small():
    p = subprocess.run([sys.executable, str(BENCH), '20000', '1'], capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr
    m = re.fullmatch(r'bench_catalog ratio=(\d+\.\d) goal=1', p.stdout.splitlines()[-1])
    peak = re.search(r'highest: (\d+) MB', p.stdout)
    assert m and float(m[1]) > 1 and int(peak[1]) < 600, p.stdout

def test_round_trip_and_a_folder_that_moves(tmp_path):
    cat = to_catalog(rows(6, tmp_path/'old'))
    for p in cat.frame.path: write_geotiff(tile(), p)
    cat.save(tmp_path/'old'/'catalog.parquet')
    assert set(pq.read_table(tmp_path/'old'/'catalog.parquet')['path'].to_pylist()) == {f'data/t{i}.tif' for i in range(6)}
    shutil.move(tmp_path/'old', tmp_path/'new')
    back = Catalog.load(tmp_path/'new'/'catalog.parquet')
    assert back[0].pixels.shape == (12, 120, 120) and back.pixels(0).shape == (12, 120, 120)
    for c in ('labels', 'raw_labels', 'notes'): assert back.table[c].tolist() == cat.frame[c].tolist()
    assert back.table.labels[2] == [] and back.table.labels[0] is back.table.labels[3]
    part = back.where(sensor='s1', caption='grass. water')
    assert part.table.id.tolist() == ['t1'] and 'geometry' not in back.table
    assert part.frame.geometry.iloc[0].equals(cat.frame.geometry[1]) and isinstance(part.frame, gpd.GeoDataFrame) and part.frame.crs == 'EPSG:4326'
    assert back.take([3, 1]).frame.geometry.geom_equals(cat.frame.geometry[[3, 1]].reset_index(drop=True)).all()
    assert back.frame.geometry.geom_equals(cat.frame.geometry).all() and 'geometry' in back.table
    assert len(Catalog.concat([part, back])) == 7 and back.frame.groupby(['sensor', 'split']).size().tolist() == [3, 3]

def test_a_path_elsewhere_stays_whole(tmp_path):
    to_catalog(rows(2, tmp_path/'pixels')).save(tmp_path/'here'/'catalog.parquet')
    assert Catalog.load(tmp_path/'here'/'catalog.parquet').table.path.tolist() == [str(tmp_path/'pixels'/'data'/f't{i}.tif') for i in range(2)]
    to_catalog(rows(2, tmp_path/'pixels')).save(tmp_path/'there'/'catalog.parquet', below=tmp_path)
    assert pq.read_table(tmp_path/'there'/'catalog.parquet')['path'].to_pylist()[0] == '../pixels/data/t0.tif'

def test_other_writers(tmp_path):
    f = to_catalog(rows(3, tmp_path)).frame
    f.to_crs('EPSG:3857').to_parquet(tmp_path/'mercator.parquet')
    assert Catalog.load(tmp_path/'mercator.parquet').frame.geometry.geom_equals_exact(f.geometry, 1e-9).all()
    f.to_parquet(tmp_path/'arrow.parquet', geometry_encoding='geoarrow')
    assert Catalog.load(tmp_path/'arrow.parquet').frame.geometry.geom_equals(f.geometry).all()
    f.assign(notes=None, raw_labels=[['x'], None, []]).to_parquet(tmp_path/'gaps.parquet')
    got = Catalog.load(tmp_path/'gaps.parquet').table
    assert got.raw_labels.tolist() == [['x'], [], []]

@pytest.mark.parametrize('spoil,words', [
    (lambda p, f: p.write_bytes(b'PAR1 not really'), 'not a catalog'),
    (lambda p, f: pd.DataFrame(f.drop(columns='geometry')).to_parquet(p), 'lacks geometry'),
    (lambda p, f: f.drop(columns='key').to_parquet(p), 'lacks key'),
    (lambda p, f: pq.write_table(pa.table(dict(f.drop(columns='geometry').astype(object), geometry=[b'nonsense']*3)), p), 'not a catalog')], ids=range(4))
def test_what_is_no_catalog(tmp_path, spoil, words):
    path = tmp_path/'catalog.parquet'
    spoil(path, to_catalog(rows(3, tmp_path)).frame)
    with pytest.raises(BadInput, match=words) as e: Catalog.load(path)
    assert '\n' not in str(e.value)

def test_a_damaged_shape_is_named(tmp_path):
    path = tmp_path/'catalog.parquet'
    to_catalog(rows(3, tmp_path)).save(path)
    t = pq.read_table(path)
    pq.write_table(t.set_column(t.schema.get_field_index('geometry'), 'geometry', pa.array([b'nonsense']*3)).replace_schema_metadata(t.schema.metadata), path)
    with pytest.raises(BadInput, match='damaged geometry'): Catalog.load(path).frame

def test_fingerprints():
    a, b = tile().pixels, tile(S1).pixels
    assert pixel_hash(a) == pixel_hash(np.asfortranarray(a)) == pixel_hash(a.astype('>f4')) != pixel_hash(b) and len(pixel_hash(a)) == 16
    r = tile_row(tile(cloud=.5, notes=('x',)), 'p', '0,0', 'train')
    assert (r['hash'], r['cloud'], r['gaps'], r['notes'], r['caption']) == (pixel_hash(a), .5, 0., ['x'], 'trees')
