"What products and folders of the wide world do to a reader: names, numbers, links and files that stand in no list."

import json
import os
import zipfile

import numpy as np
import pytest
import rasterio

from closp_nb.core import ClospError, InputError, NotFoundError
from closp_nb.data.catalog import Catalog
from closp_nb.data.rasters import grid_of, open_raster
from closp_nb.evidence import yaml_declared
from closp_nb.synthetic.situations import L2A, ramp

NORTH = rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)
TRUTH = np.stack([ramp()[b] for b in L2A])


def write(path, x=TRUTH, names=(), how=1e4, crs='EPSG:32633', transform=NORTH, **options):
    "A GeoTIFF of reflectance, multiplied by `how` and as whole numbers."
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.atleast_3d(np.rint(x * how).astype('uint16').T).T
    head = dict(driver='GTiff', count=len(x), height=x.shape[1], width=x.shape[2], dtype=x.dtype, crs=crs)
    with rasterio.open(path, 'w', **head, transform=transform, **options) as d:
        d.write(x)
        d.descriptions = names or [None] * len(x)
    return path


def bands(folder, name='{}.tif', **more):
    "A file for each band."
    for b, x in zip(L2A, TRUTH):
        write(folder / name.format(more.get(b, b)), x)
    return folder


def read(place, **facts):
    return Catalog.from_rasters(place, progress=False, **facts)


def check_values(tile):
    keep = [tile.sensor.band(b) for b in tile.bands]
    assert abs(tile.pixels[keep] - TRUTH[[L2A.index(b) for b in tile.bands]]).max() < 1e-3, tile.notes


# ---- names

_AUSTRALIA = 'coastal_aerosol blue green red red_edge_1 red_edge_2 red_edge_3 nir_1 nir_2 - swir_2 swir_3'.split()
_NAMES = {
    'Digital Earth Australia': [f'nbart_{n}' for n in _AUSTRALIA],
    'its aliases': _AUSTRALIA,
    'Landsat-like numbers': [{'swir_2': 'swir_1', 'swir_3': 'swir_2'}.get(n, n) for n in _AUSTRALIA],
}


@pytest.mark.parametrize('names', _NAMES.values(), ids=_NAMES)
def test_short_waves_are_told_apart(tmp_path, names):
    write(tmp_path / 'scene.tif', names=[n if '-' not in n else None for n in names])
    cat, _ = read(tmp_path)
    assert set(cat[0].bands) == set(L2A) - {'B09'}
    check_values(cat[0])


def test_files_of_australia(tmp_path):
    names = dict(zip(L2A, (n.replace('_', '-') for n in _AUSTRALIA)))
    bands(tmp_path, 'ga_s2am_nbart_3-2-1_33UUP_2022-03-04_final_nbart-{}.tif', **(names | {'B09': 'contiguity'}))
    cat, report = read(tmp_path)
    assert (len(cat), len(report), cat.table.time[0]) == (1, 1, '2022-03-04')
    assert set(cat[0].bands) == set(L2A) - {'B09'}
    check_values(cat[0])


def test_files_of_sen2like(tmp_path):
    product = tmp_path / 'S2A_MSIL2F_20220711T101559_N9999_R065_T33UUP_20220711T162203.SAFE'
    bands(product / 'GRANULE' / 'L2F_T33UUP_20220711T101553' / 'IMG_DATA', 'L2F_T33UUP_20220711T101559_S2A_{}_10m.TIF')
    (product / 'MTD_MSIL2F.xml').write_text('<a/>')
    cat, report = read(tmp_path)
    assert (len(cat), len(report)) == (1, 0)
    check_values(cat[0])


