"Archives: every generator is read back; damaged copies cost one position and one line, never the run."

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import rasterio
from closp_nb.core import DamagedError, InputError, MissingDependencyError, NotFoundError, Skipped
from closp_nb.sensors import S1, S2, S2L1C, S2RGB, Tile
from closp_nb.data.archives import EUROSAT_CLASSES, EUROSAT_BANDS, ARCHIVE_PATTERNS, guess_archive, patch_bounds
from closp_nb.synthetic.archives import ARCHIVE_WRITERS, write_cabuar, write_mmflood, write_quakeset, write_sen12flood
from closp_nb.data.archives import ARCHIVES, MIN_MASK_FRAC, archive, read_item
from closp_nb.sensors import TILE

ROOT = Path(__file__).resolve().parent.parent.parent
REAL = ROOT.parent / 'shared' / 'data' / 'real'  # real tiles beside the checkout; optional
pytestmark = pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')


@pytest.fixture(scope='module')
def copies(tmp_path_factory):
    "One small copy of each archive, made when first asked for."
    tmp, made = tmp_path_factory.mktemp('copies'), {}

    def get(key):
        if key not in made:
            made[key] = ARCHIVE_WRITERS[key](tmp / key)
        return made[key]

    return get


@pytest.fixture
def harmed(copies, tmp_path):
    "A copy to damage."
    return lambda key: Path(shutil.copytree(copies(key), tmp_path / key))


def read(key, folder):
    "Tiles, and what is left, of a whole folder."
    src, got = archive(key), []
    for i in src.find(folder):
        got += (out := read_item(src, folder, i))
        assert out and all(isinstance(o, (Tile, Skipped)) for o in out), i
    return [t for t in got if isinstance(t, Tile)], [t for t in got if isinstance(t, Skipped)]


def failed(key, folder):
    "Tiles, what failed, and all that is left."
    tiles, left = read(key, folder)
    bad = [o for o in left if o.kind == 'failed']
    one_line = all('\n' not in o.reason and str(folder) not in o.reason for o in bad)
    assert one_line, 'one line, without the path of the folder'
    return tiles, bad, left


# read, skipped of each copy
WANT = {
    'bigearthnet-v1': (4, 0),
    'bigearthnet-v2': (6, 0),
    'bigearthnet-lmdb': (6, 0),
    'sen12flood': (64, 0),
    'mmflood': (14, 2),
    'cabuar': (46, 2),
    'quakeset': (80, 0),
    'eurosat': (10, 0),
    'eurosat-rgb': (10, 0),
}


@pytest.mark.parametrize('key', ARCHIVE_WRITERS)
def test_round_trip(key, copies):
    d, src = copies(key), archive(key)
    assert guess_archive(d) == key and src.key == key
    items = src.find(d)
    assert items == sorted(set(items)) and all(
        isinstance(i, tuple) and all(isinstance(v, str) for v in i) for i in items
    )
    tiles, left = read(key, d)
    kinds = [o.kind for o in left]
    assert (len(tiles), kinds.count('skipped'), kinds.count('failed')) == (*WANT[key], 0)
    ids = [o.id for o in tiles + left]
    assert len(set(ids)) == len(ids), 'every position has an id of its own'
    for t in tiles:
        assert (
            t.pixels.shape == (len(t.sensor.bands), TILE, TILE)
            and t.pixels.dtype == np.float32
            and t.sensor in src.sensors
        )
        assert t.source == key and not any(str(d) in n for n in t.notes)
        lo, hi = (-60, 25) if t.sensor == S1 else (-0.01, 1.6)
        assert lo < t.pixels.min() and t.pixels.max() < hi, 'in the unit of its sensor'
        assert t.time == '' or pd.Timestamp(t.time).isoformat() == t.time
    assert bool(tiles[0].crs) == (key != 'eurosat-rgb')


@pytest.mark.parametrize('key', ARCHIVE_WRITERS)
def test_same_seed_same_copy(key, copies, tmp_path):
    again = ARCHIVE_WRITERS[key](tmp_path / key)
    a, b = (read_item(archive(key), d, archive(key).find(d)[-1]) for d in (copies(key), again))
    assert [t.id for t in a] == [t.id for t in b] and np.array_equal(
        *(next(t for t in x if isinstance(t, Tile)).pixels for x in (a, b))
    )


