"Scenes cut into tiles: copies whose truth is known, bad input, flat memory; and real scenes where they are at hand."

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.windows import Window

from closp_nb.core import ClospError, DamagedError, IncompatibleError, InputError
from closp_nb.core import MissingDependencyError, NotFoundError, Skipped
from closp_nb.sensors import S1, S2, S2L1C, Tile
from closp_nb.data.products import find_scenes, geotiff_scene, loose_scene, safe_scene, sar_scene, stac_scenes
from closp_nb.data.scenes import Scene, area_labels, check_labels, class_window, scene_tiles
from closp_nb.units import baseline_offset
from closp_nb.synthetic.products import ground, GROUND_CRS, RESOLUTION, SAR_PRODUCTS, stored_band
from closp_nb.synthetic.products import write_safe, write_sar_pair, write_stac

ROOT = Path(__file__).resolve().parent.parent.parent
REAL = ROOT.parent / 'shared' / 'data' / 'real'
SIZE = 240


def tiles(scene, **kw):
    return [t for t in scene_tiles(scene, **kw) if isinstance(t, Tile)]


def left(scene, **kw):
    return [t for t in scene_tiles(scene, **kw) if isinstance(t, Skipped)]


def at(t):
    return tuple(map(int, t.id.rpartition('@')[2].split(',')))


def cut(x, t):
    r, c = at(t)
    return x[r : r + 120, c : c + 120]


def one_line(kind, f, *words):
    with pytest.raises(kind) as e:
        f()
    assert isinstance(e.value, ClospError)
    text = str(e.value)
    assert '\n' not in text and all(w in text for w in words), text
    return text


def write(path, x, **kw):
    x = x if x.ndim == 3 else x[None]
    where = (
        dict(crs=GROUND_CRS, transform=rasterio.transform.from_bounds(*ground(SIZE).bounds, x.shape[2], x.shape[1]))
        | kw
    )
    with rasterio.open(
        path, 'w', driver='GTiff', count=len(x), height=x.shape[1], width=x.shape[2], dtype=x.dtype, **where
    ) as d:
        d.write(x)
    return path


@pytest.fixture(scope='module')
def g():
    return ground(SIZE)


@pytest.fixture(scope='module')
def power(g):
    return np.stack([g.radar['VV'], g.radar['VH']]).astype('float32')


# ---- copies come back as the ground they were made from


