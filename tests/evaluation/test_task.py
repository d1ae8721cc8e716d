"Task, scores, report and commands from outside: ir_measures on the exported files, loops, files of others, refusals."

import os
import subprocess
import sys
import geopandas as gpd
import ir_measures
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from ir_measures import AP, P, R, RR, Rprec, nDCG
from pathlib import Path
from shapely.geometry import Point
from closp_nb.cli import evaluate as evals
from closp_nb.evaluation import metrics, report, scores
from closp_nb.models.config import CLOSP_NB
from closp_nb.models.closp import new_model
from closp_nb.models.inference import encode_numpy
from closp_nb.models.folder import save_model
from closp_nb.data.catalog import Catalog
from closp_nb.core import DamagedError, IncompatibleError, InputError, NotFoundError, sign_folder
from closp_nb.search.index import Index
from closp_nb.labels import LABELS, caption
from closp_nb.evaluation.metrics import paired_bootstrap
from closp_nb.data.queries import make_queries, relevance, write_queries
from closp_nb.evaluation.task import gallery_task, make_task, unseen_blocks, read_topics
from closp_nb.evaluation.scores import FEW, IndexRanker, RunRanker, evaluate, score_task
from closp_nb.evaluation.significance import holm, sign_flip
from closp_nb.geodesy import km_between, place_block


def close(a, b, tol=1e-9):
    return np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=0, atol=tol)


N = 260
ROOT = Path(__file__).resolve().parents[2]


def archive(n=N, seed=0):
    "Tiles with labels and places and no pixels; a third teaches."
    rng = np.random.default_rng(seed)
    has = rng.random((n, len(LABELS))) < 0.16
    has[np.arange(n), rng.integers(0, 9, n)] = True
    labels = [[LABELS[j] for j in np.flatnonzero(h)] for h in has]
    lonlat = np.c_[rng.uniform(5, 15, n), rng.uniform(44, 52, n)]
    t = pd.DataFrame(
        dict(
            id=[f't{i:04d}' for i in range(n)],
            sensor=rng.choice(['s1', 's2'], n),
            path='none.h5',
            key='k',
            source='made',
            split=np.where(rng.random(n) < 0.3, 'train', 'gallery'),
            lon=lonlat[:, 0],
            lat=lonlat[:, 1],
            time='',
            raw_labels=labels,
            labels=labels,
            caption=[caption(names) for names in labels],
            event='',
            notes=[[]] * n,
            cloud=np.nan,
            gaps=np.nan,
            hash='',
        )
    )
    return Catalog(gpd.GeoDataFrame(t, geometry=[Point(p) for p in lonlat], crs='EPSG:4326'))


def vectors(model, cat, noise, seed=0):
    "A tile's vector: what the model makes of its words, plus noise."
    z = encode_numpy(model.encode_text, cat.table.caption.tolist())
    z = z + noise * np.random.default_rng(seed).standard_normal(z.shape) / np.sqrt(z.shape[1])
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype('float32')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with a model, two indexes of the same tiles and an evaluation of each."
    d, cat = tmp_path_factory.mktemp('evals'), archive()
    model = new_model(CLOSP_NB.change(text_encoder='tiny')).eval()
    save_model(model, d / 'model')
    for name, noise in (('good', 1.0), ('poor', 4.0)):
        Index.build(model, cat, vectors(model, cat, noise), d / 'model').save(d / name)
        evals.evaluate_command(str(d / name), str(d / f'e_{name}'))
    return d, cat, model


def result(folder):
    return pd.read_parquet(folder / 'results.parquet')


# --- the numbers ------------------------------------------------------------------------------------------------


def printed(page):
    "Numbers of the first table: (gallery, measure, region) -> (mean, chance)."
    lines = [
        [c.strip() for c in line.strip('|').split('|')]
        for line in page.split('## Scores')[1].split('## ')[0].splitlines()
        if line.startswith('|')
    ][2:]
    out = {}
    for g, m, a, ca, b, cb in lines:
        out[g, m, 'everywhere'], out[g, m, 'unseen blocks'] = (
            (float(a.split()[0]), float(ca)),
            (float(b.split()[0]), float(cb)),
        )
    return out


