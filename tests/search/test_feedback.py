"Questions of many parts, doubt, provenance, spots."

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

from closp_nb import __version__
from closp_nb.models.config import CLOSP_NB
from closp_nb.models.closp import new_model
from closp_nb.core import InputError, NotFoundError
from closp_nb.search.searcher import WITHOUT_WEIGHT
from closp_nb.search.index import Index
from closp_nb.search.hits import Hits
from closp_nb.search.searcher import Searcher
from closp_nb.synthetic.world import build_world

pytestmark = [pytest.mark.slow]


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
