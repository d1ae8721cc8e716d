"Dense oracles for chapter 60: plain loops, all orders of tied tiles, ir_measures, simulation, every refusal."

import itertools
import math
import re
import subprocess
import sys
import tracemalloc
import ir_measures
import numpy as np
import pytest
from scipy import stats
from hypothesis import given, settings, strategies as st
from ir_measures import AP, P, R, RR, Rprec, nDCG
from pathlib import Path
from scipy.sparse import coo_array, csc_array, csr_array
from closp_nb.evaluation import metrics
from closp_nb.core import InputError
from closp_nb.evaluation.metrics import (
    Run,
    average_precision,
    bootstrap,
    exponential_gain,
    ndcg,
    paired_bootstrap,
    precision,
    r_precision,
    random_average_precision,
    random_ndcg,
    random_precision,
    random_r_precision,
    random_recall,
    random_reciprocal_rank,
    recall,
    reciprocal_rank,
)


def close(a, b, tol=1e-12):
    np.testing.assert_allclose(a, b, rtol=0, atol=tol)


# --- plain loops over an untied order of tiles -----------------------------------------------------------------


def loop_ndcg(gains, k):
    dcg = sum(g / math.log2(i + 2) for i, g in enumerate(gains[:k]))
    ideal = sum(g / math.log2(i + 2) for i, g in enumerate(sorted(gains, reverse=True)[:k]))
    return dcg / ideal if ideal else math.nan


def loop_precision(rel, k):
    return sum(rel[:k]) / min(k, len(rel)) if any(rel) else math.nan


def loop_recall(rel, k):
    return sum(rel[:k]) / sum(rel) if any(rel) else math.nan


def loop_ap(rel, k=10**9):
    found, total = 0, 0.0
    for i, r in enumerate(rel[:k]):
        if r:
            found += 1
            total += found / (i + 1)
    return total / sum(rel) if any(rel) else math.nan


def loop_rr(rel, k=10**9):
    if not any(rel):
        return math.nan
    first = list(rel).index(True) + 1
    return 1 / first if first <= k else 0.0


def loop_rp(rel):
    return loop_precision(rel, sum(rel)) if any(rel) else math.nan


# name -> (ours of scores, grades, k; the loop over ranked grades; the floor)
ALL = {
    'ndcg': (lambda s, g, k: ndcg(s, g, k), loop_ndcg, random_ndcg),
    'precision': (
        lambda s, g, k: precision(s, g > 0, k),
        lambda g, k: loop_precision([x > 0 for x in g], k),
        lambda g, k: random_precision(g > 0),
    ),
    'recall': (
        lambda s, g, k: recall(s, g > 0, k),
        lambda g, k: loop_recall([x > 0 for x in g], k),
        lambda g, k: random_recall(g > 0, k),
    ),
    'ap at k': (
        lambda s, g, k: average_precision(s, g > 0, k),
        lambda g, k: loop_ap([x > 0 for x in g], k),
        lambda g, k: random_average_precision(g > 0, k),
    ),
    'rr at k': (
        lambda s, g, k: reciprocal_rank(s, g > 0, k),
        lambda g, k: loop_rr([x > 0 for x in g], k),
        lambda g, k: random_reciprocal_rank(g > 0, k),
    ),
    'ap': (
        lambda s, g, k: average_precision(s, g > 0),
        lambda g, k: loop_ap([x > 0 for x in g]),
        lambda g, k: random_average_precision(g > 0),
    ),
    'rr': (
        lambda s, g, k: reciprocal_rank(s, g > 0),
        lambda g, k: loop_rr([x > 0 for x in g]),
        lambda g, k: random_reciprocal_rank(g > 0),
    ),
    'r-precision': (
        lambda s, g, k: r_precision(s, g > 0),
        lambda g, k: loop_rp([x > 0 for x in g]),
        lambda g, k: random_r_precision(g > 0),
    ),
}
AT_K = ['ndcg', 'precision', 'recall', 'ap at k', 'rr at k']  # what a run of depth k must know
each_measure = pytest.mark.parametrize('name', ALL)


def over_orders(scores, values, f):
    "The mean of `f` over every order of the tiles that sorts the scores."
    runs = [[i for i, s in enumerate(scores) if s == v] for v in sorted(set(scores), reverse=True)]
    orders = [sum(o, ()) for o in itertools.product(*(itertools.permutations(r) for r in runs))]
    return float(np.mean([f([values[i] for i in o]) for o in orders]))


