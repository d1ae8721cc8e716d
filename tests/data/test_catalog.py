"Catalogs: what is saved comes back, wherever the folder went, whoever wrote it; the benchmark of loading, in small."

import re
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from shapely.geometry import Point, box

from closp_nb.core import DamagedError, IncompatibleError, InputError, NotFoundError
from closp_nb.data.catalog import Catalog, corpus_catalog, open_catalog, pixel_hash, tile_row, to_catalog
from closp_nb.data.report import corpus_report
from closp_nb.data.hdf5 import close_corpora, corpus_about, read_array, tile_at, write_corpus
from closp_nb.data.products import read_bands, read_geotiff
from closp_nb.data.rasters import open_raster, write_geotiff
from closp_nb.geodesy import footprint, from_lonlat, to_lonlat
from closp_nb.search.filters import filter_mask
from closp_nb.sensors import S1, S2, Tile

BENCH = Path(__file__).resolve().parents[1] / 'benchmarks' / 'bench_catalog.py'
WHERE = dict(crs='EPSG:32632', bounds=(600_000.0, 5_300_000.0, 601_200.0, 5_301_200.0), lonlat=(10.3435, 47.8512))


def tile(s=S2, **kw):
    x = s.mean[:, None, None] + 0.1 * s.std[:, None, None] * np.random.default_rng(0).standard_normal(
        (len(s.bands), 120, 120)
    )
    return Tile(**(dict(id='a', sensor=s, pixels=x, labels=('Mixed forest',)) | WHERE | kw))


def rows(n, folder):
    return [
        tile_row(
            tile(S1 if i % 2 else S2, id=f't{i}', labels=[('Mixed forest',), ('Pastures', 'Water bodies'), ()][i % 3]),
            folder / 'data' / f't{i}.tif',
            '0,0',
            'gallery',
        )
        for i in range(n)
    ]


