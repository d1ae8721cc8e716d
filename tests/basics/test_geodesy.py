"Geodesy: coordinates that are none, the centre of a tile against its outline, distances within a limit."

import math

import numpy as np
import pytest

from closp_nb.core import InputError
from closp_nb.geodesy import check_centre, check_lonlat, check_place, km_between, to_lonlat, within_km


@pytest.mark.parametrize(
    'lonlat,mend',
    [
        ([[12.5, 41.9], [41.9, 112.5]], 'row 1 .* did you swap lat and lon\\? closp_nb wants longitude first'),
        ((139.7, -90.01), 'swap lat and lon'),
        ((190.0, 10.0), 'take 360 off'),
        ((-180.5, 10.0), 'take 360 off'),
        ((math.nan, 1.0), 'row 0 .* look up its coordinates'),
        ([[1.0, math.inf]], 'look up its coordinates'),
        ((300000.0, 5400000.0), 'EPSG:4326'),
        ((1.0, 2.0, 3.0), r'\(n, 2\)'),
        (np.zeros((2, 2, 2)), r'\(n, 2\)'),
        (5.0, r'\(n, 2\)'),
        ('Rome', 'pairs of degrees'),
        ([None, None], 'NaN|pairs of degrees'),
        ([[1, 2], [3]], 'pairs of degrees'),
    ],
)
def test_wrong_coordinates(lonlat, mend):
    with pytest.raises(InputError, match=mend) as e:
        check_lonlat(lonlat)
    assert '\n' not in str(e.value)


def test_right_coordinates():
    for ok in ((12.5, 41.9), [12, 41], np.array([[180, 90], [-180, -90]], 'float32'), np.zeros((0, 2))):
        x = check_lonlat(ok)
        assert x.ndim == 2 and x.shape[1] == 2 and x.dtype.kind == 'f'
    x = np.array([[math.nan, math.nan], [1, 2]])
    assert check_lonlat(x, missing=True) is x
    with pytest.raises(InputError, match='swap'):
        check_lonlat([[math.nan, math.nan], [1, 92]], missing=True)


def test_tensors_are_coordinates_too():
    torch = pytest.importorskip('torch')
    assert check_lonlat(torch.tensor([[0, 0]])).shape == (1, 2)
    assert check_lonlat(torch.tensor([[1.5, 2.0]])).dtype == np.float32


def test_one_place():
    assert check_place((12.5, 41.9)).tolist() == [12.5, 41.9]
    with pytest.raises(InputError, match='one place, got 2'):
        check_place([[1, 2], [3, 4]])


@pytest.mark.parametrize('crs', ['EPSG:0', 'utm 32', 'LOCAL_CS["a plan",UNIT["metre",1]]'])
def test_projections_that_are_none(crs):
    with pytest.raises(InputError, match='EPSG code'):
        to_lonlat(0, 0, crs)


def test_a_bug_is_no_bad_projection(monkeypatch):
    "Only what PROJ complains about is the user's; everything else must show."
    monkeypatch.setattr('closp_nb.geodesy.pyproj.Transformer.from_crs', lambda *a, **kw: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        to_lonlat(0, 0, 'EPSG:32799')


def test_within_equals_brute_force():
    rng = np.random.default_rng(0)
    a, b = (np.column_stack([rng.uniform(178, 182, n), rng.uniform(-18, -16, n)]) for n in (200, 50))
    a[:, 0] = (a[:, 0] + 180) % 360 - 180
    want = [km_between(p, b).min() <= 20 for p in a]
    assert within_km(a, b, 20).tolist() == want and 0 < sum(want) < 200


def test_a_centre_and_an_outline():
    where = dict(bounds=(677_000, 5_310_000, 678_200, 5_311_200), crs='EPSG:32632', name='t')
    for ok in ((11.3774, 47.9241), (11.4, 48.0), (math.nan, math.nan)):
        check_centre(ok, **where)
    for wrong, say in (((47.92, 11.38), 'latitude first'), ((9.0, 48.0), 'find out which is true')):
        with pytest.raises(InputError, match=say):
            check_centre(wrong, **where)