# --- against the loops -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('k', [1, 7, 40, 1000])
def test_untied_runs_equal_the_loops(seed, k):
    rng = np.random.default_rng(seed)
    s, rel = rng.random((9, 40)), rng.integers(0, 4, (9, 40)) * (rng.random((9, 40)) < 0.4)
    g, w, order = exponential_gain(rel), rel > 0, np.argsort(-s, axis=1)

    def ranked(x):
        return np.take_along_axis(x, order, 1).tolist()

    close(ndcg(s, g, k), [loop_ndcg(x, k) for x in ranked(g)])
    close(precision(s, w, k), [loop_precision(x, k) for x in ranked(w)])
    close(recall(s, w, k), [loop_recall(x, k) for x in ranked(w)])
    close(average_precision(s, w), [loop_ap(x) for x in ranked(w)])


tiles = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(tiles, st.integers(1, 8))
def test_tied_runs_equal_the_mean_over_all_orders(pairs, k):
    s, rel = zip(*pairs)
    g, w = [2.0**r - 1 for r in rel], [r > 0 for r in rel]
    close(ndcg([s], [g], k)[0], over_orders(s, g, lambda x: loop_ndcg(x, k)))
    close(precision([s], [w], k)[0], over_orders(s, w, lambda x: loop_precision(x, k)))
    close(recall([s], [w], k)[0], over_orders(s, w, lambda x: loop_recall(x, k)))
    close(average_precision([s], [w])[0], over_orders(s, w, loop_ap))


@each_measure
@settings(max_examples=60, deadline=None)
@given(pairs=tiles, k=st.integers(1, 8))
def test_every_measure_of_tied_runs_is_the_mean_over_all_orders(name, pairs, k):
    ours, loop, _ = ALL[name]
    s, rel = zip(*pairs)
    close(ours(np.array([s]), np.array([rel]), k)[0], over_orders(s, rel, lambda x: loop(x, k)))


@each_measure
@settings(max_examples=60, deadline=None)
@given(grades=st.lists(st.integers(0, 3), min_size=1, max_size=6), k=st.integers(1, 8))
def test_every_floor_is_the_mean_over_all_orders(name, grades, k):
    _, loop, floor = ALL[name]
    close(floor(np.array([grades]), k)[0], over_orders([0] * len(grades), grades, lambda x: loop(x, k)))


@each_measure
@pytest.mark.parametrize('levels', [2, 7, 10**6])
def test_every_measure_is_the_mean_of_shuffled_ties(name, levels):
    rng = np.random.default_rng(levels)
    ours, loop, _ = ALL[name]
    s, g = rng.integers(0, levels, 300), rng.integers(0, 4, 300) * (rng.random(300) < 0.05)
    orders = [np.lexsort((rng.random(300), -s)) for _ in range(2000 if levels < 100 else 1)]
    close(
        ours(s[None], g[None], 40)[0],
        np.mean([loop(g[o].tolist(), 40) for o in orders]),
        0.02 if levels < 100 else 1e-12,
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 6), st.integers(1, 70), st.booleans())
def test_order_of_files_scale_of_scores_and_chunks_do_not_matter(seed, n, levels, k, minus_inf):
    rng = np.random.default_rng(seed)
    s, g = rng.integers(0, levels, (5, n)).astype(float), rng.integers(0, 4, (5, n))
    if minus_inf:
        s[s == 0] = -np.inf
    shuffle = rng.permutation(n)
    for f, x in ((ndcg, g), *((lambda s, x, k, f=f: f(s, x, k), g) for f, *_ in ALL.values())):
        v = f(s, x, k)
        close(f(s[:, shuffle], x[:, shuffle], k), v)
        close(f(3 * s + 1, x, k), v)
        close([f(s[[i]], x[[i]], k)[0] for i in range(5)], v)
        assert np.array_equal(np.isnan(v), ~(g > 0).any(1)) and v.dtype == np.float64
        ok = v[~np.isnan(v)]
        assert (ok >= 0).all() and (ok <= 1 + 1e-12).all()


