"Queries against brute force: grades word for word, files there and back, the readers of others, and damage."

import json

import ir_measures
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from ir_measures import nDCG

from closp_nb.data.catalog import Catalog
from closp_nb.core import DamagedError, InputError, NotFoundError
from closp_nb.labels import LABELS, caption
from closp_nb.evaluation.metrics import exponential_gain, ndcg
from closp_nb.data.queries import COLUMNS, make_queries, read_qrels, read_queries, relevance, say_place, write_queries
from closp_nb.geodesy import km_between

few = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 10_000)


def catalog(n, seed, corpus=0.8):
    "Tiles with labels around one town; some have no place."
    rng = np.random.default_rng(seed)
    labels = [[label for label in LABELS if rng.random() < 0.2] for _ in range(n)]
    split = np.where(rng.random(n) < corpus, 'gallery', 'train')
    split[0] = 'gallery'
    return Catalog(
        pd.DataFrame(
            dict(
                id=[f't{i}' for i in range(n)],
                sensor='s1',
                labels=labels,
                caption=[caption(label) for label in labels],
                lon=np.where(rng.random(n) < 0.1, np.nan, rng.uniform(9, 12, n)),
                lat=rng.uniform(45, 47, n),
                split=split,
            )
        )
    )


def some_queries(cat, seed):
    "Queries that `make_queries` gives, with places."
    return make_queries(cat, pairs=6, places=4, km=60)


# --- making them


@given(st.integers(20, 120), seeds)
@few
def test_pairs_are_the_commonest_and_singles_are_there(n, seed):
    cat = catalog(n, seed)
    q = make_queries(cat, pairs=5)
    has = [set(label) for label in cat.table.labels]
    count = {(a, b): sum({a, b} <= h for h in has) for i, a in enumerate(LABELS) for b in LABELS[i + 1 :]}
    assert q[q.kind == 'label'].labels.tolist() == [(label,) for label in LABELS if any(label in h for h in has)]
    pairs = q[q.kind == 'pair'].labels.tolist()
    assert [count[p] for p in pairs] == sorted((c for c in count.values() if c > 1), reverse=True)[:5]
    assert (
        q.text.tolist() == [caption(label) for label in q.labels] and q.id.is_unique and q.columns.tolist() == COLUMNS
    )


def test_a_place_in_words():
    assert (
        say_place((12.46, 41.9)) == '12.5 E 41.9 N'
        and say_place((-70.66, -33.45)) == '70.7 W 33.5 S'
        and say_place((0, 0)) == '0.0 E 0.0 N'
    )


# --- grades


@given(st.integers(10, 80), seeds)
@few
def test_grades_word_for_word(n, seed):
    cat = catalog(n, seed)
    q = some_queries(cat, seed)
    got, lonlat = relevance(q, cat), cat.table[['lon', 'lat']].to_numpy()
    for i, r in enumerate(q.itertuples()):
        for j, labels in enumerate(cat.table.labels):
            near = np.isnan(r.km) or bool(km_between(lonlat[j], (r.lon, r.lat)) <= r.km)
            assert got[i, j] == (len(set(r.labels) & set(labels)) if near else 0)
    sparse = relevance(q, cat, sparse=True)
    assert (sparse.toarray() == got).all() and (sparse.data > 0).all() and sparse.has_sorted_indices


# --- files there and back


@given(st.integers(10, 60), seeds)
@few
def test_there_and_back(tmp_path_factory, n, seed):
    d, cat = tmp_path_factory.mktemp('q'), catalog(n, seed)
    q = some_queries(cat, seed)
    assert write_queries(d, q, cat) == d
    pd.testing.assert_frame_equal(read_queries(d), q)
    pd.testing.assert_frame_equal(read_queries(d / 'queries.jsonl'), q)
    tsv, trec = read_qrels(d / 'qrels' / 'corpus.tsv'), read_qrels(d / 'qrels' / 'corpus.trec')
    pd.testing.assert_frame_equal(tsv, trec)
    gallery = cat.where(split='gallery')
    rel = relevance(q, gallery)
    want = {(q.id[i], gallery.table.id.iloc[j]): int(rel[i, j]) for i, j in np.argwhere(rel)}
    assert {(r.query, r.tile): r.grade for r in tsv.itertuples()} == want


def test_other_programs_read_the_judgements_and_give_the_same_score(tmp_path):
    cat = catalog(60, 5, corpus=1.0)
    q = make_queries(cat, pairs=6)
    write_queries(tmp_path, q, cat)
    rel = relevance(q, cat)
    scores = np.random.default_rng(0).permuted(np.tile(np.arange(60.0), (len(q), 1)), axis=1)
    run = [ir_measures.ScoredDoc(q.id[i], cat.table.id[j], scores[i, j]) for i in range(len(q)) for j in range(60)]
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / 'qrels' / 'corpus.trec')))
    theirs = {m.query_id: m.value for m in ir_measures.iter_calc([nDCG(gains={1: 1, 2: 3}) @ 10], qrels, run)}
    assert ndcg(scores, exponential_gain(rel), 10) == pytest.approx([theirs[i] for i in q.id], abs=1e-9)


