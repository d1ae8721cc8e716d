"Stored numbers: made-up ground in every form, hypothesis for the arithmetic, real scenes where they are at hand."

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from closp_nb.core import NotFoundError
from closp_nb.sensors import S1, S2, S2L1C, S2RGB, Tile, sensor
from closp_nb.names import as_sensor, select_bands
from closp_nb.units import guess_unit, offset_in, to_unit

REAL = Path(__file__).resolve().parent.parent.parent.parent.joinpath('shared', 'data', 'real', 'terramind')
real = pytest.mark.skipif(not REAL.exists(), reason='the real TerraMind scenes are not beside the checkout')


def light(seed, dark=0.02):
    rng = np.random.default_rng(seed)
    return np.clip(S2.mean[:, None, None] * np.exp(0.5 * rng.standard_normal((12, 40, 40))), dark, 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1000.0]), st.booleans())
def test_numbers_come_home_whatever_the_offset(seed, offset, told):
    x = light(seed)
    y, notes = to_unit(np.rint(x * 10_000) + offset, S2, offset if told else None)
    assert np.abs(y - x).max() < 1e-4 and len(notes) == 1


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(12)))
def test_bands_find_their_places(order):
    x = light(0)
    y, _ = select_bands(x[list(order)], [S2.names[i] for i in order], S2)
    assert (y == x).all()


def test_thirteen_bands_and_back():
    t = Tile('t', S2, light(1))
    assert (as_sensor(as_sensor(t, S2L1C), S2).pixels == t.pixels).all()
    with pytest.raises(NotFoundError, match='missing'):
        as_sensor(Tile('t', S2RGB, light(1)[[3, 2, 1]]), S2)


@pytest.mark.parametrize('key', ['s1', 's2', 's2l1c', 's2rgb'])
def test_sensors_are_whole(key):
    s = sensor(key)
    assert len(s.mean) == len(s.std) == len(s.names) == len(set(s.names)) and (s.std > 0).all() and s.source
    for recipe in s.rgb.values():
        for weights, lo, hi in recipe:
            assert lo < hi and set(weights) <= set(s.names)


def test_a_filled_b10_is_no_evidence():
    x = np.insert(np.rint(light(2) * 10_000) + 1000, 10, 0, axis=0)
    assert offset_in(x, S2L1C.names)[0] == 1000


def test_slightly_negative_reflectance_is_no_contradiction():
    x = np.rint(light(3) * 10_000) + 1000
    x[0, :5] = 850
    assert to_unit(x, S2, 1000.0)[0].min() == pytest.approx(-0.015, abs=1e-4)


@real
@pytest.mark.parametrize(
    'name,l2a,l1c',
    [
        ('282D_485L_3_3', 0, 1000),
        ('38D_378R_2_3', 0, 0),
        ('433D_629L_3_1', 1000, 1000),
        ('609U_541L_3_0', 0, 1000),
        ('637U_59R_1_3', 0, 0),
    ],
)
def test_real_scenes(name, l2a, l1c):
    import rasterio

    with rasterio.open(REAL / 'S1RTC' / f'{name}.tif') as d:
        db = d.read()
    assert guess_unit(db, S1).unit == 'dB'
    for r in (0, 104):
        assert guess_unit(10 ** (db[:, r : r + 120, r : r + 120] / 10), S1).unit == 'linear'
        assert guess_unit(10 ** (db[:, r : r + 120, r : r + 120] / 20), S1).unit == 'amplitude'
    for level, s, want in (('S2L2A', S2, l2a), ('S2L1C', S2L1C, l1c)):
        with rasterio.open(REAL / level / f'{name}.tif') as d:
            x = d.read().astype(float)
        assert guess_unit(x, s).unit == 'DN' and offset_in(x, s.names)[0] == want