def test_heavily_tied_run_that_straddles_k_is_the_mean_of_shuffles():
    rng = np.random.default_rng(0)
    s, g = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
    values = []
    for _ in range(4000):
        o = np.lexsort((rng.random(200), -s))
        values.append((loop_ndcg(g[o].tolist(), 30), loop_ap((g[o] > 0).tolist())))
    close([ndcg(s[None], g[None], 30)[0], average_precision(s[None], g[None] > 0)[0]], np.mean(values, 0), 0.005)


def test_small_chunks_equal_large_ones(monkeypatch):
    rng = np.random.default_rng(1)
    s, g = rng.integers(0, 30, (23, 17)), rng.integers(0, 3, (23, 17))
    calls = [
        lambda: ndcg(s, g, 5),
        lambda: recall(s, g > 0, 5),
        lambda: average_precision(s, g > 0),
        lambda: random_ndcg(g, 5),
        lambda: r_precision(s, g > 0),
        lambda: reciprocal_rank(s, g > 0),
        lambda: ndcg(Run.of(s, 6), g, 5),
        lambda: ndcg(Run.of(s, 6), csr_array(g), 5),
        lambda: ndcg(s, csr_array(g), 5),
        lambda: random_ndcg(csr_array(g), 5),
        lambda: np.array(bootstrap(s[0] / 30)),
    ]
    whole = [f() for f in calls]
    for cells in (1, 17, 60):
        monkeypatch.setattr(metrics, '_CELLS', cells)
        for f, w in zip(calls, whole):
            close(f(), w)


def test_extra_memory_is_less_than_a_second_matrix():
    s = np.random.default_rng(2).random((60, 100_000), dtype='float32')
    w = s > 0.5
    for f in (
        lambda: ndcg(s, w, 1000),
        lambda: recall(s, w, 1000),
        lambda: average_precision(s, w),
        lambda: r_precision(s, w),
        lambda: reciprocal_rank(s, w),
        lambda: Run.of(s, 1000),
        lambda: random_average_precision(w),
    ):
        tracemalloc.start()
        f()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < s.nbytes


def test_kinds_of_numbers():
    s, g = [[3, 1, 2]], [[0, 1, 3]]
    for ds, dg in itertools.product(['uint8', 'int64', 'float16', 'float32', 'float64'], repeat=2):
        close(ndcg(np.array(s, ds), np.array(g, dg), 2), loop_ndcg([0, 3, 1], 2))
    close(ndcg([[True, False]], [[True, False]], 1), 1)
    assert ndcg(np.zeros((0, 3)), np.zeros((0, 3)), 2).shape == (0,)
    before = np.array([[0.5, 0.5, 0.1]])
    x = before.copy()
    average_precision(x, [[1, 0, 1]])
    ndcg(x, [[1, 0, 1]], 2)
    assert (x == before).all()


def test_gain():
    assert all(exponential_gain(r) == 2**r - 1 for r in range(25))
    assert exponential_gain(np.array([[0, 2]], 'int8')).dtype == np.float32
    close(exponential_gain([0.5]), 2**0.5 - 1, 1e-6)


def test_no_relevant_tile_is_not_a_number_everywhere():
    s, g = [[1, 2]], [[0, 0]]
    for v in (
        [f(s, np.array(g), 1) for f, *_ in ALL.values()]
        + [f(np.array(g), 1) for *_, f in ALL.values()]
        + [f(Run.of(s, 1), csr_array(g), 1) for f, *_ in ALL.values()]
    ):
        assert v.shape == (1,) and np.isnan(v).all()


# --- against ir_measures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(3))
def test_agrees_with_ir_measures_query_by_query(seed):
    rng = np.random.default_rng(seed)
    q, n, k = 8, 120, 15
    s, rel = (
        rng.permuted(np.tile(np.arange(n), (q, 1)), axis=1),
        rng.integers(0, 4, (q, n)) * (rng.random((q, n)) < 0.2),
    )
    rel[:, 0] = 1

    def named(m):
        return {f'q{i}': {f't{j}': m[i, j].item() for j in range(n)} for i in range(q)}

    w = rel > 0
    ours = {
        nDCG @ k: ndcg(s, rel, k),
        P @ k: precision(s, w, k),
        R @ k: recall(s, w, k),
        AP: average_precision(s, w),
        AP @ k: average_precision(s, w, k),
        RR: reciprocal_rank(s, w),
        RR @ k: reciprocal_rank(s, w, k),
        Rprec: r_precision(s, w),
    }
    seen = 0
    for m in ir_measures.iter_calc(list(ours), named(rel), named(s)):
        close(ours[m.measure][int(m.query_id[1:])], m.value, 1e-6)
        seen += 1
    assert seen == 8 * q
    gain = exponential_gain(rel)
    for m in ir_measures.iter_calc([nDCG @ k], named(gain.astype(int)), named(s)):
        close(ndcg(s, gain, k)[int(m.query_id[1:])], m.value, 1e-6)


