"Splits against brute force: blocks on the sphere, whole events, the strip; leaks counted pair by pair."

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings, strategies as st

from closp_nb.data.catalog import Catalog, pixel_hash
from closp_nb.core import ClospError, InputError
from closp_nb.labels import LABELS, caption
from closp_nb.geodesy import EARTH, km_between, nearest_km, place_block, to_xyz
from closp_nb.data.splits import leaks, split_blocks, split_catalog, stratify

few = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 10_000)


def haversine(a, b):
    (lon, lat), (lon2, lat2) = np.radians(np.asarray(a, float)).T, np.radians(np.asarray(b, float)).T
    h = np.sin((lat2 - lat) / 2) ** 2 + np.cos(lat) * np.cos(lat2) * np.sin((lon2 - lon) / 2) ** 2
    return 2 * 6371.0088 * np.arcsin(np.sqrt(np.minimum(h, 1)))


def catalog(n, seed, centre=(10.0, 50.0), spread=3.0, events=4, lost=0.0, **more):
    "Tiles strewn around a place, across the date line and the pole if need be."
    rng = np.random.default_rng(seed)
    lat = centre[1] + rng.uniform(-spread, spread, n)
    lon = centre[0] + rng.uniform(-spread, spread, n) / max(0.05, np.cos(np.radians(centre[1])))
    over = abs(lat) > 90
    lat, lon = np.where(over, np.sign(lat) * 180 - lat, lat), np.where(over, lon + 180, lon)
    labels = [[label for label in LABELS if rng.random() < 0.2] for _ in range(n)]
    event = np.where(rng.random(n) < 0.3, np.char.add('e', rng.integers(0, events, n).astype(str)), '')
    out = rng.random(n) < lost
    return Catalog(
        pd.DataFrame(
            dict(
                id=[f't{i}' for i in range(n)],
                sensor=rng.choice(['s1', 's2'], n),
                lon=np.where(out, np.nan, (lon + 180) % 360 - 180),
                lat=np.where(out, np.nan, lat),
                labels=labels,
                caption=[caption(label) for label in labels],
                event=event,
                path='',
                key='',
                split='gallery',
            )
        ).assign(**more)
    )


def lonlat_of(cat):
    return cat.frame[['lon', 'lat']].to_numpy(float)


CENTRES = [(10.0, 50.0), (180.0, -17.0), (0.0, 89.0), (-60.0, -88.5), (0.0, 0.0)]

# --- blocks


@given(st.floats(-180, 180), st.floats(-90, 90), st.sampled_from([1.0, 7.0, 50.0, 100.0, 333.0, 5000.0, 10_000.0]))
@settings(max_examples=300, deadline=None)
def test_blocks_know_neither_date_line_nor_turns(lon, lat, km):
    b = place_block([(lon, lat), (lon + 360, lat), (lon - 720, lat)], km)
    assert b[0] >= 0
    near = place_block([(lon - 1e-9, lat), (lon + 1e-9, lat)], km)
    if near[0] == near[1] or lon in (-180, 0, 180):
        assert b[0] == b[1] == b[2]  # 360 more can round a place that lies on a border over it
    assert place_block([(-180.0, lat)], km) == place_block([(180.0, lat)], km)
    assert place_block([(-1e-20, lat)], km) == place_block([(0.0, lat)], km)  # -1e-20 % 360 is 360


@pytest.mark.parametrize('km', [50, 100, 500])
def test_blocks_are_about_as_large_as_said(km):
    rng = np.random.default_rng(km)
    for lat in (-89.9, -75.0, -52.3, 0.0, 33.0, 60.0, 84.0, 89.9):
        p = np.column_stack([rng.uniform(-180, 180, 4000), np.clip(lat + rng.uniform(-0.2, 0.2, 4000), -90, 90)])
        b = place_block(p, km)
        for i in rng.choice(4000, 15):
            same = p[b == b[i]]
            assert (
                haversine(same, np.broadcast_to(p[i], same.shape)).max() <= km * 1.75
            )  # the longest way inside a block: a diagonal; around a pole half a cell more
    assert len(np.unique(place_block([(x, s * 90.0) for x in range(-180, 180, 7) for s in (1, -1)], km))) == 2


def test_blocks_tile_the_ball_without_gaps():
    rng = np.random.default_rng(0)
    p = np.column_stack([rng.uniform(-180, 180, 400_000), np.degrees(np.arcsin(rng.uniform(-1, 1, 400_000)))])
    b = place_block(p, 1000)
    n = np.bincount(b)
    assert (n > 0).all() and abs(
        len(n) / (4 * np.pi * EARTH**2 / 1000**2) - 1
    ) < 0.03  # numbers run on, as many as the area asks for
    assert n.max() / n.mean() < 1.35 and n.min() / n.mean() > 0.7