def test_both_polarisations_in_the_name_of_each(tmp_path):
    power = np.random.default_rng(0).gamma(4.4, 1 / 4.4, (2, 120, 120)) * np.array([0.08, 0.018])[:, None, None]
    for b, x in zip(('VV', 'VH'), power):
        name = tmp_path / f'2022-07-11-00_00_Sentinel-1_IW_VV+VH_{b}_(Raw).tiff'
        with rasterio.open(write(name, x), 'r') as d:
            head = d.profile | dict(dtype='float32')
        with rasterio.open(name, 'w', **head) as d:
            d.write(x.astype('float32'), 1)
    cat, _ = read(tmp_path, unit='linear')
    assert abs(cat[0].pixels - 10 * np.log10(power)).max() < 1e-3


@pytest.mark.parametrize('name', ['q?x=1', '50%20', 'a b#c', '{braces}', '日本'])
def test_odd_names_of_folders(tmp_path, name):
    bands(tmp_path / name)
    write(tmp_path / name / 'sub' / f'{name}.tif', names=L2A)
    cat, report = read(tmp_path)
    assert (len(cat), len(report)) == (2, 0), [*report]
    for i in range(2):
        check_values(cat[i])


@pytest.mark.parametrize(
    'names, whose',
    [
        ('SR_B1 SR_B2 SR_B3 SR_B4 SR_B5 SR_B6 SR_B7', 'Landsat'),
        ('blue green red nir08 swir16 swir22 qa_pixel', 'Landsat'),
        ('sur_refl_b01 sur_refl_b02 sur_refl_b03 sur_refl_b04 sur_refl_b05 sur_refl_b06 sur_refl_b07', 'MODIS'),
        ('coastal_blue blue green_i green yellow red rededge', 'PlanetScope'),
        ('Oa04_reflectance Oa06_reflectance Oa08_reflectance red green blue nir', 'Sentinel-3'),
    ],
)
def test_bands_of_another_satellite(tmp_path, names, whose):
    write(tmp_path / 'scene.tif', TRUTH[:7], names.split())
    with pytest.raises(NotFoundError, match=f'is of {whose}'):
        read(tmp_path)
    cat, _ = read(tmp_path, bands=L2A[:7])  # unless the user knows better
    check_values(cat[0])


def test_a_ratio_is_no_band(tmp_path):
    db = np.random.default_rng(0).normal(0, 2, (2, 120, 120)) - np.array([11, 17])[:, None, None]
    x = np.concatenate([db, db[:1] - db[1:], db[:1] * 0 + 38]).astype('float32')
    head = dict(driver='GTiff', count=4, height=120, width=120, dtype='float32', crs='EPSG:32633', transform=NORTH)
    with rasterio.open(tmp_path / 'a.tif', 'w', **head) as d:
        d.write(x)
        d.descriptions = ['VV', 'VH', 'VV/VH', 'angle']
    cat, _ = read(tmp_path)
    assert abs(cat[0].pixels - db).max() < 1e-3


# ---- numbers


def store(path, x, scales=(), offsets=(), **options):
    "A GeoTIFF of these very numbers."
    head = dict(driver='GTiff', count=len(x), height=120, width=120, dtype=x.dtype, crs='EPSG:32633', transform=NORTH)
    with rasterio.open(path, 'w', **head | options) as d:
        d.write(x)
        d.descriptions = L2A
        if scales:
            d.scales, d.offsets = scales, offsets or [0] * 12


def test_bands_of_different_scales(tmp_path):
    store(tmp_path / 'a.tif', np.rint(TRUTH * 1e4).astype('uint16'), scales=[1e-4] * 11 + [2e-4])
    with pytest.raises(NotFoundError, match='differ in scale or type'):
        read(tmp_path)


def test_an_offset_without_a_scale(tmp_path):
    store(tmp_path / 'a.tif', np.rint(TRUTH * 1e4 + 1000).astype('uint16'), [1] * 12, [-1000] * 12)
    cat, _ = read(tmp_path)
    check_values(cat[0])
    store(tmp_path / 'a.tif', (TRUTH + 0.1).astype('float32'), [1] * 12, [-0.1] * 12)
    cat, _ = read(tmp_path)
    check_values(cat[0])