def test_loading_is_quick_and_small():
    p = subprocess.run([sys.executable, str(BENCH), '20000', '1'], capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr
    m = re.fullmatch(r'bench_catalog ratio=(\d+\.\d) goal=1', p.stdout.splitlines()[-1])
    peak = re.search(r'highest: (\d+) MB', p.stdout)
    assert m and float(m[1]) > 1 and int(peak[1]) < 600, p.stdout


def test_round_trip_and_a_folder_that_moves(tmp_path):
    cat = to_catalog(rows(6, tmp_path / 'old'))
    for p in cat.frame.path:
        write_geotiff(tile(), p)
    cat.save(tmp_path / 'old' / 'catalog.parquet')
    assert set(pq.read_table(tmp_path / 'old' / 'catalog.parquet')['path'].to_pylist()) == {
        f'data/t{i}.tif' for i in range(6)
    }
    shutil.move(tmp_path / 'old', tmp_path / 'new')
    back = Catalog.load(tmp_path / 'new' / 'catalog.parquet')
    assert back[0].pixels.shape == (12, 120, 120) and back.pixels(0).shape == (12, 120, 120)
    for c in ('labels', 'raw_labels', 'notes'):
        assert back.table[c].tolist() == cat.frame[c].tolist()
    assert back.table.labels[2] == [] and back.table.labels[0] is back.table.labels[3]
    part = back.where(sensor='s1', caption='grass. water')
    assert part.table.id.tolist() == ['t1'] and 'geometry' not in back.table
    assert (
        part.frame.geometry.iloc[0].equals(cat.frame.geometry[1])
        and isinstance(part.frame, gpd.GeoDataFrame)
        and part.frame.crs == 'EPSG:4326'
    )
    assert back.take([3, 1]).frame.geometry.geom_equals(cat.frame.geometry[[3, 1]].reset_index(drop=True)).all()
    assert back.frame.geometry.geom_equals(cat.frame.geometry).all() and 'geometry' in back.table
    assert len(Catalog.concat([part, back])) == 7 and back.frame.groupby(['sensor', 'split']).size().tolist() == [3, 3]


def test_a_path_elsewhere_stays_whole(tmp_path):
    to_catalog(rows(2, tmp_path / 'pixels')).save(tmp_path / 'here' / 'catalog.parquet')
    assert Catalog.load(tmp_path / 'here' / 'catalog.parquet').table.path.tolist() == [
        str(tmp_path / 'pixels' / 'data' / f't{i}.tif') for i in range(2)
    ]
    to_catalog(rows(2, tmp_path / 'pixels')).save(tmp_path / 'there' / 'catalog.parquet', below=tmp_path)
    assert pq.read_table(tmp_path / 'there' / 'catalog.parquet')['path'].to_pylist()[0] == '../pixels/data/t0.tif'


def test_other_writers(tmp_path):
    f = to_catalog(rows(3, tmp_path)).frame
    f.to_crs('EPSG:3857').to_parquet(tmp_path / 'mercator.parquet')
    assert Catalog.load(tmp_path / 'mercator.parquet').frame.geometry.geom_equals_exact(f.geometry, 1e-9).all()
    f.to_parquet(tmp_path / 'arrow.parquet', geometry_encoding='geoarrow')
    assert Catalog.load(tmp_path / 'arrow.parquet').frame.geometry.geom_equals(f.geometry).all()
    f.assign(notes=None, raw_labels=[['x'], None, []]).to_parquet(tmp_path / 'gaps.parquet')
    got = Catalog.load(tmp_path / 'gaps.parquet').table
    assert got.raw_labels.tolist() == [['x'], [], []]


@pytest.mark.parametrize(
    'spoil,kind,words',
    [
        (lambda p, f: p.write_bytes(b'PAR1 not really'), DamagedError, 'not a catalog'),
        (lambda p, f: pd.DataFrame(f.drop(columns='geometry')).to_parquet(p), IncompatibleError, 'lacks geometry'),
        (lambda p, f: f.drop(columns='key').to_parquet(p), IncompatibleError, 'lacks key'),
        (
            lambda p, f: pq.write_table(
                pa.table(dict(f.drop(columns='geometry').astype(object), geometry=[b'nonsense'] * 3)), p
            ),
            DamagedError,
            'not a catalog',
        ),
    ],
    ids=range(4),
)
def test_what_is_no_catalog(tmp_path, spoil, kind, words):
    path = tmp_path / 'catalog.parquet'
    spoil(path, to_catalog(rows(3, tmp_path)).frame)
    with pytest.raises(kind, match=words) as e:
        Catalog.load(path)
    assert '\n' not in str(e.value)


def test_each_refusal_has_its_kind(tmp_path):
    for missing in (
        lambda: Catalog.load(tmp_path / 'none.parquet'),
        lambda: open_catalog(tmp_path),
        lambda: Catalog.from_rasters(tmp_path / 'none'),
        lambda: Catalog.from_rasters(tmp_path),
        lambda: corpus_catalog(tmp_path),
        lambda: read_geotiff(tmp_path / 'none.tif'),
    ):
        with pytest.raises(NotFoundError) as e:
            missing()
        assert '\n' not in str(e.value)
    write_geotiff(tile(S1), tmp_path / 'radar.tif')
    with pytest.raises(NotFoundError, match='radar.tif lacks B01'):
        read_geotiff(tmp_path / 'radar.tif', S2)
    with pytest.raises(NotFoundError, match='has B02 alone'):
        read_bands([scene(tmp_path / 'p' / 'p_B02.tif', 120, 120, bands=('B02',))])
    (tmp_path / 'metadata.parquet').write_bytes(b'PAR1')
    with pytest.raises(DamagedError, match='fetch it again'):
        corpus_catalog(tmp_path)


def test_a_catalog_of_windows_opens_here(tmp_path):
    cat = to_catalog(rows(2, tmp_path))
    for p in cat.frame.path:
        write_geotiff(tile(), p)
    paths = [rf'data\{Path(p).name}' for p in cat.frame.path]
    cat.frame.assign(path=paths).to_parquet(tmp_path / 'catalog.parquet')
    back = Catalog.load(tmp_path / 'catalog.parquet')
    assert back[0].pixels.shape == (12, 120, 120) and back.table.path.tolist() == cat.frame.path.tolist()


@pytest.mark.parametrize('lack', ['source', 'time', 'raw_labels', 'event', 'notes', 'cloud', 'gaps', 'hash'])
def test_a_catalog_may_lack_what_can_be_left_open(tmp_path, lack):
    "As other tools save it; the reader of an index said KeyError: 'source'."
    cat = to_catalog(rows(3, tmp_path))
    cat.frame.drop(columns=lack).to_parquet(tmp_path / 'catalog.parquet')
    back = Catalog.load(tmp_path / 'catalog.parquet')
    assert lack in back.table and len(back.frame) == 3
    assert 'tiles' in corpus_report(back, per_group=1, progress=False)
    assert filter_mask(back, source='x', since='2020-01-01', max_cloud=0.5).tolist() == [False] * 3


def test_times_of_other_tools(tmp_path):
    "Timestamps and nulls, where we write ISO text."
    cat = to_catalog(rows(3, tmp_path))
    for time in (
        pd.to_datetime(['2021-07-01 10:00', None, '2020-01-01 00:00']),
        ['2021-07-01T10:00:00', None, '2020-01-01'],
    ):
        cat.frame.assign(time=time, source=None).to_parquet(tmp_path / 'catalog.parquet')
        back = Catalog.load(tmp_path / 'catalog.parquet')
        assert back.table.time.str[:10].tolist() == ['2021-07-01', '', '2020-01-01']
        assert back.table.source.tolist() == [''] * 3


def test_a_bug_is_no_damaged_catalog(tmp_path, monkeypatch):
    "What the file has no part in must come out as it is."
    write_geotiff(tile(), tmp_path / 'a.tif')
    cat, _ = Catalog.from_rasters(tmp_path, progress=False)
    cat.save(tmp_path / 'catalog.parquet')
    for place in ('_shared', '_as_we_write', '_whole'):
        with monkeypatch.context() as m:
            m.setattr(f'closp_nb.data.catalog.{place}', lambda *a: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                Catalog.load(tmp_path / 'catalog.parquet')
    for place in (
        'data.catalog.pixel_hash',
        'data.scenes.tile_grid',
        'data.scenes.place_bands',
    ):
        with monkeypatch.context() as m:
            m.setattr(f'closp_nb.{place}', lambda *a, **kw: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                Catalog.from_rasters(tmp_path, progress=False)


def test_a_bug_is_no_damaged_corpus(tmp_path, monkeypatch):
    where = WHERE | dict(lonlat=(np.nan, np.nan))
    main = write_corpus(tmp_path / 'corpus', [tile(id='own2_a', **where)]) / 'crisislandmark.h5'
    with monkeypatch.context() as m:
        m.setattr('closp_nb.data.hdf5._shard', lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            read_array(main, 'own2_a', 'image')
    with pytest.raises(InputError, match='mine'), tile_at(main, 'own2_a'):
        raise InputError('mine')
    with pytest.raises(NotFoundError, match='mine'), tile_at(main, 'own2_a'):
        raise NotFoundError('mine')
    with pytest.raises(NotFoundError, match="no tile 'own2_b'"):
        corpus_about(main, 'own2_b')
    close_corpora()
    (tmp_path / 'corpus' / 'own2.h5').unlink()
    with pytest.raises(NotFoundError, match='own2.h5 is not there'):
        read_array(main, 'own2_a', 'image')
    main.write_bytes(b'HDF')
    close_corpora()
    with pytest.raises(DamagedError, match='cannot be opened'):
        read_array(main, 'own2_a', 'image')
    close_corpora()


def test_a_damaged_shape_is_named(tmp_path):
    path = tmp_path / 'catalog.parquet'
    to_catalog(rows(3, tmp_path)).save(path)
    t = pq.read_table(path)
    pq.write_table(
        t.set_column(
            t.schema.get_field_index('geometry'), 'geometry', pa.array([b'nonsense'] * 3)
        ).replace_schema_metadata(t.schema.metadata),
        path,
    )
    with pytest.raises(DamagedError, match='damaged geometry'):
        Catalog.load(path).frame


def test_fingerprints():
    a, b = tile().pixels, tile(S1).pixels
    assert (
        pixel_hash(a) == pixel_hash(np.asfortranarray(a)) == pixel_hash(a.astype('>f4')) != pixel_hash(b)
        and len(pixel_hash(a)) == 16
    )
    r = tile_row(tile(cloud=0.5, notes=('x',)), 'p', '0,0', 'train')
    assert (r['hash'], r['cloud'], r['gaps'], r['notes'], r['caption']) == (pixel_hash(a), 0.5, 0.0, ['x'], 'trees')


@pytest.mark.parametrize('crs', ['EPSG:32760', 'EPSG:32701', 'EPSG:3832', 'EPSG:4326'])
@pytest.mark.parametrize('frac', [0, 0.25, 0.5, 1])
def test_the_date_line(crs, frac):
    "A tile in Fiji of which this part lies east of the line, in four projections."
    side = 0.01 if crs == 'EPSG:4326' else 1200
    x, y = (180, -16.8) if crs == 'EPSG:4326' else from_lonlat(180, -16.8, crs)
    bounds = (x - side * (1 - frac), y - side / 2, x + side * frac, y + side / 2)
    g = footprint(bounds, crs)
    parts = list(getattr(g, 'geoms', [g]))
    assert g.is_valid and all(
        -180 <= p.bounds[0] < p.bounds[2] <= 180 and p.bounds[2] - p.bounds[0] < 0.02 for p in parts
    )
    east = sum(p.area for p in parts if p.bounds[0] < 0)
    assert east / g.area == pytest.approx(frac, abs=0.01)  # UTM's grid is not quite parallel to the line
    if 0 < frac < 1:
        assert g.geom_type == 'MultiPolygon' and len(parts) == 2
    elif crs in ('EPSG:3832', 'EPSG:4326'):
        assert g.geom_type == 'Polygon'  # an edge on the line itself cuts nothing
    lonlat = to_lonlat((bounds[0] + bounds[2]) / 2, y, crs)
    lonlat = ((lonlat[0] + 180) % 360 - 180, lonlat[1])
    r = tile_row(tile(S1, crs=crs, bounds=bounds, lonlat=lonlat), 'p', '0,0', 'train')
    assert (r['lon'], r['lat']) == lonlat and r['geometry'].equals(g)
    assert to_catalog([r]).frame.geometry[0].equals(g)


def test_four_corners_and_poles():
    b = (300_000.0, 7_900_000.0, 301_200.0, 7_901_200.0)  # far from the middle of the zone: askew
    g = footprint(b, 'EPSG:32633')
    for i in (0, 2):
        for j in (1, 3):
            assert g.boundary.distance(Point(to_lonlat(b[i], b[j], 'EPSG:32633'))) < 1e-9
    assert g.area < 0.9 * box(*g.bounds).area
    assert footprint((-600, -600, 600, 600), 'EPSG:3031').bounds[:2] == (-180, -90)  # the south pole


@pytest.mark.parametrize(
    'lonlat,words',
    [((47.8512, 10.3435), 'latitude first'), ((10.5, 47.8512), 'find out'), ((-10.3435, 47.8512), 'find out')],
)
def test_lonlat_must_lie_in_its_footprint(lonlat, words):
    with pytest.raises(InputError, match=words) as e:
        tile_row(tile(lonlat=lonlat), 'p', '0,0', 'train')
    assert '\n' not in str(e.value) and 'tile a' in str(e.value)
    for fine in ((10.3435, 47.8512), (10.4, 47.9), (np.nan, np.nan)):
        tile_row(tile(lonlat=fine), 'p', '0,0', 'train')


def test_a_raster_that_claims_too_many_bands(tmp_path):
    "A damaged head said 40,449 bands, and reading them would have taken hours."
    with rasterio.open(
        tmp_path / 'wide.tif', 'w', driver='GTiff', width=1, height=1, count=1001, dtype='uint8', interleave='pixel'
    ) as d:
        d.write(np.zeros((1001, 1, 1), 'u1'))
    with pytest.raises(DamagedError, match='claims to hold 1,001 bands'):
        open_raster(tmp_path / 'wide.tif')


def test_bounds_that_no_projection_maps():
    for kw, words in (
        (dict(crs='EPSG:99999'), 'no projection'),
        (dict(crs='LOCAL_CS["a plan",UNIT["metre",1]]'), 'into degrees'),
        (dict(bounds=(1e12, 1e12, 2e12, 2e12)), 'outside'),
    ):
        with pytest.raises(InputError, match=words):
            tile_row(tile(**kw), 'p', '0,0', 'train')


# ---- folders


def scene(path, h, w, gaps=(), bands=S2.names, **tags):
    "Optical numbers in an uncompressed GeoTIFF, row by row; `gaps` are (row, column) of windows without data."
    x = np.tile(np.rint(10_000 * tile().pixels).clip(1), (1, -(-h // 120), -(-w // 120)))[: len(bands), :h, :w]
    for r, c in gaps:
        x[:, r : r + 120, c : c + 120] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        count=len(x),
        height=h,
        width=w,
        dtype='uint16',
        crs='EPSG:32632',
        transform=rasterio.transform.from_origin(600_000, 5_301_200, 10, 10),
    ) as d:
        d.descriptions = bands
        d.update_tags(**tags)
        d.write(x.astype('uint16'))  # after the words, which would otherwise stand at the end of the file
    return path


def test_a_refused_window_is_left_out_alone(tmp_path):
    scene(tmp_path / 'a' / 'coast.tif', 240, 360, gaps=[(0, 120), (120, 240)])
    (tmp_path / 'a' / 'labels.csv').write_text('path,labels\ncoast.tif,Pastures\n')
    cat, left = Catalog.from_rasters(tmp_path / 'a', progress=False)
    assert cat.frame.id.tolist() == [f'coast.tif@{at}' for at in ('0,0', '0,240', '120,0', '120,120')] and set(
        cat.frame.caption
    ) == {'grass'}
    assert [p for p, _ in left] == [f'coast.tif@{at}' for at in ('0,120', '120,240')] and all(
        'missing' in why for _, why in left
    )
    assert cat.frame.hash.nunique() == 1 and (cat.frame.gaps == 0).all()  # the same square, over and over


def test_one_line_where_one_reason_holds_for_all(tmp_path):
    scene(tmp_path / 'good.tif', 120, 120)
    scene(tmp_path / 'no_red.tif', 240, 240, bands=S2.names[:-1])
    scene(tmp_path / 'odd.tif', 240, 240)
    (tmp_path / 'labels.csv').write_text('path,labels\nodd.tif,Pastoors\n')
    cat, left = Catalog.from_rasters(tmp_path, progress=False)
    assert cat.frame.id.tolist() == ['good.tif'] + [f'no_red.tif@{r},{c}' for r in (0, 120) for c in (0, 120)]
    assert '11 of 12 bands' in cat.frame.notes[1][-1] and [p for p, _ in left] == ['odd.tif']


def test_a_bad_label_table_costs_its_own_rows(tmp_path):
    "A table in another encoding, with a byte-order mark or a ragged row ended the run over a folder of good tiles."
    for name in ('a.tif', 'sub/B.TIF', 'dry.tif', 'zoë.tif'):
        scene(tmp_path / name, 120, 120)
    rows = [
        'path,labels',
        'a.tif,Pastures',
        r'sub\b.tif',
        r'sub\B.tif,Salines',
        'a.tif,Water bodies',
        'zoë.tif,Airports',
    ]
    for encoding in ('cp1252', 'utf-8-sig'):
        (tmp_path / 'labels.csv').write_bytes('\r\n'.join([*rows, 'dry.tif,']).encode(encoding))
        cat, left = Catalog.from_rasters(tmp_path, progress=False)
        assert dict(zip(cat.table.id, cat.table.caption)) == {
            'a.tif': 'grass. water',
            'dry.tif': '',
            'sub/B.TIF': 'bare',
            'zoë.tif': 'built',
        }
        said = [(p, 'cells' in why, 'cp1252' in why) for p, why in left]
        assert said == [('labels.csv, row 3', True, False)] + [('labels.csv', False, True)] * (encoding == 'cp1252')
    (tmp_path / 'labels.csv').write_bytes(b'')
    cat, left = Catalog.from_rasters(tmp_path, progress=False)
    assert len(cat) == 4 and len(left) == 1 and 'path and labels' in left[0][1]


def test_the_windows_before_a_break_are_kept(tmp_path):
    whole, _ = Catalog.from_rasters(scene(tmp_path / 'w' / 'a.tif', 480, 240, offset='0').parent, progress=False)
    f = scene(tmp_path / 'c' / 'a.tif', 480, 240, offset='0')
    f.write_bytes(f.read_bytes()[: int(f.stat().st_size * 0.6)])
    cat, left = Catalog.from_rasters(f.parent, progress=False)
    assert (
        cat.frame.id.tolist() == whole.frame.id.tolist()[: len(cat)]
        and cat.frame.hash.tolist() == whole.frame.hash.tolist()[: len(cat)]
        and 2 <= len(cat) < 8
    )
    assert len(left) + len(cat) == 8 and all('breaks off' in why for _, why in left)
    assert left.left[0].id == f"a.tif@{','.join(map(str, [len(cat) // 2 * 120, len(cat) % 2 * 120]))}"
    assert {o.kind for o in left.left} == {'failed'}


def test_every_raster_is_opened_once(tmp_path, monkeypatch):
    from closp_nb.data import rasters as tiles

    scene(tmp_path / 'a.tif', 360, 360)
    for i, b in enumerate(S2.names):
        scene(tmp_path / 'p' / f'p_{b}.tif', 360, 360, bands=(b,))
    opened, real = [], tiles.DatasetReader
    monkeypatch.setattr(tiles, 'DatasetReader', lambda p, *a, **kw: opened.append(str(p)) or real(p, *a, **kw))
    cat, left = Catalog.from_rasters(tmp_path, progress=False)
    assert len(cat) == 18 and not left
    assert len(opened) == 2 * len(set(opened)) == 26  # once to hear its name, once to read


def test_a_flat_folder_of_bands_is_sorted_by_scene(tmp_path):
    for i in range(3):
        for b in S2.names:
            scene(tmp_path / f'p{i}_{b}.tif', 120, 120, bands=(b,))
    cat, left = Catalog.from_rasters(tmp_path, progress=False)
    assert cat.frame.id.tolist() == ['P0', 'P1', 'P2'] and not len(left)
    assert (cat[1].pixels == read_bands(sorted(tmp_path.glob('p1_*'))).pixels).all()


# ---- projections without a code

UNNAMED = {  # what GDAL finds no EPSG number for
    'utm': '+proj=utm +zone=32 +ellps=clrk66 +units=m',
    'tmerc': '+proj=tmerc +lat_0=0 +lon_0=9 +k=0.9996 +x_0=510000 +y_0=100 +datum=WGS84',
    'laea': '+proj=laea +lat_0=52 +lon_0=9 +x_0=1000 +y_0=0 +ellps=GRS80',
}


@pytest.mark.parametrize('name', UNNAMED)
def test_a_projection_without_a_code_is_a_known_place(tmp_path, name):
    "The corpus said of it that it does not say where it lies."
    crs = rasterio.crs.CRS.from_user_input(UNNAMED[name]).to_wkt()
    x, y = from_lonlat(9.2, 50.0, crs)
    box_, place = (x - 600, y - 600, x + 600, y + 600), dict(crs=crs, lonlat=(9.2, 50.0))
    write_corpus(tmp_path / 'c', [tile(S1, id='mmflood_a', bounds=box_, **place)])
    about = corpus_about(tmp_path / 'c' / 'crisislandmark.h5', 'mmflood_a')
    assert about['crs'] == 'EPSG:32632' and np.allclose(about['lonlat'], (9.2, 50.0), atol=1e-5)
    corners = [to_lonlat(*c, about['crs']) for c in (about['bounds'][:2], about['bounds'][2:])]
    want = [to_lonlat(*c, crs) for c in (box_[:2], box_[2:])]
    assert np.allclose(corners, want, atol=1.5e-4)  # ten metres, a pixel


def test_a_place_that_the_corpus_cannot_hold(tmp_path):
    sinus = rasterio.crs.CRS.from_user_input('+proj=sinu +R=6371007.181 +units=m').to_wkt()
    x, y = from_lonlat(100.0, 50.0, sinus)
    askew = tile(S1, id='mmflood_a', crs=sinus, bounds=(x - 600, y - 600, x + 600, y + 600), lonlat=(100.0, 50.0))
    with pytest.raises(InputError, match='gdalwarp -t_srs EPSG:32647'):
        write_corpus(tmp_path / 'c', [askew])
    with pytest.raises(InputError, match='does not say where it lies'):
        write_corpus(tmp_path / 'd', [tile(S1, id='mmflood_a', crs='')])