def test_off_the_earth_and_nowhere():
    assert place_block([(np.nan, 0), (0, np.nan), (np.nan, np.nan)]).tolist() == [-1] * 3
    for bad, say in [
        (lambda: place_block([(0, 91)]), 'longitude first'),
        (lambda: place_block([(0, 0)], np.nan), '1 and 10,000'),
        (lambda: place_block([(0, 0)], 2e4), '1 and 10,000'),
    ]:
        with pytest.raises(InputError, match=say):
            bad()


# --- distances


@given(seeds, st.sampled_from(CENTRES))
@few
def test_distances_equal_haversine(seed, centre):
    a, b = lonlat_of(catalog(40, seed, centre)), lonlat_of(catalog(30, seed + 1, centre))
    want = np.array([haversine(np.broadcast_to(p, b.shape), b) for p in a])
    assert km_between(a[:, None], b[None]) == pytest.approx(want, abs=1e-4)
    assert nearest_km(a, b) == pytest.approx(want.min(1), abs=1e-4)
    assert np.linalg.norm(to_xyz(a), axis=1) == pytest.approx(1)


# --- the split by blocks


@given(
    st.integers(30, 250),
    seeds,
    st.sampled_from(CENTRES),
    st.sampled_from([20.0, 60.0, 120.0]),
    st.sampled_from([0.0, 5.0, 20.0]),
    st.floats(0.1, 0.6),
)
@few
def test_block_split_keeps_its_promises(n, seed, centre, km, buffer, share):
    cat = catalog(n, seed, centre, lost=0.1)
    try:
        split = split_blocks(cat, share, km, buffer, seed)
    except ClospError:
        assume(False)
    p, f = lonlat_of(cat), cat.frame
    placed = np.isfinite(p).all(1)
    assert set(split) <= {'train', 'gallery', 'buffer'} and (split[~placed] == 'buffer').all()
    train, corpus = np.flatnonzero(split == 'train'), np.flatnonzero(split == 'gallery')
    assert len(corpus)
    if len(train):
        assert min(haversine(np.broadcast_to(p[i], (len(corpus), 2)), p[corpus]).min() for i in train) >= buffer - 1e-6
    for e, g in f.assign(side=split)[placed & (f.event != '')].groupby('event'):
        assert len(set(g.side) - {'buffer'}) <= 1, e
    bare = split_blocks(cat, share, km, 0, seed)  # without a strip nothing else is lost
    assert ((bare == 'gallery') == (split == 'gallery')).all() and set(bare[placed]) == {'train', 'gallery'}
    lone = pd.DataFrame(dict(b=place_block(p, km), s=bare))[placed & (f.event == '')].groupby('b').s.nunique()
    assert (lone == 1).all()  # blocks are whole
    assert (split == split_blocks(cat, share, km, buffer, seed)).all()


@given(seeds, st.sampled_from([0.1, 0.2, 0.5]))
@settings(max_examples=15, deadline=None)
def test_block_split_meets_its_share(seed, share):
    cat = catalog(4000, seed, spread=6.0, events=400)
    bare = split_blocks(cat, share, 60, 0, seed)
    assert abs(np.mean(bare == 'train') - share) < 0.02
    for label in LABELS:
        assert abs(np.mean(bare[[label in ls for ls in cat.frame.labels]] == 'train') - share) < 0.1
    for s in ('s1', 's2'):
        assert abs(np.mean(bare[cat.frame.sensor == s] == 'train') - share) < 0.1


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_a_rare_label_comes_to_both_sides(seed):
    cat = catalog(2000, seed, spread=5.0, events=1)
    f = cat.frame.assign(event='')
    block = place_block(lonlat_of(cat), 60)
    two = np.random.default_rng(seed).choice(np.unique(block), 2, replace=False)
    rare = pd.Series(block).isin(two).to_numpy()
    f['labels'] = [
        ['earthquake damage'] if r else [label for label in ls if label != 'earthquake damage']
        for ls, r in zip(f.labels, rare)
    ]
    split = split_blocks(Catalog(f), 0.2, 60, 0, seed)
    assert set(split[rare]) == {'train', 'gallery'}


def test_an_event_across_the_date_line_stays_in_one_place():
    lon = np.concatenate([179.9 + np.linspace(-0.3, 0.3, 40), np.linspace(-20, 20, 400)])
    cat = Catalog(
        pd.DataFrame(
            dict(
                id=range(440),
                sensor='s1',
                lon=(lon + 180) % 360 - 180,
                lat=-17.0,
                labels=[['water']] * 440,
                caption='water',
                event=['flood'] * 40 + [''] * 400,
            )
        )
    )
    for seed in range(6):
        split = split_blocks(cat, 0.5, 30, 1, seed)
        assert len(set(split[:40]) - {'buffer'}) == 1


def test_refusals():
    cat = catalog(50, 0)
    for bad, say in [
        (lambda: split_catalog(cat, 'places'), 'stratified, blocks'),
        (lambda: split_catalog(cat, train_frac=0), 'between 0 and 1'),
        (lambda: split_catalog(cat, 'blocks', train_frac=1.0), 'between 0 and 1'),
        (lambda: split_blocks(cat, buffer=np.nan), 'buffer'),
        (lambda: split_blocks(Catalog(cat.frame.iloc[:1])), 'smaller blocks'),
        (lambda: leaks(cat), 'split first'),
    ]:
        with pytest.raises(InputError, match=say):
            bad()