@pytest.mark.parametrize('fill', [-1, -999, -1000, -9999, -10000, -32768])
@pytest.mark.parametrize('how, dtype', [(1e4, 'int16'), (1, 'float32')])
def test_a_fill_that_nobody_declared(tmp_path, fill, how, dtype):
    x = np.rint(TRUTH * how) if dtype == 'int16' else TRUTH * how
    x[:, :40] = fill
    store(tmp_path / 'a.tif', x.astype(dtype))
    cat, _ = read(tmp_path)
    assert abs(cat[0].gaps - 1 / 3) < 1e-3 and abs(cat[0].pixels[:, 40:] - TRUTH[:, 40:]).max() < 1e-3, cat[0].notes


def test_whole_range_of_16_bits(tmp_path):
    x = TRUTH.copy()
    x[:, :30] = 0.01  # water, so that something is dark
    write(tmp_path / 'scene.tif', x, L2A, how=65_535)
    with pytest.raises(NotFoundError, match='say scale=1.526e-05') as e:
        read(tmp_path)
    assert 'brighter than a white sheet' in str(e.value)
    cat, _ = read(tmp_path, scale=1.526e-05)
    assert abs(cat[0].pixels - x).max() < 1e-3


def test_bright_clouds_are_no_16_bits(tmp_path):
    x = TRUTH.copy()
    x[:, :90] = np.linspace(1.3, 1.2, 12)[:, None, None]
    write(tmp_path / 'scene.tif', x, L2A)
    cat, _ = read(tmp_path)
    assert abs(cat[0].pixels - x).max() < 1e-3


def test_a_mask_is_no_band(tmp_path):
    "Twelve bands over water and a mask behind them: the darkest is in the place of B10."
    x = TRUTH * 0 + np.array([30, 40, 35, 20, 18, 16, 15, 14, 12, 10, 3, 4])[:, None, None] * 1e-3 + TRUTH * 1e-3
    write(tmp_path / 'scene.tif', np.concatenate([x, np.ones((1, 120, 120))]))
    with pytest.raises(NotFoundError, match='nothing tells their order'):
        read(tmp_path)


@pytest.mark.parametrize(
    'crs, transform, note',
    [
        ('EPSG:3857', (10, 0, 1e6, 0, -10, 8.4e6), 'pixels of 4.99 m, not 10'),  # a web map at 60 degrees north
        ('EPSG:32633', (10, 0, 5e5, 0, -20, 5e6), 'pixels of 10 x 20 m, not 10'),
        ('EPSG:2263', (32.8, 0, 1e6, 0, -32.8, 2e5), ''),  # feet
        ('EPSG:32733', (10, 0, 5e5, 0, -10, 7e6), ''),
        ('EPSG:3413', (10, 0, -600, 0, -10, 600), ''),  # over the pole
        ('EPSG:4326', (1e-4, 0, 15, 0, -1e-4, 60), 'pixels of 5.56 x 11.1 m, not 10'),
    ],
)
def test_size_of_a_pixel_on_the_ground(tmp_path, crs, transform, note):
    write(tmp_path / 'scene.tif', names=L2A, crs=crs, transform=rasterio.Affine(*transform))
    cat, _ = read(tmp_path)
    check_values(cat[0])
    said = [n for n in cat[0].notes if n.startswith('pixels of')]
    assert (note in said[0]) if note else not said, said


def test_a_web_map_at_ten_metres(tmp_path):
    f = write(tmp_path / 'a.tif', names=L2A, crs='EPSG:3857', transform=rasterio.Affine(20, 0, 1e6, 0, -20, 8.4e6))
    with open_raster(f) as d:
        grid, _ = grid_of(d, 'EPSG:3857', 'all')
    assert 120 <= grid.height < 125  # 20 "metres" are 9.98 there


def test_bands_of_different_types(tmp_path):
    bands(tmp_path)
    with rasterio.open(tmp_path / 'B01.tif') as d:
        head = d.profile | dict(dtype='float32')
    with rasterio.open(tmp_path / 'B01.tif', 'w', **head) as d:
        d.write(TRUTH[:1].astype('float32'))
    with pytest.raises(NotFoundError, match='differ in scale or type'):
        read(tmp_path)


