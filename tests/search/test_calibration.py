"What a score is worth: a curve found again, indexes that keep it, hits that carry it, commands that change an index."

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.special import expit

from closp_nb.models.config import CLOSP_NB
from closp_nb.models.closp import new_model
from closp_nb.models.folder import save_model
from closp_nb.search.calibration import (
    MIN_PAIRS,
    calibrate,
    expected_calibration_error,
    platt,
    reliability,
    predict_proba,
)
from closp_nb.cli.main import run_command
from closp_nb.core import IncompatibleError, InputError
from closp_nb.search.index import Index
from closp_nb.search.searcher import Searcher
from closp_nb.synthetic.world import build_world

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A world, a model that was not trained, its folder, and an index of the corpus."
    d = tmp_path_factory.mktemp('calibration')
    world = build_world(d / 'world', 160, train_frac=0.5, geotiffs=0, progress=False)
    model = new_model(CLOSP_NB.change(text_encoder='tiny', valid_frac=0.4)).eval()
    save_model(model, d / 'model')
    corpus, train = (world.where(split=s) for s in ('gallery', 'train'))
    Index.build(model, corpus, model_folder=d / 'model', progress=False).save(d / 'index')
    return d, model, corpus, train


@settings(max_examples=30, deadline=None)
@given(st.floats(3, 30), st.floats(-6, 2), st.integers(0, 99), st.floats(0.02, 0.3))
def test_a_curve_is_found_again(slope, offset, seed, sd):
    rng = np.random.default_rng(seed)
    s = rng.normal(0.1, sd, 20_000)
    truth = expit(slope * s + offset)
    a, b = platt(s, rng.random(len(s)) < truth)
    assert np.abs(expit(a * s + b) - truth).mean() < 0.02


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), st.booleans()), min_size=1, max_size=40))
def test_any_pairs_give_a_rising_curve(pairs):
    s, y = map(np.array, zip(*pairs))
    a, b = platt(s, y)
    assert a >= 0 and np.isfinite([a, b]).all()


def test_reliability_counts_every_pair():
    rng = np.random.default_rng(1)
    said = rng.random((7, 53))
    t = reliability(said, rng.random(said.shape) < said)
    assert (
        t.pairs.sum() == said.size and (t.predicted.diff().dropna() > 0).all() and expected_calibration_error(t) < 0.1
    )
    assert expected_calibration_error(reliability(said, np.zeros(said.shape, bool))) > 0.4


def test_index_keeps_and_hits_carry(made, tmp_path):
    d, model, corpus, train = made
    index = Index.load(d / 'index')
    known = calibrate(index, model, train, progress=False)
    known.save(tmp_path / 'index')
    again = Index.load(tmp_path / 'index')
    assert (
        again.about['calibration'] == known.about['calibration'] and 'calibration' not in Index.load(d / 'index').about
    )
    ask = Searcher(again, model)
    hits = ask.search_text('crops', k=30)
    c = again.about['calibration']
    want = [expit(c[s]['slope'] * x + c[s]['offset']) for s, x in zip(hits.frame.sensor, hits.frame.score)]
    np.testing.assert_allclose(hits.frame.probability, want)
    assert (
        'probability' in hits.table()
        and 'probability' not in ask.search_tile(corpus[0], k=3).frame
        and 'probability' not in Searcher(index, model).search_text('crops').table()
    )
    assert len(ask.search_text('crops', bbox=(0, 0, 0.01, 0.01))) == 0
    hits.save(tmp_path / 'hits.csv')
    assert ',probability' in (tmp_path / 'hits.csv').read_text().splitlines()[0]
    del again.about['calibration']['s1']
    mixed = ask.search_text('crops', k=40).frame
    assert mixed.probability.isna().equals(mixed.sensor == 's1')


def test_no_share_where_the_question_is_doubted(made, monkeypatch):
    d, model, _, train = made
    ask = Searcher(calibrate(Index.load(d / 'index'), model, train, progress=False), model)
    monkeypatch.setattr(Searcher, 'ood_warning', lambda self, text: 'Nothing here looks like that.')
    assert 'probability' not in ask.search_text('avocado armchair').frame


def test_what_is_refused(made):
    d, model, corpus, train = made
    index = Index.load(d / 'index')
    with pytest.raises(InputError, match=f'too few to say.*{MIN_PAIRS} right'):
        calibrate(index, model, train.take([0]), progress=False)
    with pytest.raises(IncompatibleError, match='made by model'):
        calibrate(index, new_model(CLOSP_NB.change(text_encoder='tiny', seed=5)), train)
    assert np.isnan(predict_proba({}, ['s1', 's2'], [0.1, 0.2])).all()


def test_commands(made, tmp_path, capfd):
    d, model, corpus, train = made
    at = str(tmp_path / 'index')
    corpus.save(tmp_path / 'corpus.parquet')
    train.take(range(5)).save(tmp_path / 'more.parquet')

    def go(*argv):
        return run_command([str(a) for a in argv]), capfd.readouterr()

    def refused(word, *argv):
        code, said = go(*argv)
        lines = [o for o in said.err.splitlines() if o.startswith('closp: ')]
        assert code == 1 and len(lines) == 1 and word in lines[0] and 'Traceback' not in said.err, said.err

    assert go('index', tmp_path / 'corpus.parquet', '--model', d / 'model', '--out', at, '--store', 'compact')[0] == 0
    assert go('add', at, tmp_path / 'more.parquet')[0] == 0 and len(Index.load(at)) == len(corpus) + 5
    refused('--replace', 'add', at, tmp_path / 'more.parquet')
    assert go('add', at, tmp_path / 'more.parquet', '--replace')[0] == 0 and len(Index.load(at)) == len(corpus) + 5
    assert go('calibrate', at, d / 'world')[0] == 0
    assert go('remove', at, *train.table.id.iloc[:5])[0] == 0 and len(Index.load(at)) == len(corpus)
    assert Index.load(at).about['calibration'] and Index.load(at).about['store'] == 'compact'
    refused('not in this index', 'remove', at, 'nobody')
    refused('no index folder', 'add', tmp_path / 'nowhere', tmp_path / 'more.parquet')
    refused('path', 'add', at, tmp_path / 'nowhere')
    other = tmp_path / 'other'
    refused('compact', 'index', tmp_path / 'corpus.parquet', '--model', d / 'model', '--out', other, '--store', 'huge')
    code, said = go('search', 'crops', '--index', at, '--k', 3)
    assert code == 0 and 'probability' in said.out and not [o for o in said.err.splitlines() if o.startswith('closp')]