def test_table_equals_ir_measures_on_the_exported_run(place):
    d, cat, _ = place
    for name in ('good', 'poor'):
        page = (d / f'e_{name}' / 'table.md').read_text()
        run, qrels = (
            list(f(str(d / f'e_{name}' / n)))
            for f, n in ((ir_measures.read_trec_run, 'run.trec'), (ir_measures.read_trec_qrels, 'qrels.trec'))
        )
        t, level = cat.table, make_queries(cat.where(split='gallery')).set_index('id').labels.map(len)
        taught = t[t.split == 'train'][['lon', 'lat']].to_numpy()
        blocks = set(place_block(taught))
        new = {
            r.id
            for r, b in zip(t.itertuples(), place_block(t[['lon', 'lat']]))
            if b not in blocks and km_between((r.lon, r.lat), taught).min() > 5
        }
        kinds, numbers = {'both': {'s1', 's2'}, 'Sentinel-1': {'s1'}, 'Sentinel-2': {'s2'}}, printed(page)
        assert len(numbers) == 3 * 8 * 2
        for gallery, region, metric in {(g, r, m) for g, m, r in numbers}:
            ids = {
                r.id
                for r in t.itertuples()
                if r.split == 'gallery' and r.sensor in kinds[gallery] and (region == 'everywhere' or r.id in new)
            }
            some_run, some_qrels = ([x for x in xs if x.doc_id in ids] for xs in (run, qrels))
            kind, _, k = metric.partition('@')
            values = []
            for lv in (1, 2):
                cut = min(int(k), len(ids)) if k else None
                m = {
                    'nDCG': lambda: nDCG(gains={1: 1, 2: 3}) @ cut,
                    'P': lambda: P(rel=lv) @ cut,
                    'R': lambda: R(rel=lv) @ cut,
                    'mAP': lambda: AP(rel=lv),
                    'MRR': lambda: RR(rel=lv),
                    'R-precision': lambda: Rprec(rel=lv),
                }[kind]()
                need = 1 if kind == 'nDCG' else lv
                able = {q.query_id for q in some_qrels if q.relevance >= need and level[q.query_id] == lv}
                values += [
                    v.value
                    for v in ir_measures.iter_calc(
                        [m], [q for q in some_qrels if q.query_id in able], [r for r in some_run if r.query_id in able]
                    )
                ]
            close(numbers[gallery, metric, region][0], np.mean(values), 5.1e-4)
    a, b = (result(d / f'e_{n}').query('metric == "mAP" and gallery == "both"').value.mean() for n in ('good', 'poor'))
    assert a > b + 0.05


class Shuffled:
    "Answers by chance."

    def __init__(self, n, seed):
        self.n, self.rng = n, np.random.default_rng(seed)

    def topk(self, lo, hi, among, k):
        at = np.flatnonzero(among)
        r = np.stack([self.rng.permutation(at)[:k] for _ in range(lo, hi)])
        return r, np.tile(np.arange(r.shape[1], 0, -1.0), (len(r), 1))


@pytest.mark.slow
def test_chance_is_what_shuffled_answers_reach():
    task = make_task(archive(120))
    got = pd.concat([score_task(task, Shuffled(120, i))[0] for i in range(60)])
    m = got[got.shown].groupby(['gallery', 'region', 'metric'])[['value', 'random']].mean()
    assert len(m) >= 24 and (m.value - m.random).abs().max() < 0.04


def test_blocks_of_queries_change_nothing(place, monkeypatch):
    d, cat, model = place
    task = make_task(cat)
    whole = score_task(task, IndexRanker(Index.load(d / 'good'), model, task.queries))
    monkeypatch.setattr(scores, '_CELLS', 3 * N)
    parts = score_task(task, IndexRanker(Index.load(d / 'good'), model, task.queries, batch_size=5))
    key = ['query', 'gallery', 'region', 'metric']
    a, b = (x[0].sort_values(key).reset_index(drop=True) for x in (whole, parts))
    assert a[key].equals(b[key])
    close(a.value, b.value, 1e-6)
    assert whole[1][['query', 'rank', 'row']].equals(parts[1][['query', 'rank', 'row']])