def test_names_of_others_survive(tmp_path):
    "A query without metadata, words of any script, blank lines: BEIR's own files look like that."
    (tmp_path / 'queries.jsonl').write_text(
        '{"_id": 7, "text": "überflutete Felder 洪水"}\n\n'
        '{"_id": "b", "text": "x", "metadata": {"labels": ["water"]}}\n',
        encoding='utf-8',
    )
    q = read_queries(tmp_path)
    assert (
        q.id.tolist() == ['7', 'b']
        and q.text[0] == 'überflutete Felder 洪水'
        and q.labels.tolist() == [(), ('water',)]
        and q.km.isna().all()
    )
    (tmp_path / 'a.tsv').write_text('7\tt1\t1\n\nb\tt 2\t-1\n')
    assert read_qrels(tmp_path / 'a.tsv').values.tolist() == [['7', 't1', 1], ['b', 't 2', -1]]


# --- damage


@pytest.mark.parametrize(
    'line,why',
    [
        ('{"_id": "a"}', 'is not a query'),
        ('nothing', 'is not a query'),
        ('[1]', 'is not a query'),
        ('{"_id": "a", "text": "x", "metadata": {"labels": ["lava"]}}', "label 'lava'"),
        ('{"_id": "a", "text": "x", "metadata": {"lon": "far"}}', 'is not a query'),
        ('{"_id": "a", "text": "x", "metadata": {"lon": [1]}}', 'is not a query'),
        ('{"_id": "a", "text": "x", "metadata": {"labels": 7}}', 'is not a query'),
        ('{"_id": "a", "text": "x", "metadata": [7]}', 'is not a query'),
        ('{"_id": "q1", "text": "x"}', 'twice'),
    ],
)
def test_damaged_queries_name_file_and_line(tmp_path, line, why):
    p = tmp_path / 'queries.jsonl'
    p.write_text('{"_id": "q1", "text": "water"}\n' + line + '\n')
    with pytest.raises(DamagedError, match=why) as e:
        read_queries(p)
    assert str(p) in str(e.value) and '\n' not in str(e.value) and (why == 'twice' or 'line 2' in str(e.value))


@pytest.mark.parametrize(
    'text,why',
    [
        ('q1\tt1\n', 'lacks a column'),
        ('q1\tt1\tone\n', 'has no grade'),
        ('q1\tt1\t1\nq1\tt1\t2\n', 'line 2 judges a tile a second time'),
        ('q1 0 t1\n', 'lacks a column'),
        ('q1 0 t1 1 more\n', 'too many columns'),
        ('q1\tt1\t1\nq1\tt2\t1\tx\ty\n', 'too many columns'),
        ('q1\tt1\t1.5\n', 'has no grade'),
    ],
)
def test_damaged_judgements_name_file_and_line(tmp_path, text, why):
    p = tmp_path / 'qrels.tsv'
    p.write_text(text)
    with pytest.raises(DamagedError, match=why) as e:
        read_qrels(p)
    assert str(p) in str(e.value) and '\n' not in str(e.value)


def test_refusals(tmp_path):
    cat = catalog(12, 0)
    q = make_queries(cat)
    for bad, kind, say in [
        (lambda: write_queries(tmp_path, q.assign(id='a b'), cat), InputError, 'blank'),
        (lambda: write_queries(tmp_path, q.assign(id='a'), cat), InputError, 'twice'),
        (lambda: write_queries(tmp_path, q, Catalog(cat.table.assign(split='train'))), InputError, 'split'),
        (lambda: read_queries(tmp_path / 'none'), NotFoundError, 'write it first'),
        (lambda: read_qrels(tmp_path / 'none'), NotFoundError, 'write them first'),
    ]:
        with pytest.raises(kind, match=say):
            bad()
    write_queries(tmp_path, q, cat)
    with pytest.raises(InputError, match='overwrite=True'):
        write_queries(tmp_path, q, cat)
    write_queries(tmp_path, q, cat, overwrite=True)
    assert json.loads((tmp_path / 'queries.jsonl').read_text().splitlines()[0])['_id'] == 'q001'


def test_a_bug_is_no_damaged_file(tmp_path, monkeypatch):
    (tmp_path / 'queries.jsonl').write_text('{"_id": "q1", "text": "water"}\n')
    (tmp_path / 'q.tsv').write_text('q1\tt1\t1\n')
    monkeypatch.setattr('closp_nb.data.queries._query', lambda line: 1 / 0)
    monkeypatch.setattr('closp_nb.data.queries._qrels_form', lambda path: 1 / 0)
    for read in (lambda: read_queries(tmp_path), lambda: read_qrels(tmp_path / 'q.tsv')):
        with pytest.raises(ZeroDivisionError):
            read()


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    "Notepad and spreadsheets write one before the first word."
    cat = catalog(40, 3)
    write_queries(tmp_path, some_queries(cat, 3), cat)
    for name, read in (
        ('queries.jsonl', read_queries),
        ('qrels/corpus.tsv', read_qrels),
        ('qrels/corpus.trec', read_qrels),
    ):
        plain, marked = tmp_path / name, tmp_path / f'marked_{name.replace("/", "_")}'
        marked.write_bytes(b'\xef\xbb\xbf' + plain.read_bytes())
        pd.testing.assert_frame_equal(read(marked), read(plain))