def test_stratify_is_what_it_was():
    "The archive of chapter 22 and all results on it hang on these very bits."
    got = stratify([f'g{i % 7}' for i in range(1000)], 0.2, 3)
    assert (
        hashlib.sha256(''.join({'train': 't', 'gallery': 'c'}[s] for s in got).encode()).hexdigest()[:16]
        == '8886d70164e80282'
    )
    cat = catalog(300, 1)
    assert (
        split_catalog(cat, seed=5) == stratify([a + b for a, b in zip(cat.frame.sensor, cat.frame.caption)], 0.2, 5)
    ).all()


# --- leaks


@given(st.integers(4, 120), seeds, st.sampled_from(CENTRES))
@few
def test_leaks_equal_pairs(n, seed, centre):
    rng = np.random.default_rng(seed)
    split = rng.choice(['train', 'gallery', 'buffer'], n)
    split[:2] = 'train', 'gallery'
    cat = catalog(
        n,
        seed,
        centre,
        spread=0.2,
        lost=0.1,
        hash=rng.choice(['', 'aa', 'bb', 'cc', 'dd', *map(str, range(n))], n),
        split=split,
    )
    f, p, report = cat.frame, lonlat_of(cat), leaks(cat, pixels=False)
    t, c = np.flatnonzero(split == 'train'), np.flatnonzero(split == 'gallery')
    want = [min([haversine(p[i], p[j]) for j in t if np.isfinite(p[[i, j]]).all()], default=np.nan) for i in c]
    assert report.km == pytest.approx(np.array(want), abs=1e-4, nan_ok=True)
    h = f.hash.tolist()
    assert report.twins.values.tolist() == [
        [h[i], f.id[next(j for j in t if h[j] == h[i])], f.id[i]] for i in c if h[i] and any(h[j] == h[i] for j in t)
    ]
    assert report.inside == {
        s: sum(h[i] != '' and h[i] in [h[j] for j in rows[:k]] for k, i in enumerate(rows))
        for s, rows in (('train', t), ('gallery', c))
    }
    count = {e: ((f.event[t] == e).sum(), (f.event[c] == e).sum()) for e in sorted(set(f.event) - {''})}
    assert {e: tuple(r) for e, r in zip(report.events.index, report.events.values)} == {
        e: v for e, v in count.items() if min(v)
    }
    used = split != 'buffer'
    assert (report.unplaced, report.unread, report.sides) == (
        np.isnan(p[used]).any(1).sum(),
        (f.hash[used] == '').sum(),
        dict(train=len(t), gallery=len(c)),
    )
    k = np.array(want)[np.isfinite(want)]
    if len(k):
        assert report.summary()['nearer than 50 km, share'] == pytest.approx(np.mean(k <= 50))
    assert len(str(report).splitlines()) == len(report.summary())


def test_pixels_are_read_only_where_the_hash_is_unknown():
    x = {i: np.full((2, 3, 3), i % 3, 'float32') for i in range(6)}

    class Read(Catalog):
        asked = []

        def pixels(self, i):
            self.asked.append(int(i))
            return x[int(i)]

    cat = Read(catalog(6, 0, split=['train', 'gallery'] * 3, hash=['', pixel_hash(x[1]), '', '', '', '']).frame)
    report = leaks(cat, progress=False)
    assert sorted(cat.asked) == [0, 2, 3, 4, 5] and report.unread == 0
    assert report.twins[['id_train', 'id_gallery']].values.tolist() == [['t4', 't1'], ['t0', 't3'], ['t2', 't5']]
    assert (
        pixel_hash(x[1].astype('>f8'))
        == pixel_hash(x[1])
        == hashlib.blake2b(x[1].tobytes(), digest_size=8).hexdigest()
        != pixel_hash(x[2])
    )
    assert leaks(cat, pixels=False).unread == 5 and np.isnan(
        leaks(Catalog(cat.frame.drop(columns=['hash', 'event'])), pixels=False).summary()['twins across']
    )


@given(st.integers(1, 60), seeds)
@few
def test_splits_that_are_there_stay(n, seed):
    "A tile without a split is dealt; as a copy of a gallery tile it joins the gallery, whatever its name."
    rng = np.random.default_rng(seed)
    old = rng.choice(['train', 'gallery', 'buffer', '', 'gallery'], n)
    cat = catalog(n, seed, split=old, hash=rng.choice(['', 'a', 'b', 'c', 'd'], n))
    got, f = split_catalog(cat, 'keep', 0.5, seed), cat.frame
    assert (got[old != ''] == old[old != '']).all() and set(got[old == '']) <= {'train', 'gallery'}
    held = set(f.hash[old == 'gallery']) - {''}
    assert (got[(old == '') & f.hash.isin(held).to_numpy()] == 'gallery').all()
    if (old == '').all():
        assert (got == split_catalog(cat, 'stratified', 0.5, seed)).all()