def test_linear_gain_and_level(place):
    d, cat, model = place
    queries = make_queries(cat.where(split='gallery'))
    task = make_task(cat, queries, d / 'e_good' / 'qrels.trec', level=2, linear=True)
    r = score_task(task, IndexRanker(Index.load(d / 'good'), model, queries), 'nDCG@20,P@5')[0].query(
        'gallery == "both" and region == "everywhere"'
    )
    run, qrels = (
        ir_measures.read_trec_run(str(d / 'e_good' / 'run.trec')),
        list(ir_measures.read_trec_qrels(str(d / 'e_good' / 'qrels.trec'))),
    )
    seen = {(str(m.measure), m.query_id): m.value for m in ir_measures.iter_calc([nDCG @ 20, P(rel=2) @ 5], qrels, run)}
    for name, theirs in (('nDCG@20', str(nDCG @ 20)), ('P@5', str(P(rel=2) @ 5))):
        t = r[(r.metric == name) & r.value.notna()]
        assert len(t) > 5
        close(t.value, [seen[theirs, q] for q in t['query']])


# --- questions and answers of others ----------------------------------------------------------------------------


@pytest.mark.parametrize('form', ['corpus.trec', 'corpus.tsv'])
def test_files_give_what_labels_give(place, tmp_path, form):
    d, cat, model = place
    task = make_task(cat)
    write_queries(tmp_path / 'f', task.queries, cat)
    evals.evaluate_command(
        str(d / 'good'), str(tmp_path / 'e'), queries=str(tmp_path / 'f'), qrels=str(tmp_path / 'f' / 'qrels' / form)
    )
    a, b = result(d / 'e_good'), result(tmp_path / 'e')
    assert a.metric.equals(b.metric) and a.same_grades.equals(b.same_grades) and a.same_tiles.equals(b.same_tiles)
    close(a.value, b.value)
    close(a.random, b.random)
    assert set(b.questions) == {f'f {form}'} and set(a.questions) == {'labels of the gallery'}


def test_a_run_gives_what_its_index_gives(place, tmp_path):
    d, _, _ = place
    evals.evaluate_command(
        str(d / 'e_good' / 'run.trec'), str(tmp_path / 'e'), catalog=str(d / 'good'), name='foreign engine'
    )
    a, b = result(d / 'e_good'), result(tmp_path / 'e')
    close(a.value, b.value)
    assert set(b.run) == {'foreign_engine'} and set(b.model) == {'unknown'}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(0.1, 0.9))
def test_part_of_a_cut_run_is_the_head_of_the_part(tmp_path_factory, seed, cut, share):
    "Whatever a cut run says of a part of the gallery is what the whole run says; a query that ended early stays whole."
    rng, n = np.random.default_rng(seed), 40
    cat = Catalog(pd.DataFrame(dict(id=[f't{i}' for i in range(n)])))
    q = pd.DataFrame(dict(id=['a', 'b', 'c']))
    order, among = [rng.permutation(n) for _ in range(3)], rng.random(n) < share
    among[rng.integers(n)] = True
    early = int(rng.integers(1, cut + 1))
    path = tmp_path_factory.mktemp('run') / 'x.run'
    path.write_text(
        ''.join(
            f'{i} Q0 t{t} 0 {n - j} x\n'
            for i, o in zip('abc', order)
            for j, t in enumerate(o[: early if i == 'c' else cut])
        )
    )
    r, s = RunRanker(path, q, cat).topk(0, 3, among, n)
    assert r.shape == s.shape
    for i, o in enumerate(order):
        want = [t for t in o[: early if i == 2 else cut] if among[t]][: r.shape[1]]
        got = r[i][r[i] >= 0].tolist()
        assert got == want and (i == 2 and early < cut or len(want) == r.shape[1] or len(want) == among.sum())


