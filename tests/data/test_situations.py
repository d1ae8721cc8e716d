"What real archives do to a reader: the value, the notes and the counts of every situation."

import numpy as np
import pytest
import rasterio
from scipy.ndimage import map_coordinates

from closp_nb.core import NotFoundError
from closp_nb.data.catalog import Catalog
from closp_nb.synthetic.deliveries import DELIVERIES
from closp_nb.synthetic.disks import DISKS
from closp_nb.synthetic.situations import LEFT, SITUATIONS, TOP, Truth

EVERY = SITUATIONS | DELIVERIES | DISKS

MARGIN = 4  # pixels of 10 m at the border, where a coarse band has no neighbour on one side


def one_line(text):
    assert text and '\n' not in text and len(text) < 600, text
    return text


def read(folder, truth, **facts):
    return Catalog.from_rasters(f'{folder}{truth.place}', progress=False, **(truth.facts | facts))


def centres(tile, row):
    "Row and column, on the 10 m grid of the truth, of the centre of each pixel."
    h, w = tile.pixels.shape[1:]
    if not tile.bounds:
        at = tuple(map(int, row.key.split(',')))
        return np.mgrid[at[0] : at[0] + h, at[1] : at[1] + w].astype(float)
    t = rasterio.transform.from_bounds(*tile.bounds, w, h)
    y, x = np.mgrid[:h, :w] + 0.5
    return np.stack([(TOP - (t.f + t.e * y)) / 10 - 0.5, (t.c + t.a * x - LEFT) / 10 - 0.5])


def compare(tile, row, truth):
    "Hold each band against the truth, wherever that is known."
    at, seen = centres(tile, row), 0
    factor = truth.factors[tile.time[:10]] if truth.factors else 1.0
    assert set(tile.bands) == set(truth.planes), (tile.bands, tile.notes)
    for b, plane in truth.planes.items():
        inside = np.all([(a >= MARGIN) & (a <= n - 1 - MARGIN) for a, n in zip(at, plane.shape)], 0)
        want = map_coordinates(plane, at, order=1, mode='nearest') * factor
        ok = inside & np.isfinite(want)
        off = abs(tile.pixels[tile.sensor.band(b)] - want)[ok]
        assert off.size and off.max() < 1e-3, f'{b} is {off.max():.4g} off; {tile.notes}'
        seen += ok.sum()
    assert seen


@pytest.mark.parametrize('name', EVERY)
def test_situation(tmp_path, name):
    folder = tmp_path / 'archive'
    folder.mkdir()
    truth = EVERY[name](folder)
    assert isinstance(truth, Truth)
    if truth.mend or (truth.refused and not truth.tiles):
        with pytest.raises(NotFoundError) as e:
            read(folder, truth)
        assert all(w in one_line(str(e.value)) for w in truth.refused.split(' | '))
        for k in truth.mend:
            assert f'{k}=' in str(e.value), f'the mend {k}= is not named in: {e.value}'
        if not truth.tiles:
            return
    cat, report = read(folder, truth, **truth.mend)
    for id, why in report:
        one_line(f'{id}: {why}')
    counts = len(cat), len(report), sum(report.found.other.values())
    assert counts == (truth.tiles, truth.left, truth.other), [*report, report.found.other]
    assert report.tiles == len(cat) and report.found.files >= counts[1]
    if truth.refused and not truth.mend:
        for words in truth.refused.split(' | '):
            assert any(words in why for _, why in report), (words, [*report])
    assert cat.table.id.is_unique
    if truth.factors:
        assert {t[:10] for t in cat.table.time} == set(truth.factors)
    for i, row in enumerate(cat.table.itertuples()):
        tile = cat[i]
        notes = '; '.join(tile.notes)
        assert not [w for w in truth.notes if w not in notes], notes
        compare(tile, row, truth)
        gaps = cat.table.gaps.mean()  # of all tiles: a hole lies in one of them
        assert abs(gaps - truth.gaps) < max(1e-4, 0.05 * truth.gaps), (tile.gaps, notes)