def test_a_taken_folder_is_left_alone(copies):
    for key in ('mmflood', 'eurosat'):
        with pytest.raises(InputError, match='is there already'):
            ARCHIVE_WRITERS[key](copies(key))


# ---- each archive's own facts


def test_bigearthnet_v1(copies):
    by = {t.id: t for t in read('bigearthnet-v1', copies('bigearthnet-v1'))[0]}
    t = by['benv1s2_S2B_MSIL2A_20180204T94161_27_57']  # 61 seconds in the name; the JSON knows better
    assert (t.time, t.event, t.labels) == (
        '2018-02-04T09:41:56',
        'S2B_MSIL2A_20180204T94161',
        ('Coniferous forest', 'Water bodies'),
    )
    assert (t.crs, t.bounds) == ('EPSG:32635', (632400, 6930420, 633600, 6931620))
    r = by['benv1s1_S1A_IW_GRDH_1SDV_20180204T043253_35VPK_27_57']
    assert (r.event, r.labels, r.bounds, r.time) == (t.event, t.labels, t.bounds, '2018-02-04T04:32:53')


def test_bigearthnet_v2_folder_and_database_agree(copies):
    a, b = ({t.id: t for t in read(k, copies(k))[0]} for k in ('bigearthnet-v2', 'bigearthnet-lmdb'))
    assert set(a) == set(b) and len(a) == 6
    for k, t in a.items():
        assert (t.labels, t.time, t.event, t.crs, t.bounds) == (
            b[k].labels,
            b[k].time,
            b[k].event,
            b[k].crs,
            b[k].bounds,
        )
        assert np.abs(t.pixels - b[k].pixels).max() < (0.05 if t.sensor == S2 else 1e-4), 'two ways to interpolate'
    cloudy = [t.id for t in a.values() if any('cloud' in n for n in t.notes)]
    assert len(cloudy) == 2 and all('28_57' in i for i in cloudy)


def test_patch_bounds_hold_on_published_corners():
    assert patch_bounds('33UUP', 87, 48) == ('EPSG:32633', (404400, 5341200, 405600, 5342400))
    for (g, c, r), left, top in [
        (('29UPU', 36, 85), 643200, 5798040),
        (('29SND', 56, 35), 567180, 4358040),
        (('35VPK', 69, 24), 682800, 6971220),
    ]:
        box = patch_bounds(g, c, r)[1]
        assert abs(box[0] - left) <= 40 and abs(box[3] - top) <= 40


@pytest.mark.parametrize('stac', [False, True], ids=['lists', 'stac'])
def test_sen12flood(stac, tmp_path):
    d = write_sen12flood(tmp_path / 'd', stac=stac)
    assert guess_archive(d) == 'sen12flood'
    tiles, left = read('sen12flood', d)
    assert len(tiles) == 64 and not left
    assert {t.event for t in tiles} == {'sen12flood_0140'}
    assert {(t.sensor.key, t.time[:10], t.labels) for t in tiles} == {
        ('s1', '2019-03-02', ()),
        ('s1', '2019-03-14', ('flooded area',)),
        ('s2', '2019-02-25', ()),
        ('s2', '2019-03-12', ('flooded area',)),
    }
    assert {t.crs for t in tiles if t.sensor == S1} == {'EPSG:4326'} and {t.crs for t in tiles if t.sensor == S2} == {
        'EPSG:32736'
    }
    assert all(t.id.startswith(f'sen{t.sensor.key[1]}flood_0140_') for t in tiles)
    assert all(33 < t.lonlat[0] < 36 and -21 < t.lonlat[1] < -19 for t in tiles)


def test_sen12flood_in_decibels_is_read_too(tmp_path):
    d = write_sen12flood(tmp_path / 'd')
    want = [t.pixels for t in read('sen12flood', d)[0] if t.sensor == S1]
    for f in d.glob('*/*_corrected_*.tif'):
        with rasterio.open(f, 'r+') as r:
            r.write(10 * np.log10(r.read()))
    got = [t.pixels for t in read('sen12flood', d)[0] if t.sensor == S1]
    assert all(np.abs(a - b).max() < 1e-3 for a, b in zip(want, got))