def test_what_is_not_taken_is_counted(place, tmp_path):
    d, cat, _ = place
    t, task = cat.table, make_task(cat)
    train, own = t.id[t.split == 'train'].iloc[0], task.cat.table.id
    (tmp_path / 'q.tsv').write_text('\ufeffqid\ttext\nx\tlake\ny\tfire\nz\tnothing\n', encoding='utf-8')
    (tmp_path / 'q.trec').write_text(
        f'x 0 {own[0]} 2\nx 0 {own[1]} -3\ny 0 {own[2]} 1\nw 0 {own[0]} 1\ny 0 {train} 1\ny 0 mars 1\n'
    )
    (tmp_path / 'r.run').write_text(f'x Q0 {own[0]} 1 2 e\nx Q0 mars 2 1 e\nv Q0 {own[0]} 1 1 e\nx Q0 {train} 3 .5 e\n')
    q = read_topics(tmp_path / 'q.tsv')
    assert q.id.tolist() == ['x', 'y', 'z'] and set(q.kind) == {'query'}
    task = make_task(cat, q, tmp_path / 'q.trec')
    said = ' '.join(task.notes)
    for part in (
        'not asked: 1 of 6',
        'not in the gallery: 2 of 6',
        'below 0: 1',
        'without a relevant tile in the gallery: 1 of 3',
        'they do not count in means: z',
    ):
        assert part in said, (part, said)
    assert task.grades.nnz == 2 and task.level.tolist() == [1, 1, 1]
    run = RunRanker(tmp_path / 'r.run', q, cat)
    said = ' '.join(run.notes)
    for part in ('not asked: 1 of 4', 'not in the archive: 1 of 4', 'Queries without an answer: 2 (y, z)'):
        assert part in said, (part, said)
    r, _, notes = score_task(task, run)
    p = r[(r.metric == 'nDCG@1') & (r.gallery == 'both') & (r.region == 'everywhere')].set_index('query').value
    assert p['x'] == 1 and p['y'] == 0 and np.isnan(p['z'])
    assert any('mAP' in n and 'left out' in n for n in notes)


# --- regions -------------------------------------------------------------------------------------------------------


def test_unseen_blocks_by_hand():
    taught = np.array([[10.0, 45.0], [20.0, 50.0]])
    at = np.array([[10.001, 45.0], [14.0, 45.0], [np.nan, 45.0], [20.0, 52.0]])
    assert unseen_blocks(at, taught).tolist() == [False, True, False, True]
    edge = np.array([[10.0, 45.0]])
    step = np.linspace(10, 13, 400)
    here = place_block(edge)[0]
    over = next(x for x in step if place_block([[x, 45.0]])[0] != here)
    assert (
        not unseen_blocks([[over, 45.0]], [[over - 0.002, 45.0]])[0]
        and unseen_blocks([[over, 45.0]], [[over - 0.2, 45.0]])[0]
    )  # over the border, but next door


def test_unlabelled_tiles_are_left_out_and_told(place, tmp_path):
    d, cat, model = place
    f = cat.table.copy()
    bare = np.flatnonzero(f.split == 'gallery')[:3]
    for i in bare:
        f.at[i, 'labels'] = []
    f.loc[bare, 'caption'] = ''
    Index.build(model, Catalog(f), vectors(model, cat, 1.0), d / 'model').save(tmp_path / 'index')
    evals.evaluate_command(str(tmp_path / 'index'), str(tmp_path / 'out'))
    assert 'Tiles without labels: 3; they are left out.' in (tmp_path / 'out' / 'table.md').read_text()


def test_training_tiles_of_a_second_catalog(place):
    d, cat, _ = place
    corpus = cat.where(split='gallery')
    a, b, c = make_task(cat), make_task(corpus, train=cat), make_task(corpus)
    for k in a.galleries:
        assert (a.galleries[k] == b.galleries[k]).all()
    assert {r for _, r in c.galleries} == {'everywhere'} and not c.leaks and 'No training tile is known' in c.notes[-1]
    assert 'Unknown: no training tile is known.' in report.evaluation_page(
        score_task(c, Shuffled(1, 0))[0], c.notes, c.leaks
    )
    lying = Catalog(
        cat.table.drop(columns='geometry').assign(split='gallery')
    )  # the archive calls them corpus, the second catalog knows better
    assert make_task(lying, train=cat).cat.table.id.tolist() == corpus.table.id.tolist()
    assert any('no unseen block' in n for n in make_task(cat, km=5000.0).notes)


def test_leaks_of_the_page_are_those_of_the_splits(place):
    from closp_nb.data.splits import leaks

    d, cat, _ = place
    page, want = (d / 'e_good' / 'table.md').read_text(), leaks(cat, pixels=False).summary()
    row = next(x for x in page.splitlines() if x.startswith('| median |'))
    close(float(row.split('|')[2]), want['median'], 5.1e-4)
    assert float(row.split('|')[3]) > float(row.split('|')[2])


