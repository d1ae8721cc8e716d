"Conditions come first: the best of what passes, whatever is asked."

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings, strategies as st

from closp_nb.data.catalog import Catalog
from closp_nb.core import DamagedError, InputError, NotFoundError
from closp_nb.search.filters import filter_counted, filter_mask, read_polygon, say_unknown
from closp_nb.search.index import Index
from closp_nb.search.stores import STORES
from closp_nb.labels import LABELS

N, DIM = 400, 16
rng = np.random.default_rng(0)
lon, lat = rng.uniform(-180, 180, N), np.degrees(np.arcsin(rng.uniform(-1, 1, N)))
lon[:3], lat[:3] = np.nan, np.nan
sensor, z = rng.choice(['s1', 's2'], N), rng.standard_normal((N, DIM)).astype('f4')
z /= np.linalg.norm(z, axis=1, keepdims=True)
z[50:60] = z[40]
CAT = Catalog(
    gpd.GeoDataFrame(
        dict(
            id=[f't{i}' for i in range(N)],
            sensor=sensor,
            path='',
            key='',
            source=rng.choice(['a', 'b'], N),
            split='gallery',
            lon=lon,
            lat=lat,
            time=[
                f'20{y}-{m:02d}-11T10:00:00' if y else ''
                for y, m in zip(rng.choice([0, 18, 19, 20], N), rng.integers(1, 13, N))
            ],
            raw_labels=[[]] * N,
            labels=[list(rng.choice(LABELS, rng.integers(0, 4), replace=False)) for _ in range(N)],
            caption='',
            cloud=np.where(sensor == 's1', np.nan, np.where(rng.random(N) < 0.1, np.nan, rng.random(N))),
        ),
        geometry=shapely.points(lon, lat),
        crs='EPSG:4326',
    )
)
INDEX = {
    store: Index(c.build(z), CAT, dict(store=store, dim=DIM, count=N, fingerprint='', model=''))
    for store, c in STORES.items()
}

degrees = st.floats(-170, 170), st.floats(-80, 80), st.floats(0.5, 60), st.floats(0.5, 40)
corner = st.tuples(*degrees).map(lambda t: (t[0], t[1], min(180, t[0] + t[2]), min(90, t[1] + t[3])))
asked = st.fixed_dictionaries(
    {},
    optional=dict(
        sensor=st.sampled_from(['s1', 's2']),
        bbox=corner,
        near=st.tuples(degrees[0], degrees[1], st.floats(1, 9000)),
        within=corner.map(lambda b: shapely.box(*b)),
        source=st.sampled_from(['a', 'b', 'none']),
        since=st.sampled_from(['2018-05-01', '2020-01-01']),
        until=st.sampled_from(['2018-12-31', '2019-06-30']),
        label=st.sampled_from(LABELS),
        max_cloud=st.floats(0, 1),
    ),
)


def ground(a, b, c, d):
    "Kilometres over the ground, by the haversine."
    a, b, c, d = map(np.radians, (a, b, c, d))
    return (
        2 * 6371.0088 * np.arcsin(np.sqrt(np.sin((d - b) / 2) ** 2 + np.cos(b) * np.cos(d) * np.sin((c - a) / 2) ** 2))
    )


def by_hand(i, w):
    "Does tile i meet the conditions w? Written row by row, without the module's help."
    t = CAT.table.iloc[i]

    def box(b):
        return b[0] <= t.lon <= b[2] and b[1] <= t.lat <= b[3]

    return all(
        (
            w.get('sensor') in (None, t.sensor),
            'bbox' not in w or box(w['bbox']),
            'within' not in w or box(w['within'].bounds),
            w.get('source') in (None, t.source),
            'near' not in w or ground(*w['near'][:2], t.lon, t.lat) <= w['near'][2],
            'since' not in w or t.time[:10] >= w['since'],
            'until' not in w or '' < t.time[:10] <= w['until'],
            'label' not in w or w['label'] in t.labels,
            'max_cloud' not in w or t.sensor == 's1' or t.cloud <= w['max_cloud'],
        )
    )


@settings(max_examples=150, deadline=None)
@given(where=asked, k=st.integers(1, 30), store=st.sampled_from(sorted(STORES)), seed=st.integers(0, 999))
def test_filtered_equals_brute_force(where, k, store, seed):
    "Few rows are looked at one by one in every store: answers are exact, for the vectors that the store keeps."
    ok = np.array([by_hand(i, where) for i in range(N)])
    mask = filter_mask(CAT, **where)
    np.testing.assert_array_equal(np.ones(N, bool) if mask is None else mask, ok)
    q = np.random.default_rng(seed).standard_normal((1, DIM)).astype('f4')
    scores, rows = INDEX[store].search(q, k, mask)
    true = (INDEX[store].vectors(np.arange(N)).astype('f8') @ q[0].astype('f8')).astype('f4')
    want = np.flatnonzero(ok)
    want = want[np.lexsort((want, -true[want]))][:k]
    if store == 'compact':
        np.testing.assert_allclose(scores[0], true[want], atol=1e-5)
    else:
        np.testing.assert_array_equal(rows[0], want)