def test_mmflood_masks_by_share(tmp_path):
    d = write_mmflood(tmp_path / 'd', n=1)
    with rasterio.open(d / 'activations/EMSR548-0/mask/EMSR548-0-0.tif', 'r+') as m:
        x = np.zeros((1, 260, 390), 'uint8')
        x[0, 10 : 10 + 5, 15 : 15 + TILE] = 1  # 600 of 14,400 pixels: 4.2 %
        x[0, 10 : 10 + 7, 135 : 135 + TILE] = 1  # 5.8 %
        x[0, 130:190, 15 : 15 + TILE], x[0, 190:196, 15 : 15 + TILE] = (
            255,
            1,
        )  # half ignored, a tenth of the rest flooded
        m.write(x)
    by = {t.id.removeprefix('mmflood_EMSR548-0-0_'): t for t in read('mmflood', d)[0]}
    assert (by['10_15'].labels, by['10_135'].labels, by['130_15'].labels, by['130_255'].labels) == (
        (),
        ('flooded area',),
        ('flooded area',),
        (),
    )
    assert '10.0% is flooded area' in by['130_15'].notes and MIN_MASK_FRAC == 0.05
    assert by['10_15'].event == 'EMSR548' and by['10_15'].time == '2021-10-31T16:56:28'
    with rasterio.open(d / 'activations/EMSR548-0/s1_raw/EMSR548-0-0.tif') as r:
        power, t = r.read(), r.transform
    assert np.allclose(by['130_255'].pixels, 10 * np.log10(power[:, 130:250, 255:375]), atol=1e-3)
    assert np.allclose([by['130_255'].bounds[0], by['130_255'].bounds[3]], [t.c + 255 * t.a, t.f + 130 * t.e])


def test_cabuar(copies):
    tiles, left = read('cabuar', copies('cabuar'))
    assert {t.labels for t in tiles if 'pre_fire' in t.id} == {()} and ('burned area',) in {
        t.labels for t in tiles if 'post_fire' in t.id
    }
    assert all(t.bounds[2] - t.bounds[0] == 2400 and any('2.4 km' in n for n in t.notes) for t in tiles)
    assert {o.kind for o in left} == {'skipped'} and all('missing' in o.reason for o in left)
    t = next(t for t in tiles if t.id.endswith('_0_post_fire_16_136'))
    with h5py.File(copies('cabuar') / '512x512.hdf5') as f:
        x = f[t.event + '_0/post_fire'][16:136, 136:256]
    assert np.allclose(t.pixels, x.transpose(2, 0, 1) / 1e4, atol=1e-6)
    assert (
        t.bounds == (600_000 + 20 * 136, 4_400_000 - 20 * 136, 600_000 + 20 * 256, 4_400_000 - 20 * 16)
        and t.time == '2020-09-26T18:51:29'
    )


def test_cabuar_without_its_table_has_no_place(tmp_path):
    tiles, _ = read('cabuar', write_cabuar(tmp_path / 'd', n=1, located=False))
    assert all(t.crs == '' and t.bounds == () and np.isnan(t.lonlat[0]) and t.time == '' for t in tiles)


def test_quakeset(copies, tmp_path):
    tiles, left = read('quakeset', copies('quakeset'))
    assert len(tiles) == 5 * 16 and not left and {t.event for t in tiles} == {'611645479'}
    assert {t.id.split('_')[4] for t in tiles if t.labels} == {'post'} and {t.labels for t in tiles if t.labels} == {
        ('earthquake damage',)
    }
    assert any('missing' in n for t in tiles for n in t.notes), 'not-a-number was filled and noted'
    lost, _ = read('quakeset', write_quakeset(tmp_path / 'd', located=False))
    assert len(lost) == len(tiles) and all(np.isnan(t.lonlat[0]) for t in lost)


def test_eurosat_bands_are_taken_by_name(copies):
    d = copies('eurosat')
    t = next(t for t in read('eurosat', d)[0] if t.labels == ('River',))
    with rasterio.open(d / 'EuroSAT_MS/River/River_1.tif') as r:
        x, box = r.read() / 1e4, r.bounds
    for b in ('B8A', 'B09', 'B10', 'B12'):
        assert abs(t.pixels[S2L1C.band(b)].mean() - x[EUROSAT_BANDS.index(b)].mean()) < 1e-3
    assert np.allclose(t.bounds, box) and all(t.sensor == S2L1C for t in read('eurosat', d)[0])