# --- comparisons ------------------------------------------------------------------------------------------------


def test_compare_by_hand(place):
    d, _, _ = place
    a, b = (result(d / f'e_{n}') for n in ('good', 'poor'))
    t = report.compare_evaluations({'good': a, 'poor': b})
    assert len(t) == 3 * 2 * 8
    for r in t[t.metric.isin(['mAP', 'nDCG@10'])].itertuples():
        x, y = (
            z[(z.gallery == r.gallery) & (z.region == r.region) & (z.metric == r.metric)].set_index('query').value
            for z in (b, a)
        )
        x, y = x.loc[sorted(x.index)].to_numpy(), y.loc[sorted(y.index)].to_numpy()
        close((r.difference, r.low, r.high), paired_bootstrap(x, y))
        close(r.p, sign_flip(x, y))
    for _, g in t.groupby(['gallery', 'region']):
        close(g.holm, holm(g.p.to_numpy()))
    three = report.compare_evaluations({'a': a, 'b': b, 'c': b})
    assert (
        set(three.model) == {'b', 'c'}
        and set(three.base) == {'a'}
        and (three.groupby(['gallery', 'region']).holm.max() <= 1).all()
        and (three.holm >= three.p).all()
    )
    flip = report.compare_evaluations({'a': b, 'b': a})
    close(flip.difference, -t.difference)


def test_the_same_question_in_another_order_is_the_same():
    cat = archive(90)
    queries = make_queries(cat.where(split='gallery'))
    perm = np.random.default_rng(1).permutation(90)

    def f(c, q, **k):
        return (
            score_task(make_task(c, q, **k), Shuffled(90, 0))[0]
            .groupby(['gallery', 'region'])[['same_tiles', 'same_grades']]
            .first()
        )

    a, b = f(cat, queries), f(cat.take(perm), queries.iloc[::-1])
    assert a.equals(b)
    for other in (f(cat, queries, linear=True), f(cat, queries, level=1)):
        assert (other.same_tiles == a.same_tiles).all() and (other.same_grades != a.same_grades).all()
    fewer = f(cat.where(np.arange(90) != np.flatnonzero(cat.table.split == 'gallery')[0]), queries)
    assert fewer.same_tiles['both', 'everywhere'] != a.same_tiles['both', 'everywhere']


# --- what cannot be done ----------------------------------------------------------------------------------------


def run_of(text):
    return lambda d, t: (t / 'r.run').write_text(text) and dict(index=t / 'r.run', catalog=d / 'good')


def files(queries, qrels='q001 0 t0001 1\n', form='tsv'):
    def make(d, t):
        (t / f'q.{form}').write_bytes(queries if isinstance(queries, bytes) else queries.encode())
        (t / 'q.trec').write_bytes(qrels if isinstance(qrels, bytes) else qrels.encode())
        return dict(queries=t / f'q.{form}', qrels=t / 'q.trec')

    return make