@pytest.mark.parametrize(
    'level,baseline', [('L2A', '02.14'), ('L2A', '04.00'), ('L2A', '05.11'), ('L1C', '03.01'), ('L1C', '05.00')]
)
def test_safe(tmp_path, g, level, baseline):
    s = safe_scene(write_safe(tmp_path, level, baseline, SIZE))
    assert (s.sensor, s.offset, s.unit, s.time) == (
        S2L1C if level == 'L1C' else S2,
        baseline_offset(baseline),
        'DN',
        '2021-07-11T10:15:28',
    )
    seen = tiles(s)
    assert len(seen) == 4 and {t.event for t in seen} == {s.id} and {t.crs for t in seen} == {GROUND_CRS}
    for t in seen:
        for b in ('B02', 'B03', 'B04', 'B08'):
            gap = cut(g.gap, t)
            assert np.abs(t.pixels[s.sensor.band(b)] - cut(g.optical[b], t))[~gap].max() < 1e-4
        for b, k in {
            'B11': 2,
            'B8A': 2,
            'B09': 6,
        }.items():  # coarse bands: means over a native pixel agree closely, nearest would too
            r, c = at(t)
            if cut(g.gap, t).any():
                continue
            native = g.optical[b][r // k : (r + 120) // k, c // k : (c + 120) // k]
            ours = t.pixels[s.sensor.band(b)].reshape(120 // k, k, 120 // k, k).mean((1, 3))
            assert np.corrcoef(native.ravel(), ours.ravel())[0, 1] > 0.9 and abs(native.mean() - ours.mean()) < 2e-3
    assert abs(next(t for t in seen if at(t) == (0, 0)).gaps - g.gap[:120, :120].mean()) < 0.03


def test_offset_never_changes_reflectance(tmp_path):
    a, b = (
        {at(t): t.pixels for t in tiles(safe_scene(write_safe(tmp_path, 'L2A', x, SIZE)))} for x in ('03.01', '05.00')
    )
    assert a.keys() == b.keys() and max(np.abs(a[k] - b[k]).max() for k in a) < 1e-6


@pytest.mark.parametrize('product', [k for k in SAR_PRODUCTS if k != 'grd'])
def test_sar_scales_agree(tmp_path, g, product):
    s = sar_scene(write_sar_pair(tmp_path, product, SIZE))
    t = next(t for t in tiles(s) if at(t) == (120, 120))
    assert np.abs(t.pixels - 10 * np.log10([cut(g.radar[b], t) for b in S1.names])).max() < 1e-3
    assert s.time == '2021-07-11T16:50:43' and 'gamma0' in t.notes


@pytest.mark.parametrize(
    'style,baseline,offset',
    [('earth-search', '05.00', 0), ('planetary-computer', '05.00', 1000), ('planetary-computer', '02.14', 0)],
)
def test_stac(tmp_path, g, style, baseline, offset):
    path = write_stac(tmp_path / 's', style, baseline, SIZE)
    for source in (path, path.with_name('catalog.json')):
        s = stac_scenes(source, 'sentinel-2-l2a')[0]
        t = next(t for t in tiles(s) if at(t) == (120, 0))
        assert s.offset == offset and np.abs(t.pixels[S2.band('B08')] - cut(g.optical['B08'], t)).max() < 1e-4
        assert not np.isnan(t.cloud)
    radar = [s for s in stac_scenes(path) if s.sensor == S1]
    assert len(radar) == (style == 'planetary-computer')
    for s in radar:
        assert (
            np.abs(next(iter(tiles(s, corners=[(120, 0)]))).pixels[1] - 10 * np.log10(g.radar['VH'][120:, :120])).max()
            < 1e-3
        )


def test_stac_flag_beats_field(tmp_path):
    path = write_stac(tmp_path / 's', 'earth-search')
    d = json.loads(path.read_text())
    assert d['features'][0]['assets']['red']['raster:bands'][0]['offset'] == -0.1
    d['features'][0]['properties'] = {
        k: v for k, v in d['features'][0]['properties'].items() if k[:2] != 's2' and 'boa' not in k
    }
    path.write_text(json.dumps(d))
    assert stac_scenes(path)[0].offset == pytest.approx(1000)  # nobody else says anything: the field decides
    d['features'][0]['properties']['earthsearch:boa_offset_applied'] = True
    path.write_text(json.dumps(d))
    assert stac_scenes(path)[0].offset == 0


def test_stac_objects_and_web_addresses(tmp_path):
    import pystac

    d = json.loads(write_stac(tmp_path / 's').read_text())
    for a in d['features'][0]['assets'].values():
        a['href'] = a['href'].replace('./', 'https://example.invalid/') + '?sig=secret'
    s = stac_scenes(pystac.ItemCollection.from_dict(d))[0]
    assert s.files['B02'] == ('/vsicurl/https://example.invalid/S2A_33UUP_20210711_0_L2A/B02.tif?sig=secret', 1)
    assert len(stac_scenes(pystac.Item.from_dict(d['features'][0]))) == 1


def test_stac_needs_pystac(tmp_path, monkeypatch):
    path = write_stac(tmp_path / 's')
    monkeypatch.setitem(sys.modules, 'pystac', None)
    one_line(MissingDependencyError, lambda: stac_scenes(path), 'closp_nb[scenes]')


def test_dark_water_does_not_doubt_a_product(tmp_path):
    x = (
        np.random.default_rng(0).integers(300, 1500, (12, 240, 240)).astype('uint16')
    )  # water below zero, as level 2A has it
    p = str(write(tmp_path / 'x.tif', x))
    s = Scene('x', S2, {b: (p, i) for i, b in enumerate(S2.names, 1)}, 1000.0, 'DN')
    one_line(InputError, lambda: list(scene_tiles(s)), 'offset')
    s.offset_certain = True
    assert np.abs(tiles(s)[0].pixels - (x[:, :120, :120] / 10_000 - 0.1)).max() < 1e-6


def test_an_almost_empty_scene_is_judged_by_its_first_data(tmp_path, power):
    p = tmp_path / 'sparse.tif'
    with rasterio.open(
        p,
        'w',
        driver='GTiff',
        count=2,
        height=3600,
        width=3600,
        dtype='float32',
        crs=GROUND_CRS,
        transform=rasterio.transform.from_origin(300_000, 5_900_040, 10, 10),
        nodata=0,
        tiled=True,
        sparse_ok=True,
    ) as d:
        d.write(power[:, :120, :120], window=Window(240, 360, 120, 120))
    said = list(scene_tiles(geotiff_scene(p, ['VV', 'VH'])))
    t = [t for t in said if isinstance(t, Tile)]
    assert (
        len(said) == 900
        and [at(o) for o in t] == [(360, 240)]
        and np.abs(t[0].pixels - 10 * np.log10(power[:, :120, :120])).max() < 1e-4
    )


def test_level_1c_without_cirrus_band(tmp_path, g):
    safe = write_safe(tmp_path, 'L1C', '05.00', SIZE)
    (tmp_path / 'bands').mkdir()
    for f in safe.rglob('IMG_DATA/*_B*.jp2'):
        if 'B10' not in f.name:
            shutil.copy(f, tmp_path / 'bands')
    t = next(
        t for t in tiles(loose_scene(tmp_path / 'bands', S2L1C)) if at(t) == (120, 120)
    )  # no name tells the offset: the numbers do, once for the scene
    assert np.abs(t.pixels[S2L1C.band('B04')] - cut(g.optical['B04'], t)).max() < 1e-4
    assert not t.pixels[S2L1C.band('B10')].any() and 'B10 filled with zeros' in t.notes


def test_bands_in_any_order_of_a_stack(tmp_path, g, power):
    names = list(RESOLUTION)[::-1]
    x = np.stack(
        [np.clip(np.rint(np.kron(g.optical[b], np.ones((RESOLUTION[b] // 10,) * 2)) * 10_000), 1, None) for b in names]
    ).astype('uint16')
    s = geotiff_scene(write(tmp_path / 'a.tif', x), names, S2L1C, offset=0)
    t = next(t for t in tiles(s) if at(t) == (120, 120))
    assert np.abs(t.pixels - x[[names.index(b) for b in S2L1C.names], 120:, 120:] / 10_000).max() < 1e-6
    s = geotiff_scene(write(tmp_path / 'b.tif', power[::-1]), ['VH', 'VV'])
    assert np.abs(tiles(s, corners=[(0, 120)])[0].pixels[0] - 10 * np.log10(power[0, :120, 120:])).max() < 1e-4


# ---- cloud, gaps, labels


def test_cloud_and_limits(tmp_path, g):
    s = safe_scene(write_safe(tmp_path, size=SIZE))
    true = {
        (r, c): (g.cloud | g.shadow)[r : r + 120, c : c + 120].sum() / max((~g.gap[r : r + 120, c : c + 120]).sum(), 1)
        for r, c in s.windows()
    }
    for t in tiles(s):
        assert abs(t.cloud - true[at(t)]) < 0.02
    cloudy = {k for k, v in true.items() if v > 0.15}
    assert {at(o) for o in left(s, max_cloud=0.15)} == cloudy and {o.kind for o in left(s, max_cloud=0.15)} == {
        'skipped'
    }
    assert (0, 0) in {at(o) for o in left(s, max_gaps=0.1)}
    for t in tiles(s, mask_cloud=True, max_gaps=0.9):
        if not cut(g.gap, t).any():
            assert abs(t.gaps - true[at(t)]) < 0.02


@pytest.mark.parametrize('how', ['same grid', 'degrees', '100 m'])
def test_labels_by_area(tmp_path, g, how):
    p = write(tmp_path / 'dw.tif', g.cover)
    if how != 'same grid':
        from rasterio.vrt import WarpedVRT

        kw = dict(crs='EPSG:4326') if how == 'degrees' else dict(crs='EPSG:3035')
        with rasterio.open(p) as d, WarpedVRT(d, add_alpha=True, **kw) as v:
            x = np.where(v.read(2) > 0, v.read(1), 255).astype('uint8')
            p = write(tmp_path / 'other.tif', x, crs=v.crs, transform=v.transform, nodata=255)
    s = safe_scene(write_safe(tmp_path, size=SIZE))
    names = {0: 'water', 1: 'trees', 4: 'crops', 6: 'built'}
    for t in tiles(s, labels=p, nomenclature='dynamic-world'):
        share = {n: (cut(g.cover, t) == c).mean() for c, n in names.items()}
        got = {n.lower() for n in t.labels}
        assert {n for n, v in share.items() if v > 0.06} <= got <= {n for n, v in share.items() if v > 0.04}


def test_no_sea_outside_the_label_raster(tmp_path, g):
    p = write(tmp_path / 'dw.tif', g.cover)
    left, bottom = g.bounds[:2]
    assert (
        area_labels(p, GROUND_CRS, (left - 5000, bottom, left - 3800, bottom + 1200), nomenclature='dynamic-world')
        == ()
    )
    codes, known = class_window(p, GROUND_CRS, (left - 600, bottom, left + 600, bottom + 1200), (120, 120))
    assert known[:, 60:].all() and not known[:, :60].any()
    dry = write(tmp_path / 'dry.tif', g.cover, nodata=0)
    s = safe_scene(write_safe(tmp_path, size=SIZE))
    one_line(IncompatibleError, lambda: list(scene_tiles(s, labels=dry, nomenclature='dynamic-world')), 'unsetnodata')


def test_a_nomenclature_is_asked_for_and_never_taken_for_granted(tmp_path, g):
    "Esri's land cover has Dynamic World's numbers: its water was read as trees."
    esri = {0: 1, 1: 2, 2: 11, 3: 4, 4: 5, 5: 11, 6: 7, 7: 8, 8: 9}
    p = write(tmp_path / 'esri.tif', np.vectorize(lambda c: esri.get(c, 10))(g.cover).astype('uint8'))
    s = safe_scene(write_safe(tmp_path, size=SIZE))
    asked = ('use one of', 'esri', 'code and label', 'fit')
    left, bottom = g.bounds[:2]
    one_line(InputError, lambda: list(scene_tiles(s, labels=p)), *asked)
    one_line(InputError, lambda: check_labels(p), *asked)
    one_line(InputError, lambda: area_labels(p, GROUND_CRS, (left, bottom, left + 1200, bottom + 1200)), *asked)
    one_line(IncompatibleError, lambda: list(scene_tiles(s, p, 'worldcover')), 'esri.tif', 'worldcover', 'esri')
    dw = write(tmp_path / 'dw.tif', g.cover)
    assert [t.labels for t in tiles(s, labels=p, nomenclature='esri')] == [
        t.labels for t in tiles(s, labels=dw, nomenclature='dynamic-world')
    ]
    own = tmp_path / 'own.csv'
    own.write_text(
        'code,label\n1,water\n2,trees\n4,flooded vegetation\n5,crops\n7,built\n8,bare\n9,snow and ice\n11,grass\n'
    )
    assert [t.labels for t in tiles(s, labels=p, nomenclature=own)] == [
        t.labels for t in tiles(s, labels=p, nomenclature='io')
    ]


def test_a_code_for_not_seen_costs_no_tile(tmp_path, g):
    "As in flood masks with -1 where nobody looked: the tiles were lost, and the mend could not be carried out."
    x = np.isin(g.cover, (0, 4)).astype('int16')
    x[:, :80] = -1
    p, s = write(tmp_path / 'flood.tif', x), safe_scene(write_safe(tmp_path, size=SIZE))
    got = tiles(s, labels=p, nomenclature='mmflood')
    assert len(got) == len(s.windows()) and all('codes -1 are not in mmflood' in ' '.join(t.notes) for t in got)
    for t in got:
        known = cut(x, t) >= 0
        flooded = known.mean() >= 0.5 and (cut(x, t) == 1).sum() / known.sum() >= 0.05
        assert t.labels == (('flooded area',) if flooded else ())
    assert {t.labels for t in got} == {('flooded area',), ()}


@pytest.mark.parametrize('way', ['file://', 'file://localhost', 'relative'])
def test_addresses_with_blanks(tmp_path, way):
    "file:///my%20scenes/B02.tif is a file in the folder 'my scenes'."
    items = write_stac(tmp_path / 'my scenes', size=SIZE)
    for f in items.parent.glob('*.json'):
        d = json.loads(f.read_text())
        for item in d.get('features', [d]):
            for a in item.get('assets', {}).values():
                if not a['href'].startswith('http'):
                    home = '../my%20scenes' if way == 'relative' else f'{way}{tmp_path}/my%20scenes'
                    a['href'] = f"{home}/{a['href'].removeprefix('./')}"
        f.write_text(json.dumps(d))
    scenes = stac_scenes(items)
    assert len(scenes) == 1 and all(Path(p).exists() for p, _ in scenes[0].files.values())
    assert len(tiles(scenes[0])) == 4


# ---- bad input


def test_radar_as_shipped_is_refused(tmp_path):
    grd = write_sar_pair(tmp_path, 'grd', SIZE)
    one_line(IncompatibleError, lambda: sar_scene(grd), 'calibrate', 'sigma0')
    one_line(IncompatibleError, lambda: safe_scene(grd), 'Sentinel-1')
    vv = next(write_sar_pair(tmp_path, 'hyp3', SIZE).glob('*_VV.tif'))
    one_line(NotFoundError, lambda: sar_scene([vv]), 'lacks VH', '1SDV')


def test_a_name_that_lies(tmp_path):
    for f in write_sar_pair(tmp_path, 'hyp3-decibel', SIZE).glob('*_V?.tif'):
        shutil.copy(f, tmp_path / f.name.replace('gduned', 'gpuned'))
    scene = sar_scene(list(tmp_path.glob('*.tif')))
    one_line(InputError, lambda: list(scene_tiles(scene)), 'declared linear', 'dB')


NOWHERE, BEYOND = (rasterio.transform.from_origin(*o) for o in ((3e7, 9e7, 10, 10), (100, 95, 0.001, 0.001)))
BAD_RASTERS = [
    (DamagedError, lambda p, x: write(p, x, transform=NOWHERE), ['off the Earth']),
    (DamagedError, lambda p, x: write(p, x, crs='EPSG:4326', transform=BEYOND), ['off the Earth']),
    (IncompatibleError, lambda p, x: write(p, x, transform=rasterio.Affine(10, 0, 3e5, 0, 10, 5.9e6)), ['gdalwarp']),
    (IncompatibleError, lambda p, x: write(p, x, transform=rasterio.Affine(10, 2, 3e5, 2, -10, 5.9e6)), ['gdalwarp']),
    (IncompatibleError, lambda p, x: write(p, x.astype('complex64')), ['complex']),
    (IncompatibleError, lambda p, x: write(p, np.rint(x * 1000).astype('uint16')), ['calibrate']),
    (InputError, lambda p, x: write(p, x[:, :50]), ['120']),
    (DamagedError, lambda p, x: p.write_bytes(b''), ['cannot be read']),
    (DamagedError, lambda p, x: p.write_text('not an image'), ['cannot be read']),
    (NotFoundError, lambda p, x: None, ['not there']),
]


@pytest.mark.parametrize('kind,make,words', BAD_RASTERS)
def test_bad_rasters(tmp_path, power, kind, make, words):
    make(tmp_path / 'x.tif', power)
    one_line(kind, lambda: geotiff_scene(tmp_path / 'x.tif', ['VV', 'VH']), *words)


def test_files_that_do_not_belong_together(tmp_path, power):
    vv = write(tmp_path / 'a_VV.tif', power[0])
    for n in ('a', 'b'):
        write(tmp_path / f'{n}_B04.tif', np.full((240, 240), 700, 'uint16'))
    one_line(InputError, lambda: loose_scene(sorted(tmp_path.glob('*_B04.tif'))), 'several scenes')
    other = write(tmp_path / 'b_VH.tif', power[1], crs='EPSG:32632')
    one_line(IncompatibleError, lambda: sar_scene([vv, other]), 'projection')
    where = rasterio.transform.from_origin(309_600, 5_900_040, 10, 10)
    east = write(tmp_path / 'c_VH.tif', power[1], transform=where)
    one_line(IncompatibleError, lambda: sar_scene([vv, east]), 'different ground')
    where = rasterio.transform.from_origin(300_000, 5_900_040, 10, 10)
    short = write(tmp_path / 'd_VH.tif', power[1, :200], transform=where)
    one_line(IncompatibleError, lambda: sar_scene([vv, short]), 'different ground')


def test_missing_planes_and_infinity(tmp_path, power):
    x = power.copy()
    x[1] = np.nan
    assert all(
        'VH' in o.reason for o in left(geotiff_scene(write(tmp_path / 'nan.tif', x), ['VV', 'VH']))
    ) and not tiles(geotiff_scene(tmp_path / 'nan.tif', ['VV', 'VH']))
    x = power.copy()
    x[0, 130:160, 130:150] = np.inf
    t = tiles(geotiff_scene(write(tmp_path / 'inf.tif', x), ['VV', 'VH'], unit='linear'), corners=[(120, 120)])[0]
    assert np.isfinite(t.pixels).all() and t.gaps == pytest.approx(600 / 28_800, abs=1e-3)


def test_damaged_block_costs_only_its_tiles(tmp_path, power):
    p = write(
        tmp_path / 'x.tif', power, compress='deflate', tiled=True, blockxsize=128, blockysize=128, interleave='band'
    )
    p.write_bytes(p.read_bytes()[:-15_000])
    said = list(scene_tiles(geotiff_scene(p, ['VV', 'VH'], unit='linear')))
    assert {type(t) for t in said} == {Tile, Skipped} and {o.kind for o in said if isinstance(o, Skipped)} == {'failed'}


BOMB = '<!DOCTYPE x [<!ENTITY a "a">]><x>&a;</x>'
WIDE_BOMB = f'<?xml version="1.0" encoding="UTF-16"?>{BOMB}'.encode('utf-16')


def xml(change):
    "Change the text of a product's XML."

    def edit(p):
        f = p / 'MTD_MSIL2A.xml'
        f.write_text(change(f.read_text()))

    return edit


SPOILT = [
    (NotFoundError, lambda p: [f.unlink() for f in p.rglob('*_B05_*')], ['lacks B05']),
    (NotFoundError, lambda p: (p / 'MTD_MSIL2A.xml').unlink(), ['MTD_MSI']),
    (DamagedError, xml(lambda x: BOMB), ['entities']),
    (DamagedError, lambda p: (p / 'MTD_MSIL2A.xml').write_bytes(WIDE_BOMB), ['no whole XML']),
    (DamagedError, xml(lambda x: x[:700]), ['no whole XML']),
    (DamagedError, xml(lambda x: x.replace('>05.00<', '>03.00<')), ['baseline']),
    (DamagedError, xml(lambda x: x.replace('>-1000<', '>minus<')), ['words']),
    (NotFoundError, lambda p: shutil.rmtree(p / 'GRANULE'), ['0 granules']),
]


@pytest.mark.parametrize('kind,change,words', SPOILT)
def test_spoilt_products(tmp_path, kind, change, words):
    p = write_safe(tmp_path, size=SIZE)
    change(p)
    one_line(kind, lambda: safe_scene(p), *words)
    found = find_scenes(tmp_path)
    scenes, out = found.scenes, [(o.id, o.reason) for o in found.left]
    if words == ['MTD_MSI']:  # loose bands now, in a folder that still bears the product's name
        assert [s.offset for s in scenes] == [1000]
    else:
        assert not scenes and len(out) == 1


def test_stac_with_missing_files_or_bands(tmp_path):
    path = write_stac(tmp_path / 's')
    d = json.loads(path.read_text())
    next((tmp_path / 's').rglob('B08.tif')).unlink()
    one_line(NotFoundError, lambda: stac_scenes(path), 'B08.tif', 'not there')
    del d['features'][0]['assets']['nir']
    path.write_text(json.dumps(d))
    assert set(S2.names) - set(stac_scenes(path)[0].files) == {'B08'}  # an item may hold some of the bands
    few = json.loads(path.read_text())
    keys = ('red', 'blue')
    few['features'][0]['assets'] = {k: few['features'][0]['assets'][k] for k in keys}
    path.write_text(json.dumps(few))
    one_line(NotFoundError, lambda: stac_scenes(path), 'three bands are the least')
    path.write_text(json.dumps(d))
    one_line(NotFoundError, lambda: stac_scenes(path, 'landsat'), 'no items')
    d['features'][0]['assets']['nir'] = dict(
        d['features'][0]['assets']['red'], **{'eo:bands': [dict(name='nir')], 'href': None}
    )
    path.write_text(json.dumps(d))
    one_line(DamagedError, lambda: stac_scenes(path))
    for text in ('', '{}', '[1]', '{"type": "FeatureCollection"}', '{"type": "Catalog"}'):
        path.write_text(text)
        one_line((DamagedError, NotFoundError), lambda: stac_scenes(path))


def test_a_bug_of_ours_is_no_damage(tmp_path, monkeypatch):
    from closp_nb import stac
    from closp_nb.data import scenes

    path, safe = write_stac(tmp_path / 's'), write_safe(tmp_path)
    scene = safe_scene(safe)
    monkeypatch.setattr(scenes, 'place_bands', lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(scene_tiles(scene))
    monkeypatch.setattr(stac, 'asset_band', lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stac_scenes(path)
    monkeypatch.setattr('json.loads', lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stac_scenes(path)


# ---- a folder of anything


def test_find_scenes(tmp_path, g, power):
    write_safe(tmp_path, size=SIZE)
    write_safe(tmp_path, 'L1C', size=SIZE)
    write_sar_pair(tmp_path, 'pc', SIZE)
    write_sar_pair(tmp_path, 'grd', SIZE)
    write_stac(tmp_path / 'planet', 'planetary-computer', size=SIZE)
    (tmp_path / 'bands').mkdir()
    for b, m in RESOLUTION.items():
        if b != 'B10':
            write(tmp_path / 'bands' / f'T33UUP_20200101T101031_{b}.tif', stored_band(g, b))
    write(tmp_path / 'mask.tif', g.cover)
    (tmp_path / 'other.json').write_text('{"a": 1}')
    found = find_scenes(tmp_path)
    scenes, out = found.scenes, [(o.id, o.reason) for o in found.left]
    assert sorted(s.sensor.key for s in scenes) == ['s1', 's1', 's2', 's2', 's2', 's2l1c']
    files = [f for s in scenes for f in s.files.values()]
    assert len(files) == len(set(files))
    assert sorted(Path(p).name.split('_')[0] for p, _ in out) == ['S1A', 'mask.tif']
    assert all(tiles(s) for s in scenes)


# ---- memory

JOB = '''
import resource, sys
from closp_nb.sensors import S1, Tile
from closp_nb.data.scenes import Scene, scene_tiles

scene, side = Scene('big', S1, {'VV': (sys.argv[1], 1), 'VH': (sys.argv[1], 2)}, unit='linear'), int(sys.argv[2])

def cut(corners):
    n = sum(isinstance(t, Tile) for t in scene_tiles(scene, corners=corners))
    return n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

every = scene.windows()
first, few = cut(every[:1])
rest, peak = cut([(r, c) for r in range(0, side, 512) for c in range(0, side, 512)] + [(29_000, 29_000)])
print(len(every), first, rest, few, peak)
'''


def test_thirty_thousand_pixels_in_flat_memory(tmp_path):
    side, p = 8192, tmp_path / 'big.tif'  # 512 MB of decoded blocks in the filled corner, 7.2 GB in all
    with rasterio.open(
        p,
        'w',
        driver='GTiff',
        count=2,
        height=30_000,
        width=30_000,
        dtype='float32',
        crs=GROUND_CRS,
        transform=rasterio.transform.from_origin(300_000, 5_900_040, 10, 10),
        nodata=0,
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress='deflate',
        zlevel=1,
        sparse_ok=True,
        bigtiff='yes',
        interleave='band',
    ) as d:
        row = np.tile(
            np.random.default_rng(0).gamma(5, 0.01, (512, 64)).astype('float32'), (1, side // 64)
        )  # speckle, or it would not pass for power
        for r in range(0, side, 512):
            for b in (1, 2):
                d.write(row / (1, 5)[b - 1], b, window=Window(0, r, side, 512))
    p_ = subprocess.run(
        [sys.executable, '-c', JOB, str(p), str(side)], capture_output=True, text=True, cwd=ROOT, timeout=200
    )
    n, first, rest, few, most = map(float, p_.stdout.split())
    assert (n, first, rest) == (62_500, 1, (side // 512) ** 2), p_.stderr
    assert most - few < 330, (
        f'{few:.0f} MB after one tile, {most:.0f} MB after {rest:.0f}'
    )  # GDAL may keep 256 MB of blocks


def test_a_tile_must_lie_in_the_scene(tmp_path, power):
    s = geotiff_scene(write(tmp_path / 'x.tif', power), ['VV', 'VH'])
    for bad in ((121, 0), (0, -1)):
        one_line(InputError, lambda: list(scene_tiles(s, corners=[bad])), 'windows()')


# ---- real scenes, where they are at hand


def real(*parts):
    p = REAL.joinpath(*parts)
    if not p.exists():
        pytest.skip(f'{"/".join(parts)} is not at hand (real scenes for optional tests)')
    return p


def test_real_l1c_scene():
    folder = real('s2_l1c_scene')
    s = loose_scene(folder)
    shares = pd.read_csv(folder / 'tiles_120.csv')
    assert (s.sensor, s.time, len(shares)) == (S2L1C, '2017-02-16T10:21:01', 72)
    corners = list(zip(shares.row0, shares.col0))
    got = tiles(s, labels=folder / 'dynamicworld_label.tif', nomenclature='dynamic-world', corners=corners)
    assert len(got) == 72
    for t, (_, row) in zip(got, shares.iterrows()):
        want = {k[3:].replace('_', ' ') for k, v in row.items() if k.startswith('dw_') and v >= 0.05}
        near = {k[3:].replace('_', ' ') for k, v in row.items() if k.startswith('dw_') and abs(v - 0.05) < 1e-4}
        assert {n.lower().replace('_', ' ') for n in t.labels} - near == want - near
        x, y = t.bounds[0], t.bounds[3]
        assert (x, y) == pytest.approx((row.ulx, row.uly))
    x = np.stack([t.pixels for t in got])
    with rasterio.open(folder / 'T33UUU_20170216T102101_B03.jp2') as d:
        stored_b03 = d.read(1)[:120, :120]
    assert np.abs(got[0].pixels[2] - stored_b03 / 10_000).max() < 1e-6  # 2017, before the offset
    assert 0.12 < np.median(x) < 0.16


def test_real_terramind():
    folder = real('terramind')
    for kind, s in {'S1RTC': S1, 'S2L2A': S2, 'S2L1C': S2L1C}.items():
        for p in sorted((folder / kind).glob('*.tif')):
            t = tiles(geotiff_scene(p, s.names))
            assert len(t) == 1 and abs(t[0].lonlat[1]) < 60, p.name
            if kind == 'S2L1C':
                assert any('offset of 1000' in n for n in t[0].notes) == (p.stem[:4] in ('282D', '433D', '609U')), (
                    p.name
                )  # B10 starts at 1000


def test_real_native_folders():
    scenes = find_scenes(real('native')).scenes
    keys = [s.sensor.key for s in scenes]
    assert (keys.count('s1'), keys.count('s2'), keys.count('s2l1c')) == (5, 5, 5)  # two of radar are empty
    by = {s.id: s for s in scenes}
    new = by['S2A_MSIL2A_20220706T085611_N0400_R007_T33NZA_20220706T153419']
    assert new.offset == 1000 and len(tiles(new, corners=new.windows()[:8])) == 8
    t = tiles(next(s for s in scenes if s.id.startswith('S1A_IW_GRDH_1SDV_20170613')))[0]
    assert t.pixels.shape == (2, 120, 120) and -16 < np.median(t.pixels[0]) < -4
    empty = [s for s in scenes if not all(Path(f).stat().st_size for f, _ in s.files.values())]
    assert len(empty) == 2
    for s in empty:
        one_line(DamagedError, s.check, 'cannot be read')  # two files of that collection are empty