@pytest.mark.parametrize('seed', range(6))
def test_agrees_with_ir_measures_on_tied_runs(seed):
    rng = np.random.default_rng(seed)
    s, rel = rng.integers(0, 3, 6), rng.integers(0, 4, 6)
    rel[0] = 1
    names = list(itertools.permutations(range(6)))  # they break ties by name: give the names in all orders

    def ask(x):
        return {f'q{i}': {'abcdef'[a]: x[j].item() for a, j in enumerate(o)} for i, o in enumerate(names)}

    g, w = rel[None], rel[None] > 0
    ours = {
        nDCG @ 4: ndcg(s[None], g, 4),
        P @ 4: precision(s[None], w, 4),
        R @ 4: recall(s[None], w, 4),
        AP: average_precision(s[None], w),
        AP @ 3: average_precision(s[None], w, 3),
        RR: reciprocal_rank(s[None], w),
        RR @ 2: reciprocal_rank(s[None], w, 2),
        Rprec: r_precision(s[None], w),
    }
    theirs = ir_measures.calc_aggregate(list(ours), ask(rel), ask(s))
    for m, v in ours.items():
        close(v[0], theirs[m], 1e-6)


# --- runs and sparse relevance ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 50), st.integers(1, 50), st.sampled_from([3, 10**6]))
def test_a_run_scores_as_the_matrix_wherever_it_knows_enough(seed, n, depth, levels):
    rng = np.random.default_rng(seed)
    s, g = rng.integers(0, levels, (4, n)), rng.integers(0, 4, (4, n)) * (rng.random((4, n)) < 0.4)
    run, sparse = Run.of(s, depth), csr_array(g)
    assert run.shape == (4, n) and run.depth == min(depth, n) and (np.diff(run.scores, axis=1) <= 0).all()
    close(run.scores, -np.sort(-s, axis=1)[:, :depth])
    ordered = -np.sort(-s, axis=1)
    for k in range(1, run.depth + 1):
        whole = (
            run.depth == n
            or (ordered[:, k - 1] > ordered[:, run.depth - 1]).all()
            or (ordered[:, run.depth - 1] > ordered[:, run.depth]).all()
        )
        for name in AT_K:
            dense, other = ALL[name][0](run, g, k), ALL[name][0](run, sparse, k)
            close(dense, other)
            if whole:
                close(dense, ALL[name][0](s, g, k))


@each_measure
def test_a_whole_run_scores_as_the_matrix(name):
    rng = np.random.default_rng(8)
    s, g = rng.integers(0, 5, (30, 20)), rng.integers(0, 3, (30, 20))
    want = ALL[name][0](s, g, 7)
    for gains in (g, csr_array(g), coo_array(g), csc_array(g)):
        x = (
            gains.tocsr() if hasattr(gains, 'tocsr') and name != 'ndcg' else gains
        )  # a csc array has no `> 0` that keeps its form in older SciPy
        close(ALL[name][0](Run.of(s, 20), x, 7), want)
        close(ALL[name][0](s, x, 7), want)
        close(ALL[name][2](x, 7), ALL[name][2](g, 7))


def test_sparse_relevance_unsorted_and_in_pieces():
    data, col, ptr = np.array([1.0, 2, 1, 3]), np.array([4, 0, 4, 2]), np.array([0, 3, 4, 4])
    odd = csr_array((data, col, ptr), (3, 5))
    g = odd.toarray()
    assert g[0, 4] == 2
    s = np.random.default_rng(0).random((3, 5))
    for k in (1, 3, 5):
        close(ndcg(Run.of(s, 5), odd, k), ndcg(s, g, k))
        close(ndcg(s, odd, k), ndcg(s, g, k))
    assert odd.indices.tolist() == [4, 0, 4, 2]  # ours to read, not to change
    close(exponential_gain(odd).toarray(), exponential_gain(g))