BAD = {
    'no such index': (lambda d, t: dict(index=t / 'none'), 'no index folder'),
    'a model of another kind': (
        lambda d, t: (
            save_model(new_model(CLOSP_NB.change(text_encoder='tiny', seed=3)), t / 'm') and None or dict(model=t / 'm')
        ),
        'use that model',
    ),
    'run twice': (run_of('q001 Q0 t0001 1 .5 x\nq001 Q0 t0001 2 .4 x\n'), 'second time'),
    'run short': (run_of('q001 Q0 t0001 1\n'), 'line 1 lacks a column'),
    'run nan': (run_of('q001 Q0 t0001 1 nan x\n'), 'no finite score'),
    'run long': (run_of('q001 Q0 t0001 1 .5 x y\n'), 'too many'),
    'run very long': (run_of('q001 Q0 t0001 1 .5 x\nq001 Q0 a b c d e f g h\n'), 'too many'),
    'run of others': (run_of('a Q0 b 1 .5 x\n'), 'belong to each other'),
    'run empty': (run_of('\n\n'), 'is empty'),
    'run latin': (
        lambda d, t: (
            (t / 'r.run').write_bytes('q001 Q0 M\xfcnchen 1 .5 x\n'.encode('latin-1'))
            and dict(index=t / 'r.run', catalog=d / 'good')
        ),
        'UTF-8',
    ),
    'run without archive': (lambda d, t: dict(index=d / 'e_good' / 'run.trec'), 'catalog='),
    'run with model': (
        lambda d, t: dict(index=d / 'e_good' / 'run.trec', catalog=d / 'good', model=d / 'model'),
        'leave out model=',
    ),
    'index with archive': (lambda d, t: dict(catalog=d / 'good'), 'leave out catalog='),
    'qrels alone': (lambda d, t: dict(qrels=d / 'e_good' / 'qrels.trec'), 'queries='),
    'queries alone': (lambda d, t: files('a\tlake\n')(d, t) and dict(queries=t / 'q.tsv'), 'qrels='),
    'queries twice': (files('a\tlake\na\tsea\n'), "'a' twice"),
    'queries cut': (files('a\tlake\nb\n'), 'line 2'),
    'queries latin': (files('a\tM\xfcnchen\n'.encode('latin-1')), 'UTF-8'),
    'queries blank id': (files('a b\tlake\n'), 'without blanks'),
    'queries empty': (files(''), 'is empty'),
    'only a header': (files('qid\ttext\n'), 'no query'),
    'json latin': (files('{"_id": "1", "text": "M\xfc"}'.encode('latin-1'), form='jsonl'), 'not a query'),
    'json empty text': (files('{"_id": "1", "text": "  "}', form='jsonl'), 'no text'),
    'qrels of others': (files('a\tlake\n', 'b 0 c 1\n'), 'belong to each other'),
    'qrels twice': (files('q001\tlake\n', 'q001 0 t0001 1\nq001 0 t0001 2\n'), 'second time'),
    'qrels words': (files('q001\tlake\n', 'q001 0 t0001 high\n'), 'no grade'),
    'qrels latin': (files('q001\tlake\n', 'q001 0 M\xfc 1\n'.encode('latin-1')), 'UTF-8'),
    'all wrong': (lambda d, t: dict(level=7), 'no query has a relevant tile'),
    'negative level': (lambda d, t: dict(level=-1), 'starts at 1'),
    'grades too high': (
        lambda d, t: files('q001\tlake\n', f'q001 0 {make_task(Index.load(d / "good").cat).cat.table.id[0]} 99\n')(
            d, t
        ),
        'up to 24',
    ),
    'measure': (lambda d, t: dict(measures='nDCG@10,accuracy'), "'accuracy'"),
    'no measure': (lambda d, t: dict(measures=' , '), 'no measure is named'),
    'depth': (lambda d, t: dict(measures='mAP', depth=5), 'cannot be had'),
    'negative depth': (lambda d, t: dict(depth=-2), 'depth=-2'),
    'km': (lambda d, t: dict(km=0.0), 'blocks of 0 km'),
    'no training': (
        lambda d, t: (
            Catalog(Index.load(d / 'good').cat.frame.assign(split='gallery')).save(t / 'catalog.parquet')
            and dict(train=t)
        ),
        "split 'train'",
    ),
    'onto itself': (lambda d, t: dict(out=d / 'good', force=True), 'write elsewhere'),
    'above itself': (lambda d, t: dict(out=d, force=True), 'write elsewhere'),
    'taken': (lambda d, t: dict(out=d / 'e_good'), 'overwrite=True'),
}
DAMAGED = [
    'run twice',
    'run short',
    'run nan',
    'run long',
    'run very long',
    'run empty',
    'run latin',
    'queries twice',
    'queries cut',
    'queries latin',
    'queries blank id',
    'queries empty',
    'only a header',
    'json empty text',
    'json latin',
    'qrels twice',
    'qrels words',
    'qrels latin',
]
KIND = dict.fromkeys(DAMAGED, DamagedError)  # all others are InputError
KIND |= dict.fromkeys(['run of others', 'qrels of others', 'all wrong'], IncompatibleError)
KIND |= {'no such index': NotFoundError, 'a model of another kind': IncompatibleError}