def test_eurosat_rgb_stretch_is_undone(copies):
    a = {t.labels: t for t in read('eurosat', copies('eurosat'))[0]}
    for t in read('eurosat-rgb', copies('eurosat-rgb'))[0]:
        want = np.minimum(a[t.labels].pixels[[S2L1C.band(b) for b in ('B04', 'B03', 'B02')]], 0.275)
        assert t.sensor == S2RGB and abs(t.pixels.mean() - want.mean()) < 0.006 and t.pixels.max() < 0.2751
    assert len(EUROSAT_CLASSES) == 10


# ---- damage


def one(pattern):
    return lambda d: next(d.glob(pattern))


def cut(p, n=3000):
    p.write_bytes(p.read_bytes()[:n])


def rewrite(p, x=None, **kw):
    "Write a raster anew, changed."
    with rasterio.open(p) as d:
        meta, old = d.profile, d.read()
    x = old if x is None else x(old)
    with rasterio.open(
        p, 'w', **(meta | dict(dtype=x.dtype, count=len(x), height=x.shape[1], width=x.shape[2]) | kw)
    ) as d:
        d.write(x)


def edit(p, f):
    j = json.loads(p.read_text())
    f(j)
    p.write_text(json.dumps(j))


def table(p, f):
    f(pd.read_parquet(p)).to_parquet(p)


def h5(f):
    def do(p):
        with h5py.File(p, 'a') as h:
            f(h)

    return do


def replace(name, x):
    def f(h):
        g = next(iter(h.values()))
        del g[name]
        if x is not None:
            g[name] = x

    return h5(f)


def flood(s, k, v):
    return lambda p: edit(p, lambda j: j['0140'][k].update(v))