def test_a_run_with_places_where_nothing_was_found():
    g = np.array([[0, 1, 0, 1]])
    run = Run([[0, -1, 1, -1]], [[0.9, 5.0, 0.8, np.finfo('f4').min]], 4)
    assert run.rows.tolist() == [[0, 1, -1, -1]] and run.scores[0, 2:].tolist() == [-np.inf] * 2
    close(precision(run, g > 0, 4), 1 / 4)
    close(recall(run, g > 0, 4), 1 / 2)
    close(reciprocal_rank(run, g > 0, 4), 1 / 2)
    close(precision(run, csr_array(g) > 0, 4), 1 / 4)
    close(average_precision(run, g > 0, 4), 1 / 4)
    none = Run([[-1, -1]], [[0.0, 0.0]], 4)
    for name in AT_K:
        close(ALL[name][0](none, g, 2), 0)


def test_a_run_that_is_too_short_is_refused_only_where_it_matters():
    s, g = -np.arange(6.0) * np.ones((2, 1)), np.array([[1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0]])
    run = Run.of(s, 2)
    for f in (average_precision, r_precision):
        with pytest.raises(InputError) as e:
            f(run, g)
        assert 'query 1' in str(e.value) or 'looks at 3 ranks' in str(e.value)
    close(reciprocal_rank(run, g), 1)
    close(average_precision(Run.of(s, 4), g), average_precision(s, g))
    close(r_precision(Run.of(s, 3), g), r_precision(s, g))
    with pytest.raises(
        InputError, match='0 of the 1 relevant ones of query 0; search with k=6, or score the first ranks with k=2'
    ):
        reciprocal_rank(Run.of(-s, 2), g)
    close(reciprocal_rank(Run.of(-s, 2), g, 2), 0)


def test_relevance_of_the_query_chapter_fits():
    import pandas as pd
    from types import SimpleNamespace
    from closp_nb.labels import LABELS
    from closp_nb.data.queries import relevance

    rng = np.random.default_rng(4)
    rows = pd.DataFrame({'labels': [tuple(x for x in LABELS if rng.random() < 0.2) for _ in range(80)]})
    cat = SimpleNamespace(frame=rows, table=rows)
    queries = pd.DataFrame({'labels': [(a,) for a in LABELS] + [(LABELS[0], LABELS[4])]})
    dense, sparse = relevance(queries, cat), relevance(queries, cat, sparse=True)
    s = rng.random(dense.shape)
    close(ndcg(Run.of(s, 20), exponential_gain(sparse), 20), ndcg(s, exponential_gain(dense), 20))


# --- floors ----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 50), st.integers(1, 60))
def test_a_constant_model_lands_on_the_floor(seed, n, k):
    rel = np.random.default_rng(seed).integers(0, 3, (4, n))
    flat = np.full((4, n), 0.7, 'float32')
    close(random_ndcg(rel, k), ndcg(flat, rel, k))
    close(random_precision(rel > 0), precision(flat, rel > 0, k))
    close(random_average_precision(rel > 0), average_precision(flat, rel > 0))


@pytest.mark.parametrize('wanted', [1, 10, 30, 40])
def test_floors_equal_simulation(wanted):
    rng = np.random.default_rng(wanted)
    rel = np.zeros(40, int)
    rel[:wanted] = rng.integers(1, 4, wanted)
    g, w, s = np.tile(rel, (6000, 1)), np.tile(rel > 0, (6000, 1)), rng.random((6000, 40))
    close(random_ndcg(rel[None], 10)[0], ndcg(s, g, 10).mean(), 0.01)
    close(random_precision(rel[None] > 0)[0], precision(s, w, 10).mean(), 0.01)
    close(random_average_precision(rel[None] > 0)[0], average_precision(s, w).mean(), 0.01)


def test_floor_is_the_prevalence_when_many_are_wanted():
    w = np.arange(5000)[None] < 2000
    close(random_ndcg(w, 1000), 0.4)
    assert random_ndcg(np.arange(5000)[None] < 100, 1000)[0] > 100 / 5000