KNOWS = dict(time=('since', 'until'), place=('bbox', 'near', 'within'), cloud=('max_cloud',))


@settings(max_examples=100, deadline=None)
@given(where=asked)
def test_what_is_unknown_is_counted_once(where):
    "A tile counts if it meets what is left when the conditions that it cannot answer are taken away."
    want = dict.fromkeys(KNOWS, 0)
    for i in range(N):
        t = CAT.table.iloc[i]
        lacks = dict(time=t.time == '', place=np.isnan(t.lon), cloud=t.sensor == 's2' and np.isnan(t.cloud))
        reasons = {what for what in KNOWS if lacks[what] and set(where) & set(KNOWS[what])}
        rest = {k: v for k, v in where.items() if not any(k in KNOWS[what] for what in reasons)}
        if reasons and by_hand(i, rest):
            want[next(what for what in ('place', 'time', 'cloud') if what in reasons)] += 1
    mask, counts = filter_counted(CAT, **where)
    assert counts == {what: n for what, n in want.items() if n}
    assert str(mask) == str(filter_mask(CAT, **where)) and bool(say_unknown(counts)) == bool(counts)


def test_a_time_that_is_null_is_unknown():
    "As other tools write it: text of it was later than any day."
    cat = Catalog(CAT.frame.head(3).assign(time=['2021-07-01', None, np.nan]))
    mask, counts = filter_counted(cat, since='2020-01-01')
    assert mask.tolist() == [True, False, False] and counts == dict(time=2)
    assert say_unknown(counts) == '2 tiles without a time were left out'
    assert say_unknown(dict(cloud=1)) == '1 tile without a known share of cloud was left out'


def test_one_in_ten_thousand(monkeypatch):
    "Enough rows for a scan of codes, three of which pass."
    n, dim = 30_000, 32
    z = np.random.default_rng(1).standard_normal((n, dim)).astype('f4')
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    three = np.array([5, 12_345, 29_999])
    mask = np.isin(np.arange(n), three)
    for store, c in STORES.items():
        got = c.build(z).search(z[7], 20, np.flatnonzero(mask))[1]
        assert got.tolist() == three[np.argsort(-(z[three] @ z[7]), kind='stable')].tolist(), store


@pytest.mark.parametrize(
    'crs,centre,radius',
    [
        ('EPSG:32633', (15.0, 50.0), 80e3),
        ('EPSG:32601', (180.0, 65.0), 80e3),
        ('EPSG:3995', (0.0, 90.0), 3e6),
        ('EPSG:3035', (10.0, 52.0), 500e3),
    ],
)
def test_projected_circles(crs, centre, radius):
    "A circle drawn in metres holds what lies within the radius over the ground, but for the map's distortion."
    r = np.random.default_rng(0)
    at = np.column_stack([r.uniform(-180, 180, 40_000), r.uniform(-89, 89, 40_000)])
    at[:20_000] = np.array(centre) + r.uniform(-1, 1, (20_000, 2)) * (12, 6)
    at[:, 0], at[:, 1] = (at[:, 0] + 180) % 360 - 180, at[:, 1].clip(-89.99, 89.99)
    middle = gpd.GeoSeries([shapely.Point(centre)], crs='EPSG:4326').to_crs(crs)
    mask = filter_mask(
        Catalog(CAT.table.iloc[np.zeros(len(at), int)].assign(lon=at[:, 0], lat=at[:, 1])),
        within=middle.buffer(radius, quad_segs=64),
    )
    far = ground(*centre, at[:, 0], at[:, 1]) * 1e3
    assert mask[far < 0.93 * radius].all() and not mask[far > 1.07 * radius].any() and mask.sum() > 100


def test_outlines_that_are_none(tmp_path):
    (tmp_path / 'latin.geojson').write_bytes(b'{"type": "FeatureCollection", "name": "\xe9\xff", "features": [')
    for area, words, *error in (
        (tmp_path / 'none.gpkg', 'no file', NotFoundError),
        (tmp_path / 'latin.geojson', 'cannot be read', DamagedError),
        ({}, 'no GeoJSON'),
        (shapely.LineString([(0, 0), (1, 1)]), 'no polygon'),
        (gpd.GeoSeries([shapely.Polygon()]), 'no polygon'),
        (shapely.box(3e5, 5e6, 4e5, 6e6), 'no degrees'),
        ([1, 2], 'got list'),
        (shapely.Polygon([(0, 0), (1, np.inf), (2, 2)]), 'no numbers'),
    ):
        with pytest.raises(*error or [InputError], match=words) as e:
            read_polygon(area)
        assert '\n' not in str(e.value)


def test_a_bug_is_no_damage(tmp_path, monkeypatch):
    "What is wrong in the code itself is not told as a damaged file."
    shapely_box = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs='EPSG:4326')
    shapely_box.to_file(tmp_path / 'a.geojson')
    monkeypatch.setattr(gpd, 'read_file', lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read_polygon(tmp_path / 'a.geojson')