@pytest.mark.parametrize('name', BAD)
def test_refusals_are_one_line_with_a_mend(place, tmp_path, name):
    d, _, _ = place
    make, part = BAD[name]
    kw = dict(index=d / 'good', out=tmp_path / 'out') | make(d, tmp_path)
    with pytest.raises(KIND.get(name, InputError)) as e:
        evals.evaluate_command(**{k: str(v) if isinstance(v, Path) else v for k, v in kw.items()})
    text = str(e.value)
    assert part in text and '\n' not in text and ';' in text, text
    assert (
        not (tmp_path / 'out').exists()
        and not (tmp_path / '.out.part').exists()
        and (d / 'good' / 'index.json').exists()
        and (d / 'e_good' / 'table.md').exists()
    )


def test_comparisons_are_refused(place, tmp_path):
    d, _, _ = place
    a = result(d / 'e_good')

    def saved(name, r):
        (tmp_path / name).mkdir()
        r.to_parquet(tmp_path / name / 'results.parquet')
        return str(tmp_path / name)

    cases = [
        (saved('q', a[a['query'] != 'q002']), 'queries differ'),
        (saved('g', a[a.region == 'everywhere']), 'unseen blocks'),
        (saved('t', a.assign(same_tiles='x')), 'they are others'),
        (saved('j', a.assign(same_grades='x')), 'what is relevant differs'),
        (saved('m', a.assign(shown=False)), 'no measure in common'),
        (saved('c', a.drop(columns='shown')), 'lacks shown'),
        (saved('e', a[:0]), 'is empty', DamagedError),
        (str(d / 'good'), 'closp eval', NotFoundError),
    ]
    for folder, part, *kind in cases:
        with pytest.raises(*kind or [IncompatibleError]) as e:
            evals.compare_command([str(d / 'e_good'), folder])
        assert part in str(e.value) and '\n' not in str(e.value), e.value


def test_a_failure_half_way_leaves_nothing(place, tmp_path, monkeypatch):
    d, _, _ = place
    monkeypatch.setattr(report, 'evaluation_page', lambda *a: 1 / 0)
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'old.txt').write_text('kept')
    sign_folder(tmp_path / 'out')
    with pytest.raises(ZeroDivisionError):
        evals.evaluate_command(str(d / 'good'), str(tmp_path / 'out'), force=True)
    assert [p.name for p in tmp_path.iterdir()] == ['out'] and (tmp_path / 'out' / 'old.txt').read_text() == 'kept'


def test_pictures_that_cannot_be_drawn_are_told(place, tmp_path, capsys):
    d, cat, model = place
    radar = cat.where(sensor='s1')
    Index.build(model, radar, vectors(model, radar, 1.0), d / 'model').save(tmp_path / 'radar')
    own = make_task(radar).cat.table.id
    (tmp_path / 'q.tsv').write_text('a\tlake\nb\tfire\n')
    (tmp_path / 'q.trec').write_text(f'a 0 {own[0]} 1\nb 0 {own[1]} 1\n')
    evals.evaluate_command(
        str(tmp_path / 'radar'), str(tmp_path / 'e'), queries=str(tmp_path / 'q.tsv'), qrels=str(tmp_path / 'q.trec')
    )
    page = capsys.readouterr().out
    for name in ('labels', 'sensors', 'confusion'):
        assert f'No {name}.png' in page and not (tmp_path / 'e' / f'{name}.png').exists()
    assert (tmp_path / 'e' / 'ndcg.png').exists() and set(result(tmp_path / 'e').gallery) == {'Sentinel-1'}


# --- one stack -------------------------------------------------------------------------------------------------