@each_measure
def test_every_floor_equals_simulation(name):
    rng = np.random.default_rng(11)
    rel = np.zeros(50, int)
    rel[:6] = rng.integers(1, 4, 6)
    v = ALL[name][0](rng.random((6000, 50)), np.tile(rel, (6000, 1)), 12)
    close(ALL[name][2](rel[None], 12)[0], v.mean(), 4 * v.std() / 6000**0.5)


@each_measure
def test_floors_of_half_a_million_tiles(name):
    rel = (np.random.default_rng(12).random((1, 517_000)) < 1e-4).astype('int8')
    close(ALL[name][2](rel, 1000), ALL[name][0](np.zeros(rel.shape, 'float32'), rel, 1000), 1e-9)
    close(ALL[name][2](csr_array(rel), 1000), ALL[name][2](rel, 1000), 1e-12)


# --- intervals -------------------------------------------------------------------------------------------------


def studentized(v, w, n, seed, level):
    "The interval, draw by draw."

    def of(v, w):
        m = np.average(v, weights=w)
        e = w * (v - m) / w.mean()
        return m, np.sqrt((e**2).sum() / len(v) / (len(v) - 1))

    rng, q = np.random.default_rng(seed), len(v)
    m, e = of(v, w)
    most = 2 * stats.t.ppf((1 + level) / 2, q - 1)
    draws = [rng.integers(q, size=q) for _ in range(n)]
    far = [(mi - m) / max(ei, 1e-9 * e) for mi, ei in (of(v[i], w[i]) for i in draws)]
    low, high = np.quantile(np.clip(far, -most, most), [(1 - level) / 2, (1 + level) / 2])
    return m, m - high * e, m - low * e


def test_bootstrap_equals_the_loop_and_is_repeatable():
    v = np.random.default_rng(3).random(30)
    close(bootstrap(v, n=400, seed=5, level=0.8), studentized(v, np.ones(30), 400, 5, 0.8))
    assert bootstrap(v) == bootstrap(v) != bootstrap(v, seed=1)
    assert all(type(x) is float for x in bootstrap(v))


@pytest.mark.parametrize('q', [5, 8, 12, 24])
@pytest.mark.parametrize('a,b,nought', [(5, 1.5, 0), (9, 1, 0), (2, 2, 0), (3, 2, 0.3)])
def test_an_interval_of_few_queries_holds(q, a, b, nought):
    "The percentile interval holds .79 to .93 of these."
    rng = np.random.default_rng(q)
    truth, tries = (1 - nought) * a / (a + b), 700
    hits = 0
    for _ in range(tries):
        _, low, high = bootstrap(rng.beta(a, b, q) * (rng.random(q) >= nought), 400)
        hits += low <= truth <= high
    assert hits / tries > 0.91, hits / tries


def test_bootstrap_width_is_that_of_theory():
    v = np.random.default_rng(4).normal(0, 1, 2000)
    _, low, high = bootstrap(v)
    close(high - low, 2 * 1.96 * v.std() / 2000**0.5, 0.006)


def test_bootstrap_at_the_edges():
    for one in ([0.3], [np.nan, 0.3, np.nan]):
        assert bootstrap(one)[0] == 0.3 and np.isnan(bootstrap(one)[1:]).all()
    assert bootstrap([0.25] * 9) == (0.25, 0.25, 0.25)
    for nothing in ([], [np.nan], np.full(4, np.nan)):
        assert np.isnan(bootstrap(nothing)).all() and len(bootstrap(nothing)) == 3
    assert bootstrap([0.1, np.nan, 0.9, 0.4]) == bootstrap([0.1, 0.9, 0.4])


def test_weighted_bootstrap():
    rng = np.random.default_rng(9)
    v, w = rng.random(25), rng.integers(1, 50, 25)
    assert bootstrap(v, weights=np.full(25, 7)) == pytest.approx(bootstrap(v), abs=1e-12)
    mean, low, high = bootstrap(v, weights=w)
    close(mean, np.average(v, weights=w))
    assert low < mean < high
    close(bootstrap(v, n=300, seed=2, weights=w), studentized(v, w, 300, 2, 0.95))
    v[3], w[3] = np.nan, 0  # nothing to find: left out, whatever its weight
    assert bootstrap(v, weights=w) == bootstrap(np.delete(v, 3), weights=np.delete(w, 3))


