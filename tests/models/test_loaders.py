"What may vary between two views of a tile, and what must not."

import numpy as np
import pytest
from scipy.special import digamma, polygamma

from closp_nb.models.loaders import FLIPS, TileDataset, train_loader, augment
from closp_nb.models.config import CLOSP_NB, PAPER
from closp_nb.core import InputError
from closp_nb.sensors import S1, S2
from closp_nb.data.hdf5 import close_corpora
from closp_nb.synthetic.world import build_world

DB = 10 / np.log(10)


def pixels(s, n=16, seed=0):
    return (
        np.random.default_rng(seed)
        .normal(-12 if s == S1 else 0.3, 2 if s == S1 else 0.05, (len(s.bands), n, n))
        .astype('float32')
    )


def as_before(x, s, rng):
    "The first version, which had no words: README's numbers were made with it."
    x = np.rot90(x[:, :, ::-1] if rng.random() < 0.5 else x, rng.integers(4), axes=(1, 2))
    if s.unit == 'reflectance':
        gain = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, len(x)))
        veil = abs(rng.normal(0, 0.015)) * (np.array([b.wavelength for b in s.bands]) / 443) ** -1.6
        return (x * gain[:, None, None] + veil[:, None, None]).astype('float32')
    looks = rng.uniform(8, 40)
    return (
        x
        + rng.normal(0, 0.8)
        + rng.normal(0, 0.4, (len(x), 1, 1))
        + 10 * np.log10(rng.gamma(looks, 1 / looks, x.shape))
    ).astype('float32')


@pytest.mark.parametrize('s', [S1, S2], ids=lambda s: s.key)
def test_default_is_as_before(s):
    for seed in range(30):
        a, b, x = np.random.default_rng(seed), np.random.default_rng(seed), pixels(s, seed=seed)
        assert np.array_equal(augment(x, s, a), as_before(x, s, b)) and a.random() == b.random()


@pytest.mark.parametrize('s', [S1, S2], ids=lambda s: s.key)
@pytest.mark.parametrize('flips,want', [('none', 1), ('flips', 4), ('dihedral', 8)])
def test_views_by_word(s, flips, want):
    x, rng = pixels(s), np.random.default_rng(0)
    by_hand = {
        'none': [x],
        'flips': [x, x[:, ::-1], x[:, :, ::-1], x[:, ::-1, ::-1]],
        'dihedral': [np.rot90(o, k, axes=(1, 2)) for o in (x, x[:, :, ::-1]) for k in range(4)],
    }[flips]
    seen = [augment(x, s, rng, flips, speckle=0, radiometric_jitter=0).tobytes() for _ in range(200)]
    assert set(seen) == {np.ascontiguousarray(o).tobytes() for o in by_hand} and len(set(seen)) == want
    share = np.unique(seen, return_counts=True)[1] / 200
    assert (abs(share - 1 / want) < 0.13).all()  # all alike often


def test_papers_views_are_its_flips():
    assert PAPER.data.augmentation == dict(
        flips='flips', speckle=0.0, radiometric_jitter=0.0
    ) and CLOSP_NB.data.augmentation == dict(flips='dihedral', speckle=8.0, radiometric_jitter=0.0)


@pytest.mark.parametrize('least', [1.0, 8.0])
def test_speckle_is_gamma(least):
    rng = np.random.default_rng(0)
    z = np.stack(
        [augment(np.zeros((2, 40, 40), 'float32'), S1, rng, speckle=least, radiometric_jitter=0) for _ in range(400)]
    )
    looks = np.linspace(least, 5 * least, 2001)
    assert z.mean() == pytest.approx((DB * (digamma(looks) - np.log(looks))).mean(), abs=0.06)
    assert z.var(axis=(1, 2, 3)).mean() == pytest.approx((DB**2 * polygamma(1, looks)).mean(), rel=0.06)
    assert np.isfinite(z).all()


def test_speckle_is_for_radar_and_weather_for_both():
    x = pixels(S2)
    assert np.array_equal(*(augment(x, S2, np.random.default_rng(0), speckle=o) for o in (0, 1)))
    for s in (S1, S2):
        x = pixels(s)
        calm, mild, wild = (
            augment(x, s, np.random.default_rng(1), 'none', speckle=0, radiometric_jitter=w) - x for w in (0, 0.5, 2)
        )
        assert abs(calm).max() == 0 < abs(mild).mean() < abs(wild).mean()


@pytest.mark.parametrize(
    'wrong,mend',
    [
        (dict(flips='turns'), 'none, flips, dihedral'),
        (dict(flips=None), 'dihedral'),
        (dict(speckle=0.5), '1 or more'),
        (dict(speckle=-3), '1 or more'),
    ],
)
def test_wrong_words(wrong, mend):
    with pytest.raises(InputError, match=mend) as e:
        augment(pixels(S1), S1, np.random.default_rng(0), **wrong)
    assert '\n' not in str(e.value)


def test_recipe_checks_them_too():
    for wrong in (dict(flips='turns'), dict(speckle=0.5), dict(speckle=-1.0), dict(radiometric_jitter=-1.0)):
        with pytest.raises(InputError):
            CLOSP_NB.change(**wrong)
    for flips in FLIPS:
        assert CLOSP_NB.change(flips=flips).data.augmentation['flips'] == flips


def test_loader_hands_them_on(tmp_path):
    cat = build_world(tmp_path / 'w', 24, train_frac=0.5, geotiffs=0, progress=False)
    radar = cat.where(sensor='s1')
    plain, still, moved = (
        TileDataset(radar),
        TileDataset(
            radar,
            True,
            augmentation=CLOSP_NB.change(flips='none', speckle=0.0, radiometric_jitter=0.0).data.augmentation,
        ),
        TileDataset(radar, True),
    )
    assert (plain[0]['pixels'] == still[0]['pixels']).all() and not (plain[0]['pixels'] == moved[0]['pixels']).all()
    assert {
        d.augmentation['flips']
        for d in train_loader(cat, 4, train=True, augmentation=PAPER.data.augmentation).dataset.sets.values()
    } == {'flips'}
    close_corpora()
