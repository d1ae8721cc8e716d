"Questions of many parts, doubt, provenance, spots."

import inspect
import pydoc

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

from closp_nb import __version__
from closp_nb.models.config import CLOSP_NB
from closp_nb.models.closp import new_model
from closp_nb.core import IncompatibleError, InputError, NotFoundError
from closp_nb.search.searcher import WITHOUT_WEIGHT
from closp_nb.search.calibration import calibrate
from closp_nb.search.filters import filter_mask
from closp_nb.search.index import Index
from closp_nb.search.hits import Hits
from closp_nb.search.searcher import Searcher
from closp_nb.synthetic.world import build_world


@pytest.fixture(scope='module')
def ask(tmp_path_factory):
    cat = build_world(tmp_path_factory.mktemp('feedback') / 'world', 80, geotiffs=0, progress=False)
    model = new_model(CLOSP_NB.change(text_encoder='tiny')).eval()
    return Searcher(Index.build(model, cat, progress=False), model)


def test_the_formula(ask):
    "Term by term, against brute force."
    ids = ask.index.cat.table.id
    like, unlike = [ids[3], ids[9]], [ids[20]]
    hits = ask.search_feedback(['crops', 'open water'], like, unlike, 'snow', k=80, weights=(0.9, 0.7, 0.2))
    t = np.mean([ask.text_vector('crops'), ask.text_vector('open water')], 0)
    z = ask.index.vectors(range(80))
    v = 0.9 * t / np.linalg.norm(t) + 0.7 * z[[3, 9]].mean(0) - 0.2 * z[20] - WITHOUT_WEIGHT * ask.text_vector('snow')
    s = z @ (v / np.linalg.norm(v))
    want = [i for i in np.argsort(-s, kind='stable') if i not in (3, 9, 20)]
    np.testing.assert_allclose(hits.frame.score, s[want], atol=1e-5)
    assert len(hits) == 77 and not {*like, *unlike} & set(hits.frame.id)


def test_sensor_in_words_and_conditions(ask):
    assert set(ask.search_feedback(['crops by radar', 'water'], k=9).frame.sensor) == {'s1'}
    assert set(ask.search_feedback(['crops by radar', 'optical image of water'], k=30).frame.sensor) == {
        's1',
        's2',
    }  # two named: none chosen
    assert set(ask.search_feedback('crops', sensor='s2', label='crops', k=9).frame.sensor) == {'s2'}
    assert len(ask.search_feedback('crops', bbox=(0, 0, 0.1, 0.1))) == 0


@pytest.mark.parametrize(
    'kw,words,error',
    [
        (dict(), 'nothing to look for', InputError),
        (dict(texts='water', without='water', weights=(WITHOUT_WEIGHT, 0, 0)), 'cancel', InputError),
        (dict(texts=['water', '']), 'empty', InputError),
        (dict(texts='water', like='nobody'), "no tile 'nobody'", NotFoundError),
    ],
)
def test_bad_input(ask, kw, words, error):
    with pytest.raises(error, match=words) as e:
        ask.search_feedback(**kw)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('end', ['.parquet', '.geojson', '.gpkg', '.csv'])
def test_hits_say_where_they_come_from(ask, tmp_path, end):
    p = ask.search_text('water', 5, sensor='s1').save(tmp_path / f'hits{end}')
    f = pd.read_csv(p) if end == '.csv' else gpd.read_parquet(p) if end == '.parquet' else gpd.read_file(p)
    assert (
        set(f['query']) == {'water [sensor=s1]'}
        and set(f.model) == {ask.index.about['fingerprint']}
        and set(f.closp_nb) == {__version__}
        and set(f['index']) == {'exact, 80 tiles'}
    )
    assert pd.to_datetime(f.asked, utc=True).notna().all() and f.score.is_monotonic_decreasing


def test_long_texts(ask):
    text = 'flooded area near a river. ' * 400
    assert (
        len(text) > 10_000
        and len(ask.search_text(text, 3)) == 3
        and 'first sixty words' in ask.search_text(text, 3).note
        and 'first sixty words' in ask.search_text(text, 3)._repr_html_()
    )
    assert ask.search_text('crops', 3).note == ''


def test_spots(ask):
    f = ask.search_text('crops', 12).frame
    f = f.assign(
        lon=[0, 0.004, 0.02, 0, 0, np.nan, np.nan, 179.999, -179.999, 50, 50, 50],
        lat=[0, 0, 0, 0, 0, np.nan, np.nan, 0, 0, 89.9999, 89.9999, 50],
        sensor=['s1', 's1', 's1', 's2', 's1', 's1', 's1', 's2', 's2', 's1', 's1', 's1'],
    )
    got = Hits(f, 'crops').collapsed(0.6)
    assert got.frame['rank'].tolist() == [1, 3, 4, 6, 7, 8, 10, 12] and got.frame.more.tolist() == [
        2,
        0,
        0,
        0,
        0,
        1,
        1,
        0,
    ]
    assert got.frame.folded[0] == f'{f.id[1]}; {f.id[4]}'


CONDITIONS = ['sensor', 'bbox', 'near', 'within', 'since', 'until', 'label', 'source', 'max_cloud']


@pytest.mark.parametrize('search', ['text', 'tile', 'location', 'mixed', 'feedback', 'centred'])
def test_help_shows_the_conditions(search):
    "What a search passes on is in its signature, so help and tab completion show it."
    f = getattr(Searcher, f'search_{search}')
    seen = inspect.signature(f).parameters
    assert [p for p in seen if p in CONDITIONS] == CONDITIONS[search == 'centred' :]
    assert 'kwargs' not in seen and list(inspect.signature(filter_mask).parameters)[1:] == CONDITIONS
    assert 'max_cloud' in pydoc.render_doc(f) and 'radar passes' not in (f.__doc__ or '')


def test_building_shows_how_to_embed():
    for f in (Index.build, Index.add, calibrate):
        assert {'batch_size', 'workers', 'progress', 'precision', 'device'} <= set(inspect.signature(f).parameters)


def test_an_empty_answer_and_an_unknown_place(ask):
    assert len(ask.search_text('crops', near=(0, -89, 1))) == 0
    with pytest.raises(IncompatibleError, match='location encoder'):
        ask.search_location((12.5, 41.9))