def test_an_offset_that_is_no_number(tmp_path):
    with pytest.raises(InputError, match='a number such as 1000'):
        read(tmp_path, offset=float('nan'))


# ---- files


@pytest.mark.parametrize('twin', ['B04.tiff', 'b4.tif'])
def test_two_files_of_one_band(tmp_path, twin):
    bands(tmp_path)
    write(tmp_path / twin, TRUTH[3] / 2)
    with pytest.raises(NotFoundError, match='are both B04; keep one'):
        read(tmp_path)


def test_a_head_left_behind_spoils_itself_alone(tmp_path):
    write(tmp_path / 'a.tif', names=L2A)
    (tmp_path / 'MTD_MSIL2A.xml').write_text('<a/>')
    cat, report = read(tmp_path)
    assert (len(cat), len(report), report.found.files) == (1, 1, 2)


def test_what_cannot_be_opened_is_told(tmp_path):
    write(tmp_path / 'a' / 'good.tif', names=L2A)
    a = tmp_path / 'a'
    for name in ('pipe.tif', 'pipe.json', 'pipe.zip', 'MTD_MSIL2A.xml', 'labels.csv', 'closp.yaml', 'README'):
        os.mkfifo(a / name)
    for name in ('lost.tif', 'lost.json', 'lost.zip'):
        (a / name).symlink_to('nowhere')
    (a / 'loop.tif').symlink_to('loop.tif')
    write(tmp_path / 'other' / 'stranger.tif', names=L2A)
    (a / 'up').symlink_to(tmp_path)  # a link to what holds the place leads out of it
    (a / 'round').symlink_to(a)
    cat, report = read(a)
    assert list(cat.table.id) == ['good.tif']
    assert report.found.files == 12 and len(report) == 8, [*report]
    assert sum(report.found.other.values()) == 1 and all('pipe' in r or 'link' in r for _, r in report)


def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch):
    write(tmp_path / 'good.tif', names=L2A)
    (tmp_path / 'closed').mkdir()
    scan = os.scandir

    def scandir(d):
        if str(d).endswith('closed'):
            raise PermissionError(13, 'Permission denied', str(d))
        return scan(d)

    monkeypatch.setattr(os, 'scandir', scandir)
    _, report = read(tmp_path)
    assert [*report] == [
        ('closed', 'this folder cannot be listed (Permission denied); mend its permissions, or give it alone')
    ]


@pytest.mark.parametrize('name', ['good.tif', 'item.json', 'closp.yaml'])
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, name):
    bands(tmp_path / 'b')
    (tmp_path / 'b' / name).write_text('x: 1')
    access, opened = os.access, open

    def denied(f, mode, **kw):
        return not str(f).endswith(name) and access(f, mode, **kw)

    monkeypatch.setattr(os, 'access', denied)
    if name != 'closp.yaml':
        _, report = read(tmp_path)
        assert [*report] == [(f'b/{name}', 'may not be read by this user; mend its permissions')]
        return

    def refuse(f, *args, **kw):
        if str(f).endswith(name):
            raise PermissionError(13, 'Permission denied', str(f))
        return opened(f, *args, **kw)

    monkeypatch.setattr('io.open', refuse)
    with pytest.raises(ClospError):
        yaml_declared(tmp_path / 'b')


def test_zips_that_are_no_product(tmp_path):
    write(tmp_path / 'good.tif', names=L2A)
    with zipfile.ZipFile(tmp_path / 'tiles.zip', 'w') as z:
        z.write(tmp_path / 'good.tif', 'good.tif')
    for name in ('locked', 'odd'):
        with zipfile.ZipFile(tmp_path / f'{name}.zip', 'w') as z:
            z.writestr('P.SAFE/MTD_MSIL2A.xml', '<a/>')
            z.writestr('P.SAFE/GRANULE/a/IMG_DATA/x_B04.jp2', 'x')
        raw = bytearray((tmp_path / f'{name}.zip').read_bytes())
        for mark, flag, method in ((b'PK\x01\x02', 8, 10), (b'PK\x03\x04', 6, 8)):
            at = -1
            while (at := raw.find(mark, at + 1)) >= 0:
                if name == 'locked':
                    raw[at + flag] |= 1
                else:
                    raw[at + method] = 9  # Deflate64, as Windows packs what is large
        (tmp_path / f'{name}.zip').write_bytes(raw)
    _, report = read(tmp_path)
    assert len(report) == 3 and all('unpack it' in why for _, why in report), [*report]