DAMAGE = [  # archive, file, what happens to it, positions that fail, words of the reason
    ('bigearthnet-v1', '*/*/S2B*.json', Path.unlink, 1, 'it holds the labels'),
    ('bigearthnet-v1', '*/*/S2B*.json', lambda p: cut(p, 50), 1, 'not JSON'),
    (
        'bigearthnet-v1',
        '*/*/S2B*.json',
        lambda p: edit(p, lambda j: j.update(labels=['Pastures', 'Pastures'])),
        1,
        'stands twice',
    ),
    ('bigearthnet-v1', '*/*/S2B*.json', lambda p: edit(p, lambda j: j.update(labels=['Pasturs'])), 1, 'unknown label'),
    ('bigearthnet-v1', '*/*/S2B*.json', lambda p: edit(p, lambda j: j.update(labels='Pastures')), 1, 'not a list'),
    (
        'bigearthnet-v1',
        '*/*/S2B*.json',
        lambda p: edit(p, lambda j: j.pop('acquisition_date')),
        1,
        'lacks labels or time',
    ),
    ('bigearthnet-v1', '*/*/S2B*.json', lambda p: edit(p, lambda j: j.update(acquisition_date='yesterdayish')), 1, ''),
    ('bigearthnet-v1', '*/S2B*/*_B05.tif', Path.unlink, 1, 'B05'),
    ('bigearthnet-v1', '*/S2B*/*_B02.tif', Path.unlink, 1, 'B02'),
    ('bigearthnet-v1', '*/S2B*/*_B05.tif', lambda p: p.write_bytes(b''), 1, 'cannot be read'),
    ('bigearthnet-v1', '*/S2B*/*_B02.tif', lambda p: rewrite(p, lambda x: x.astype('float32')), 1, 'not whole numbers'),
    ('bigearthnet-v1', '*/S1A*/*_VV.tif', lambda p: rewrite(p, lambda x: x.astype('int16')), 1, 'not floating point'),
    ('bigearthnet-v1', '*/S1A*/*_VH.tif', lambda p: rewrite(p, lambda x: x * np.nan), 0, ''),
    (
        'bigearthnet-v2',
        'BigEarthNet-S2/*/*/*_B02.tif',
        lambda p: rewrite(p, crs=None, transform=None),
        1,
        'no projection',
    ),
    ('bigearthnet-v2', 'metadata.parquet', lambda p: cut(p, 100), 6, 'not a table'),
    (
        'bigearthnet-v2',
        'metadata.parquet',
        lambda p: table(p, lambda t: pd.concat([t, t.head(1)])),
        2,
        'stands 2 times',
    ),
    (
        'bigearthnet-v2',
        'metadata.parquet',
        lambda p: table(p, lambda t: t.assign(labels=[['Urban fabrik']] * len(t))),
        4,
        'unknown label',
    ),
    ('bigearthnet-v2', 'metadata.parquet', lambda p: table(p, lambda t: t.drop(columns='labels')), 6, 'not a table'),
    (
        'bigearthnet-lmdb',
        'metadata.parquet',
        lambda p: table(p, lambda t: t.assign(labels=[['Urban fabrik']] * len(t))),
        4,
        'unknown label',
    ),
    ('sen12flood', 'S1list.json', flood('s1', '2', {'FLOODING': 'perhaps'}), 1, 'expected true or false'),
    ('sen12flood', 'S1list.json', flood('s1', '2', {'filename': '../../etc/x'}), 1, 'leads out'),
    ('sen12flood', 'S2list.json', flood('s2', '2', {'filename': 'S2_2019-04-01'}), 1, 'has no B02'),
    ('sen12flood', 'S2list.json', flood('s2', '2', {'date': 'spring'}), 1, ''),
    ('sen12flood', 'S1list.json', lambda p: edit(p, lambda j: j['0140'].update(folder='../../etc')), 2, 'leads out'),
    ('sen12flood', '0140/S2_2019-03-12_B8A.tif', Path.unlink, 16, 'B8A'),
    ('sen12flood', '0140/S2_2019-03-12_B03.tif', lambda p: cut(p, 60_000), 16, 'B03'),
    ('mmflood', '*/*/mask/EMSR446-0-0.tif', Path.unlink, 1, 'no mask'),
    ('mmflood', '*/*/mask/EMSR446-0-0.tif', lambda p: rewrite(p, lambda x: x[:, :200]), 1, 'fetch both again'),
    ('mmflood', '*/*/mask/EMSR446-0-0.tif', lambda p: rewrite(p, lambda x: x * 0 + 7), 6, 'holds 7'),
    (
        'mmflood',
        '*/*/mask/EMSR446-0-0.tif',
        lambda p: rewrite(p, lambda x: x.astype('float32')),
        6,
        'not whole numbers',
    ),
    ('mmflood', '*/*/s1_raw/EMSR446-0-0.tif', lambda p: rewrite(p, lambda x: x[:1]), 1, '1 bands'),
    ('mmflood', '*/*/s1_raw/EMSR446-0-0.tif', lambda p: rewrite(p, crs=None, transform=None), 1, 'no projection'),
    (
        'mmflood',
        '*/*/s1_raw/EMSR446-0-0.tif',
        lambda p: rewrite(p, lambda x: (x * 100).astype('uint16')),
        6,
        'not floating point',
    ),
    ('mmflood', '*/*/s1_raw/EMSR446-0-0.tif', lambda p: cut(p, 200), 1, 'cannot be read'),
    ('cabuar', '512x512.hdf5', cut, 1, 'cannot be opened'),
    ('cabuar', '512x512.hdf5', replace('mask', None), 1, 'no mask'),
    ('cabuar', '512x512.hdf5', replace('mask', np.zeros((512, 512, 1), 'float32')), 16, 'not whole numbers'),
    (
        'cabuar',
        '512x512.hdf5',
        replace('post_fire', np.zeros((12, 512, 512), 'uint16')),
        1,
        'expected rows, columns and 12',
    ),
    ('cabuar', '512x512.hdf5', replace('post_fire', np.zeros((512, 512, 12), 'float32')), 1, 'not whole numbers'),
    ('cabuar', 'metadata.parquet', lambda p: cut(p, 100), 3, 'not the table'),
    ('quakeset', 'earthquakes.h5', cut, 1, 'cannot be opened'),
    ('quakeset', 'earthquakes.h5', replace('patch_0/post', np.zeros((512, 512), 'float32')), 1, 'has shape'),
    ('quakeset', 'earthquakes.h5', replace('patch_0/post', np.zeros((512, 512, 2), 'S3')), 1, 'not floating point'),
    ('eurosat', '*/River/River_1.tif', lambda p: rewrite(p, lambda x: x[:12]), 1, '12 x 64 x 64'),
    ('eurosat', '*/River/River_1.tif', lambda p: rewrite(p, crs=None, transform=None), 1, 'no projection'),
    ('eurosat', '*/River/River_1.tif', lambda p: p.write_bytes(b''), 1, 'cannot be read'),
    (
        'eurosat',
        '*/River',
        lambda p: (
            p.rename(p.with_name('Creek')),
            (p.with_name('Creek') / 'River_1.tif').rename(p.with_name('Creek') / 'Creek_1.tif'),
        ),
        1,
        "unknown class 'Creek'",
    ),
    ('eurosat-rgb', '*/River/River_1.jpg', lambda p: cut(p, 20), 1, 'River_1.jpg'),
]