def test_paired_bootstrap():
    rng = np.random.default_rng(6)
    b = rng.random(40)
    a = b + 0.05
    close(paired_bootstrap(a, b), (0.05, 0.05, 0.05))
    noisy = a + rng.normal(0, 0.02, 40)
    assert paired_bootstrap(noisy, b)[1] > 0
    close(paired_bootstrap(b, noisy)[0], -paired_bootstrap(noisy, b)[0])
    b[3], noisy[5] = np.nan, np.nan
    keep = ~np.isin(np.arange(40), [3, 5])
    assert paired_bootstrap(noisy, b, n=100, seed=2, level=0.5) == paired_bootstrap(
        noisy[keep], b[keep], n=100, seed=2, level=0.5
    )


# --- refusals --------------------------------------------------------------------------------------------------

S, G = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]), np.array([[0, 1, 3], [1, 0, 0]])
BAD = [
    (lambda: ndcg(S[0], G[0], 2), 'scores|gains', 'matrix'),
    (lambda: ndcg(S, G[0], 2), 'gains', 'gains[None]'),
    (lambda: ndcg(S[0], G, 2), 'scores', 'scores[None]'),
    (lambda: ndcg(S, G[:, :2], 2), 'scores', '(2, 2)'),
    (lambda: ndcg(S[:1], G, 2), 'scores', 'one row per query'),
    (lambda: ndcg([[0.1, 0.2], [np.nan, 1]], [[1, 0], [1, 0]], 1), 'scores', 'query 1 hold NaN'),
    (lambda: ndcg(S, G - 1, 2), 'gains', 'from -1 to 2'),
    (lambda: ndcg(S, G * np.nan, 2), 'gains', 'finite'),
    (lambda: ndcg(S, np.where(G == 3, np.inf, G), 2), 'gains', 'finite'),
    (lambda: ndcg(S, G, 0), 'k', 'k is 0'),
    (lambda: ndcg(S, G, -3), 'k', '1 or more'),
    (lambda: ndcg(S, G, 2.5), 'k', 'whole number'),
    (lambda: precision(S, G > 0, 0), 'k', 'k is 0'),
    (lambda: recall(S, G > 0, 0), 'k', 'k is 0'),
    (lambda: random_ndcg(G, 0), 'k', 'k is 0'),
    (lambda: ndcg(np.zeros((2, 0)), np.zeros((2, 0)), 1), 'gains', 'at least one'),
    (lambda: ndcg([['a', 'b']], [[1, 0]], 1), 'scores', 'must be numbers'),
    (lambda: ndcg(S, [[1, 2, 3], [1, 2]], 1), 'gains', 'different length'),
    (lambda: precision(S, G, 1), 'relevant', 'relevance > 0'),
    (lambda: recall(S, G, 1), 'relevant', 'relevance > 0'),
    (lambda: average_precision(S, G), 'relevant', 'relevance > 0'),
    (lambda: random_precision(G), 'relevant', 'relevance > 0'),
    (lambda: random_average_precision(G * 0.5), 'relevant', 'relevance > 0'),
    (lambda: random_ndcg(-G, 1), 'gains', 'start at 0'),
    (lambda: exponential_gain([0, 50, 100]), 'relevance', '0 to 100'),
    (lambda: exponential_gain([-1]), 'relevance', 'start at 0'),
    (lambda: exponential_gain([np.nan]), 'relevance', 'nan'),
    (lambda: exponential_gain(['high']), 'relevance', 'numbers'),
    (lambda: bootstrap(S), 'values', '(2, 3)'),
    (lambda: bootstrap(0.5), 'values', 'one per query'),
    (lambda: bootstrap([1, np.inf]), 'values', 'finite'),
    (lambda: bootstrap(['a']), 'values', 'numbers'),
    (lambda: bootstrap([0.5], n=0), 'n=0', '1 or more'),
    (lambda: bootstrap([0.5], level=95), 'n=', '0.95'),
    (lambda: bootstrap([0.5, 0.6], weights=[1]), 'weights', 'one for each'),
    (lambda: bootstrap([0.5, 0.6], weights=[1, 0]), 'weights', 'above 0'),
    (lambda: r_precision(S, G), 'relevant', 'relevance > 0'),
    (lambda: reciprocal_rank(S, G), 'relevant', 'relevance > 0'),
    (lambda: reciprocal_rank(S * np.nan, G > 0), 'scores', 'hold NaN'),
    (lambda: average_precision(S, G > 0, 0), 'k', 'k is 0'),
    (lambda: reciprocal_rank(S, G > 0, -1), 'k', '1 or more'),
    (lambda: ndcg(S, G, True), 'k', 'whole number'),
    (lambda: ndcg(S, G, None), 'k', 'k is None'),
    (lambda: ndcg(S, csr_array(-G), 2), 'gains', 'from -3'),
    (lambda: ndcg(S, csr_array(G[:1]), 2), 'scores', 'one row per query'),
    (lambda: precision(S, csr_array(G), 2), 'relevant', 'relevance > 0'),
    (lambda: ndcg(csr_array(S), G, 2), 'scores', 'must be numbers'),
    (lambda: random_recall(G > 0, 0), 'k', 'k is 0'),
    (lambda: Run([[0, 1]], [[1.0, 0.5, 0.2]], 3), 'rows', 'one score'),
    (lambda: Run(np.zeros((0, 3), int), np.zeros((0, 3)), 3), 'the run', 'no query'),
    (lambda: Run(np.zeros((2, 0), int), np.zeros((2, 0)), 3), 'rows', 'no tiles'),
    (lambda: Run([[0.0, 1.0]], [[1.0, 0.5]], 3), 'rows', 'whole numbers'),
    (lambda: Run([[0, 3]], [[1.0, 0.5]], 3), 'rows', 'from 0 to 3'),
    (lambda: Run([[0, -2]], [[1.0, 0.5]], 3), 'rows', 'from -2'),
    (lambda: Run([[0, 1], [0, 0]], [[1.0, 0.5]] * 2, 3), 'query 1', 'twice'),
    (lambda: Run([[0, 1]], [[1.0, np.nan]], 3), 'scores', 'NaN'),
    (lambda: Run.of(S, 0), 'k', 'k is 0'),
    (lambda: ndcg(Run.of(S, 2), G, 3), 'the measure', 'search with k=3'),
    (lambda: recall(Run.of(S, 2), G > 0, 3), 'the measure', 'k=3'),
    (lambda: ndcg(Run.of(S, 2), G[:, :2], 2), 'scores', '(2, 2)'),
    (lambda: average_precision(Run.of(S, 1), G > 0), 'the run', 'k=3'),
    (lambda: r_precision(Run.of(S, 1), G > 0), 'the measure', 'k=2'),
    (lambda: reciprocal_rank(Run.of(-S, 1), G > 0), 'the run', 'k=3'),
    (lambda: paired_bootstrap([1.0, 2.0], [1.0]), 'a has', 'same queries'),
    (lambda: paired_bootstrap(S, S), 'values', 'one per query'),
]


