"Oracles for chapter 61: all ways of the coins, SciPy, Holm's procedure as he wrote it, means by hand, every refusal."

import itertools
import subprocess
import sys
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from closp_nb.core import InputError
from closp_nb.evaluation.metrics import bootstrap, paired_bootstrap
from closp_nb.evaluation.significance import holm, means, sign_flip, versus


def close(a, b, tol=1e-12):
    return np.testing.assert_allclose(a, b, rtol=0, atol=tol)


zero = np.zeros


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_few_queries_are_counted_over_all_ways(d):
    d = np.array(d)
    ways = [
        abs(sum(x * s for x, s in zip(d, signs))) >= abs(d.sum()) for signs in itertools.product([1, -1], repeat=len(d))
    ]
    close(sign_flip(d / 7, zero(len(d))), np.mean(ways))
    close(sign_flip(zero(len(d)), d / 7), np.mean(ways))  # two-sided


@pytest.mark.parametrize('seed', range(3))
def test_many_queries_agree_with_scipy(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(80) + 0.07, rng.random(80)
    want = stats.permutation_test((a - b,), np.mean, permutation_type='samples', n_resamples=40_000, rng=1).pvalue
    close(sign_flip(a, b, 40_000), want, 0.012)
    close(sign_flip(a, b, 40_000), stats.ttest_rel(a, b).pvalue, 0.02)
    assert sign_flip(a, b) == sign_flip(a, b) != sign_flip(a, b, seed=1)


def test_p_is_never_zero_and_nan_is_left_out():
    a, b = np.arange(40.0), np.arange(40.0) - 1
    close(sign_flip(a, b, 999), 1 / 1000)
    b[3] = np.nan
    a[7] = np.nan
    keep = ~np.isin(np.arange(40), [3, 7])
    assert sign_flip(a, b, 500, 2) == sign_flip(a[keep], b[keep], 500, 2)
    assert (
        sign_flip([0.1, 0.2], [0.1, 0.2]) == 1 and np.isnan(sign_flip([], [])) and np.isnan(sign_flip([np.nan], [0.3]))
    )


def test_p_is_even_when_nothing_differs():
    rng = np.random.default_rng(5)
    p = np.array([sign_flip(rng.normal(size=25), rng.normal(size=25), 300, i) for i in range(400)])
    assert stats.kstest(p, 'uniform').pvalue > 0.01


def test_draws_in_pieces_do_not_swell(monkeypatch):
    import tracemalloc

    rng = np.random.default_rng(6)
    a, b = rng.random(20_000), rng.random(20_000)
    tracemalloc.start()
    sign_flip(a, b, 2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e8


def step_down(p):
    "Test as Holm (1979): walk up from the smallest p, stop at the first that fails; adjusted: where each passes."
    order, out, worst = sorted(range(len(p)), key=lambda i: p[i]), [None] * len(p), 0
    for j, i in enumerate(order):
        worst = max(worst, min(1, (len(p) - j) * p[i]))
        out[i] = worst
    return out


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm(p):
    got = holm(p)
    close(got, step_down(p))
    for level in (0.01, 0.05, 0.3):
        order, rejected = np.argsort(p, kind='stable'), set()
        for j, i in enumerate(order):
            if p[i] * (len(p) - j) > level:
                break
            rejected.add(i)
        assert rejected == set(np.flatnonzero(got <= level))


def test_holm_leaves_out_what_was_not_compared():
    got = holm([0.02, np.nan, 0.01])
    close(got[[0, 2]], holm([0.02, 0.01]))
    assert np.isnan(got[1]) and len(holm([])) == 0


def test_versus():
    rng = np.random.default_rng(7)
    base = rng.random(30)
    s = pd.DataFrame({'m': base, 'n': base + 0.2 + rng.normal(0, 0.02, 30), 'o': base + rng.normal(0, 0.02, 30)})
    s.loc[4, 'o'] = np.nan
    t = versus(s, n=2000)
    assert t[['a', 'b']].values.tolist() == [['m', 'n'], ['m', 'o'], ['n', 'o']] and t.queries.tolist() == [30, 29, 29]
    for r in t.itertuples():
        close((r.difference, r.low, r.high), paired_bootstrap(s[r.a], s[r.b], 400))
        close(r.p, sign_flip(s[r.a], s[r.b], 2000))
    close(t.holm, holm(t.p))
    u = versus(dict(s), 'm', n=2000)
    assert u.a.tolist() == ['n', 'o'] and (u.b == 'm').all()
    close(u.difference[0], -t.difference[0])


TABLE = pd.DataFrame(
    {
        'model': list('aabb') * 2,
        'labels': [('x',), ('x', 'y')] * 4,
        'value': [0.1, 0.5, 0.3, np.nan, 0.2, 0.9, 0.4, 0.6],
        'relevant': [1, 10, 1, 0, 2, 4, 8, 1],
        'random': 0.1,
    }
)


def test_means_by_hand():
    t = means(TABLE, 'model').set_index('model')
    assert t.queries.to_dict() == {'a': 4, 'b': 3} and t.relevant.to_dict() == {'a': 17, 'b': 10}
    close(t.macro, [(0.1 + 0.5 + 0.2 + 0.9) / 4, (0.3 + 0.4 + 0.6) / 3])
    close(t.micro, [(0.1 + 5 + 0.4 + 3.6) / 17, (0.3 + 3.2 + 0.6) / 10])
    close(t['random'], 0.1)
    a = TABLE[TABLE.model == 'a']
    close(t.loc['a', ['macro', 'low', 'high']].astype(float), bootstrap(a.value))
    close(t.loc['a', ['micro', 'micro_low', 'micro_high']].astype(float), bootstrap(a.value, weights=a.relevant))


def test_means_of_everything_of_each_label_and_without_weights():
    assert len(means(TABLE)) == 1 and means(TABLE).queries.item() == 7
    t = means(TABLE, ['labels']).set_index('labels')
    assert t.queries.to_dict() == {'x': 7, 'y': 3}
    close(t.macro['y'], (0.5 + 0.9 + 0.6) / 3)
    plain = means(TABLE.drop(columns=['relevant', 'random']), 'model', weight=None)
    assert list(plain) == ['model', 'queries', 'macro', 'low', 'high']
    none = means(TABLE.assign(value=np.nan), 'model')
    assert (none.queries == 0).all() and none.macro.isna().all() and none.micro.isna().all()


BAD = [
    (lambda: sign_flip([1.0, 2.0], [1.0]), 'same queries'),
    (lambda: sign_flip([[1.0]], [[1.0]]), 'same queries'),
    (lambda: sign_flip(['a'], ['b']), 'must be numbers'),
    (lambda: sign_flip([np.inf], [1]), 'infinity'),
    (lambda: sign_flip([1.0], [2.0], 0), '1 or more'),
    (lambda: holm([-0.1]), '0 to 1'),
    (lambda: holm([[0.1]]), '(1, 1)'),
    (lambda: holm(['a']), 'numbers'),
    (lambda: versus({'a': [1.0]}), 'two models'),
    (lambda: versus({'a': [1.0], 'b': [1.0]}, 'c'), "no model 'c'"),
    (lambda: versus({'a': [1.0], 'b': [1.0, 2.0]}), 'same queries'),
    (lambda: means(TABLE, 'colour'), "no column 'colour'"),
    (lambda: means(TABLE, value='v'), "no column 'v'"),
    (lambda: means(TABLE, weight='w'), "no column 'w'"),
    (lambda: means(TABLE[:0]), 'no rows'),
    (lambda: means(TABLE.assign(relevant=0)), 'above 0'),
]


@pytest.mark.parametrize('i', range(len(BAD)))
def test_refusals_are_one_line_with_a_mend(i):
    f, part = BAD[i]
    with pytest.raises(InputError) as e:
        f()
    text = str(e.value)
    assert part in text and '\n' not in text and ';' in text and len(text) < 200, text


def test_importing_significance_loads_nothing_heavy():
    heavy = 'torch fastai faiss rasterio geopandas ipywidgets matplotlib scipy'.split()
    code = f'import sys, closp_nb.evaluation.significance; print([m for m in {heavy!r} if m in sys.modules])'
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert p.returncode == 0 and p.stdout.strip() == '[]', p.stdout + p.stderr