@pytest.mark.parametrize('key,where,harm,n,say', DAMAGE, ids=[f'{d[0]}-{i}' for i, d in enumerate(DAMAGE)])
def test_damage_costs_its_positions_only(key, where, harm, n, say, harmed):
    d = harmed(key)
    before = sum(WANT[key])
    harm(next(d.glob(where)))
    tiles, bad, left = failed(key, d)
    assert len(bad) == n and all(say in o.reason for o in bad), [o.reason for o in left]
    assert len(tiles) > 0 or n in (before, 1) or key in ('bigearthnet-v2', 'cabuar'), 'the others are read'


def test_mostly_missing_is_skipped(harmed):
    d = harmed('bigearthnet-v1')
    for f in d.glob('*/S1A_IW_GRDH_1SDV_20180204*/*.tif'):
        rewrite(f, lambda x: x * np.nan)
    _, left = read('bigearthnet-v1', d)
    assert [o.kind for o in left] == ['skipped'] and 'missing' in left[0].reason


def test_too_small_is_skipped(harmed):
    d = harmed('mmflood')
    for part in ('s1_raw', 'mask'):
        rewrite(d / f'activations/EMSR446-0/{part}/EMSR446-0-0.tif', lambda x: x[:, :100])
    _, left = read('mmflood', d)
    small = next(o for o in left if o.id == 'mmflood_EMSR446-0-0')
    assert small.kind == 'skipped' and '120' in small.reason and len(left) == 3


def test_empty_array_is_skipped(harmed):
    d = harmed('cabuar')
    with h5py.File(d / '512x512.hdf5', 'a') as h:
        g = next(iter(h.values()))
        for k in ('post_fire', 'mask'):
            del g[k]
        g['post_fire'], g['mask'] = np.zeros((0, 0, 12), 'uint16'), np.zeros((0, 0, 1), 'uint16')
    assert [o.kind for o in read('cabuar', d)[1]].count('skipped') == 3


def test_patch_in_no_table_is_skipped(harmed):
    d = harmed('bigearthnet-v2')
    (d / 'metadata_for_patches_with_snow_cloud_or_shadow.parquet').unlink()
    tiles, left = read('bigearthnet-v2', d)
    assert len(tiles) == 4 and [o.kind for o in left] == ['skipped'] * 2 and 'no metadata table' in left[0].reason


def test_no_table_at_all(harmed):
    d = harmed('bigearthnet-v2')
    for f in d.glob('*.parquet'):
        f.unlink()
    assert {o.reason for o in failed('bigearthnet-v2', d)[1]} == {
        'metadata.parquet is not there; it holds the labels: fetch it'
    }


@pytest.mark.parametrize('size', [100, 5000, 40_000])
def test_a_database_cut_short_does_not_kill_the_process(size, harmed):
    d = harmed('bigearthnet-lmdb')
    cut(next(d.glob('*/data.mdb')), size)
    with pytest.raises(DamagedError, match='fetch it again'):
        archive('bigearthnet-lmdb').find(d)


def test_a_pickle_stays_shut(harmed):
    import lmdb
    import pickle

    d = harmed('bigearthnet-lmdb')

    class Trap:
        def __reduce__(self):
            return (Path.touch, (d / 'sprung',))

    with lmdb.open(str(d / 'BigEarthNet-V2-LMDB')) as env, env.begin(write=True) as txn:
        txn.put(next(txn.cursor().iternext(values=False)), pickle.dumps(Trap()))
    assert [('pickles' in o.reason) for o in failed('bigearthnet-lmdb', d)[1]] == [True] and not (d / 'sprung').exists()


def test_missing_list_and_escapes(harmed):
    d = harmed('sen12flood')
    (d / 'S1list.json').unlink()
    with pytest.raises(NotFoundError, match='S1list.json is not there'):
        archive('sen12flood').find(d)
    for key, item in [
        ('bigearthnet-v1', ('../x',)),
        ('mmflood', ('../../etc/x.tif',)),
        ('cabuar', ('../x.h5', 'a', 'post_fire')),
        ('eurosat', ('/etc/River/River_1.tif',)),
        ('quakeset', ('/etc/x.h5', 'a/b', 'post')),
    ]:
        out = read_item(archive(key), d, item)
        assert len(out) == 1 and out[0].kind == 'failed' and 'leads out' in out[0].reason