# ---- STAC


def item(id='one', href='./b/{}.tif', **fields):
    assets = {b: dict(href=href.format(b), roles=['data']) | fields for b in L2A}
    about = dict(datetime=None, start_datetime='2022-07-11T10:00:00Z', end_datetime='2022-07-12T10:00:00Z')
    return dict(type='Feature', stac_version='1.0.0', id=id, geometry=None, properties=about, links=[], assets=assets)


def test_one_bad_item_spoils_itself_alone(tmp_path):
    bands(tmp_path / 'b')
    bad = [item('two') | dict(assets=None), 5, item('three') | dict(properties={}), {}]
    d = dict(type='FeatureCollection', stac_version='1.0.0', features=[*bad, item()])
    (tmp_path / 'all.json').write_text(json.dumps(d))
    cat, report = read(tmp_path)
    assert len(cat) == 1 and cat.table.time[0] == '2022-07-11T10:00:00'
    assert [o.id for o in report.left] == ['all.json#two', 'all.json#', 'all.json#three', 'all.json#None']
    check_values(cat[0])


@pytest.mark.parametrize('href', ['gs://bucket/{}.tif', 'abfs://bucket/{}.tif', 's3://b/{}.tif', 'https://a.b/{}.tif'])
def test_addresses_lie_on_the_web(tmp_path, href):
    (tmp_path / 'one.json').write_text(json.dumps(item(href=href)))
    with pytest.raises(NotFoundError, match='lies on the web'):
        read(tmp_path)


def test_the_scale_of_an_item_is_not_told_by_the_user(tmp_path):
    bands(tmp_path / 'b')
    facts = {'raster:bands': [dict(scale=2e-4, offset=0)]}
    (tmp_path / 'one.json').write_text(json.dumps(item(**facts)))
    cat, _ = read(tmp_path)
    assert abs(cat[0].pixels - 2 * TRUTH).max() < 1e-3
    assert [n for n in cat[0].notes if 'scale' in n] == ['scale 0.0002 (item: its bands)']


def test_a_fill_that_nobody_declared_is_printed(tmp_path):
    "It stood in the notes of the tiles alone; whoever indexed the folder did not hear of it."
    rng = np.random.default_rng(0)
    x = (-12 + rng.normal(0, 2, (2, 120, 120))).astype('float32')
    x[:, :10, :10] = -9999
    with rasterio.open(tmp_path / 's1.tif', 'w', driver='GTiff', count=2, height=120, width=120, dtype=x.dtype) as d:
        d.write(x)
        d.descriptions = ('VV', 'VH')
    cat, report = Catalog.from_rasters(tmp_path, progress=False)
    assert any('guessed: nodata -9999, of 1 tiles' in s and 'say nodata=-9999' in s for s in report.lines())
    assert not any('-9999' in s for s in Catalog.from_rasters(tmp_path, nodata=-9999, progress=False)[1].lines())


def test_a_refused_file_is_named(tmp_path):
    "A loose band file in the folder itself was named '.'."
    name = 'LC08_L2SP_193023_20210711_SR_B4.tif'
    with rasterio.open(tmp_path / name, 'w', driver='GTiff', count=1, height=120, width=120, dtype='uint16') as d:
        d.write(np.full((1, 120, 120), 900, 'uint16'))
    with pytest.raises(NotFoundError, match='Landsat') as e:
        Catalog.from_rasters(tmp_path, progress=False)
    assert f': {name}: ' in str(e.value)