def test_evaluate_equals_dense_arrays(place):
    "`evaluate` gives what chapter 60 gives for the whole matrix of scores, sensor by sensor."
    d, cat, model = place
    rng = np.random.default_rng(0)
    cat = cat.where(split='gallery')
    queries = make_queries(cat)
    z, z0 = (rng.standard_normal((len(queries), 8)).astype('float32') for _ in range(2))
    t, t0 = (rng.standard_normal((len(cat), 8)).astype('float32') for _ in range(2))
    got = evaluate(z, t, queries, cat, untrained=(z0, t0))
    assert list(dict.fromkeys(got.gallery)) == ['Sentinel-1', 'Sentinel-2', 'both']
    assert list(dict.fromkeys(got.metric)) == FEW.split(',') and got.shown.all() and set(got.region) == {'everywhere'}
    sensor = cat.table.sensor.to_numpy()
    for gallery, mask in {'Sentinel-1': sensor == 's1', 'Sentinel-2': sensor == 's2', 'both': sensor != ''}.items():
        rel = relevance(queries, cat.where(mask))
        gain, right = metrics.exponential_gain(rel), rel == queries.labels.map(len).to_numpy()[:, None]
        for metric, f, floor, truth in (
            ('nDCG@10', lambda s: metrics.ndcg(s, gain, 10), metrics.random_ndcg(gain, 10), gain > 0),
            ('nDCG@1000', lambda s: metrics.ndcg(s, gain, 1000), metrics.random_ndcg(gain, 1000), gain > 0),
            ('P@10', lambda s: metrics.precision(s, right, 10), metrics.random_precision(right), right),
            ('mAP', lambda s: metrics.average_precision(s, right), metrics.random_average_precision(right), right),
        ):
            r = got[(got.gallery == gallery) & (got.metric == metric)]
            assert r.text.tolist() == queries.text.tolist() and r.relevant.tolist() == truth.sum(1).tolist()
            assert (r.tiles == mask.sum()).all()
            close(r.value, f(z @ t[mask].T), 1e-12)
            close(r.untrained, f(z0 @ t0[mask].T), 1e-12)
            close(r.random, floor, 1e-12)


def test_evaluate_needs_a_vector_for_each():
    cat = archive(40)
    queries = make_queries(cat)
    with pytest.raises(InputError, match='need a vector each'):
        evaluate(np.zeros((len(queries), 4)), np.zeros((39, 4)), queries, cat)
    with pytest.raises(InputError, match='labels.csv'):
        gallery_task(queries, Catalog(cat.table.assign(caption='')))


def test_a_bug_inside_shows_as_a_bug(place, tmp_path, monkeypatch):
    "Reading a run and reading results tell damage, and nothing else."
    d, cat, _ = place
    q = make_task(cat).queries

    def broken(*args, **kw):
        return 1 / 0

    monkeypatch.setattr(pd, 'read_csv', broken)
    with pytest.raises(ZeroDivisionError):
        RunRanker(d / 'e_good' / 'run.trec', q, cat)
    monkeypatch.setattr(pd, 'read_parquet', broken)
    with pytest.raises(ZeroDivisionError):
        evals.compare_command([str(d / 'e_good'), str(d / 'e_poor')])


# --- the shell --------------------------------------------------------------------------------------------------


def closp(*argv, cwd):
    return subprocess.run(
        [sys.executable, '-m', 'closp_nb.cli.main', *map(str, argv)],
        cwd=cwd,
        env=os.environ | {'HF_HUB_OFFLINE': '1', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_commands(place, tmp_path):
    d, _, _ = place
    done = closp(
        'eval',
        d / 'poor',
        '--out',
        'mine',
        '--measures',
        'nDCG@10,mAP',
        '--depth',
        '0',
        '--name',
        'my poor',
        cwd=tmp_path,
    )
    assert (
        done.returncode == 0 and '## What the split gives away' in done.stdout and 'wrote mine/table.md' in done.stdout
    ), done.stderr
    assert closp('eval', d / 'good', '--out', 'other', '--linear', cwd=tmp_path).returncode == 0
    same = closp('compare', d / 'e_good', 'mine', '--out', 'c.md', cwd=tmp_path)
    assert same.returncode == 0 and '| my_poor |' in same.stdout and (tmp_path / 'c.md').read_text() in same.stdout, (
        same.stderr
    )
    for argv, part in (
        (('compare', d / 'e_good', 'other'), 'what is relevant differs'),
        (('compare', 'mine'), 'at least two'),
        (('eval', 'nowhere'), 'no index folder'),
        (('eval', d / 'good', '--out', 'mine'), '--force'),
        (('compare', d / 'e_good', 'mine', '--out', 'c.md'), '--force'),
    ):
        done = closp(*argv, cwd=tmp_path)
        lines = [x for x in done.stderr.splitlines() if x.startswith('closp: ')]
        assert done.returncode == 1 and len(lines) == 1 and part in lines[0] and 'Traceback' not in done.stderr, (
            done.stderr
        )