@pytest.mark.parametrize('i', range(len(BAD)))
def test_refusals_are_one_line_with_a_mend(i):
    f, start, part = BAD[i]
    with pytest.raises(InputError) as e:
        f()
    text = str(e.value)
    assert part in text and re.match(start, text) and '\n' not in text and ';' in text and len(text) < 200, text


def test_a_bad_row_is_named_by_its_number_in_the_whole_matrix(monkeypatch):
    monkeypatch.setattr(metrics, '_CELLS', 3)
    s, g = np.zeros((9, 3)), np.ones((9, 3))
    s[7, 1] = np.nan
    with pytest.raises(InputError, match='query 7 hold NaN'):
        ndcg(s, g, 1)
    g[5, 0] = -1
    with pytest.raises(InputError, match='query 5 run from -1'):
        ndcg(s, g, 1)


def test_importing_metrics_loads_nothing_heavy():
    heavy = 'torch pandas fastai faiss rasterio ipywidgets matplotlib scipy'.split()
    code = f'import sys, closp_nb.evaluation.metrics; sys.exit(sum(m in sys.modules for m in {heavy!r}))'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_benchmark_in_small():
    bench = Path(__file__).resolve().parents[1] / 'benchmarks' / 'bench_metrics.py'
    p = subprocess.run([sys.executable, str(bench), '70', '9000', '100'], capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr
    m = re.fullmatch(r'bench_metrics ratio=(\d+\.\d) goal=1', p.stdout.splitlines()[-1])
    assert m and float(m[1]) > 1, p.stdout
    assert re.search(r'memory: peak \d+\.\d+ GB', p.stdout) and re.search(r'\d s  AP\n', p.stdout), p.stdout