NOTHING = {'sen12flood': 'S1list.json', 'bigearthnet-lmdb': 'data.mdb'}


@pytest.mark.parametrize('key', ARCHIVE_WRITERS)
def test_nothing_there(key, tmp_path):
    with pytest.raises(NotFoundError, match=NOTHING.get(key, 'holds nothing')):
        archive(key).find(tmp_path)
    with pytest.raises(NotFoundError, match='is not a folder'):
        archive(key).find(tmp_path / 'x')
    with pytest.raises(NotFoundError, match='is not a folder'):
        guess_archive(tmp_path / 'x')
    with pytest.raises(InputError) as e:
        guess_archive(tmp_path)
    assert ARCHIVE_PATTERNS[key][0] in str(e.value)


def test_a_bug_of_ours_is_no_damage(copies, monkeypatch):
    from closp_nb.data import archives

    src, d = archive('mmflood'), copies('mmflood')
    monkeypatch.setattr(archives, 'select_bands', lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read_item(src, d, src.find(d)[0])
    monkeypatch.setattr(archives.pd, 'read_parquet', lambda *a, **kw: 1 / 0)
    archives._ben2_rows.cache_clear()
    src, d = archive('bigearthnet-v2'), copies('bigearthnet-v2')
    with pytest.raises(ZeroDivisionError):
        read_item(src, d, src.find(d)[0])


def test_the_database_is_optional(copies, monkeypatch):
    import sys

    d = copies('bigearthnet-lmdb')
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    with pytest.raises(MissingDependencyError, match=r'closp_nb\[samples\]'):
        archive('bigearthnet-lmdb').find(d)


def test_registry():
    assert set(ARCHIVES) == set(ARCHIVE_WRITERS) == set(ARCHIVE_PATTERNS)
    with pytest.raises(InputError, match='mmflood'):
        archive('mmflod')
    assert all('\n' not in s.about and s.about.count(';') == 2 for s in ARCHIVES.values()), 'what; licence; citation'


# ---- real files, where they are


def real(*parts):
    p = REAL.joinpath(*parts)
    if not p.exists():
        pytest.skip(f"real tiles are not beside the checkout ({'/'.join(parts)})")
    return p


def test_real_bigearthnet_v2(tmp_path):
    d = Path(shutil.copytree(real('native', 'BigEarthNet'), tmp_path / 'd', copy_function=shutil.copyfile))
    pd.DataFrame(
        [
            dict(
                patch_id='S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43',
                s1_name='S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48',
                labels=['Arable land'],
                contains_seasonal_snow=False,
                contains_cloud_or_shadow=False,
            )
        ]
    ).to_parquet(d / 'metadata.parquet')  # the sample comes without its table
    assert guess_archive(d) == 'bigearthnet-v2'
    tiles, left = read('bigearthnet-v2', d)
    assert len(tiles) == 2 and not left
    for t, (col, row) in zip(tiles, [(70, 48), (75, 43)]):
        assert patch_bounds('33UUP', col, row) == (t.crs, t.bounds), 'the file and the name agree'
    assert -20 < np.median(tiles[0].pixels) < -10 and 0.15 < np.median(tiles[1].pixels) < 0.25


def test_real_eurosat():
    tiles, left = read('eurosat', real('native', 'EuroSAT_MS'))
    assert len(tiles) == 3 and not left
    t = next(t for t in tiles if t.labels == ('Pasture',))
    b = {n: t.pixels[i].mean() for i, n in enumerate(t.sensor.names)}
    assert b['B8A'] > b['B08'] > 0.35 and b['B09'] < 0.2 and b['B10'] < 0.01, (
        'grass is bright in B8A and dark in B09: the order is right'
    )


def test_real_eurosat_rgb():
    d, src = real('eurosat_rgb'), archive('eurosat-rgb')
    assert guess_archive(d) == 'eurosat-rgb'
    items = src.find(d)
    got = [t for i in items[::97] for t in read_item(src, d, i)]
    assert all(isinstance(t, Tile) and t.labels[0] in EUROSAT_CLASSES for t in got) and len(got) == len(items[::97])
    mean = {c: np.mean([t.pixels.mean() for t in got if t.labels == (c,)]) for c in ('SeaLake', 'Industrial')}
    assert mean['SeaLake'] < mean['Industrial']
