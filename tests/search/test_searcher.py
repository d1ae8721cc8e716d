"The index against brute force, with and without conditions; what help says about a search."

import inspect
import pydoc
from datetime import date

import geopandas as gpd
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from shapely.geometry import Point

from closp_nb.cli.search import search_command
from closp_nb.core import IncompatibleError
from closp_nb.data.catalog import Catalog, to_catalog
from closp_nb.explorer.page import Explorer
from closp_nb.models.closp import new_model
from closp_nb.models.config import CLOSP_NB
from closp_nb.models.folder import save_model
from closp_nb.search.calibration import calibrate
from closp_nb.search.filters import filter_mask
from closp_nb.search.index import Index
from closp_nb.search.searcher import Searcher
from closp_nb.search.stores import ExactStore
from closp_nb.synthetic.world import build_world


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def small_index(n, dim, rng):
    cat = to_catalog(
        [
            dict(
                id=str(i),
                sensor='s1',
                path='',
                key='',
                source='',
                split='gallery',
                lon=0.0,
                lat=0.0,
                time='',
                raw_labels=[],
                labels=[],
                caption='',
                geometry=Point(0, 0),
            )
            for i in range(n)
        ]
    )
    z = unit(rng.standard_normal((n, dim))).astype('float32')
    return Index(ExactStore.build(z), cat, dict(store='exact', dim=dim, fingerprint='', model='')), z


@given(st.integers(1, 80), st.integers(1, 30), st.floats(0, 1), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_filtered_search_equals_brute_force(n, k, share, seed):
    rng = np.random.default_rng(seed)
    index, z = small_index(n, 16, rng)
    q, among = unit(rng.standard_normal((3, 16))).astype('float32'), rng.random(n) < share
    for mask in (None, among):
        scores, rows = index.search(q, k, mask)
        ids = np.arange(n) if mask is None else np.flatnonzero(mask)
        want = -np.sort(-(q @ z[ids].T), axis=1)[:, :k]
        assert rows.shape == want.shape and np.isin(rows, ids).all()
        np.testing.assert_allclose(scores, want, atol=1e-5)
        assert all(len(set(r)) == len(r) for r in rows)


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


def test_an_empty_answer_and_an_unknown_place(tmp_path):
    cat = build_world(tmp_path / 'world', 20, geotiffs=0, progress=False)
    model = new_model(CLOSP_NB.change(text_encoder='tiny')).eval()
    ask = Searcher(Index.build(model, cat, progress=False), model)
    assert len(none := ask.search_text('crops', near=(0, -89, 1))) == 0 and none.left_out == ''
    with pytest.raises(IncompatibleError, match='location encoder'):
        ask.search_location((12.5, 41.9))


def test_every_answer_says_what_its_conditions_left_out(tmp_path, capsys):
    cat = build_world(tmp_path / 'world', 30, geotiffs=0, progress=False)
    t = cat.table
    lost = Catalog(cat.frame.assign(time=np.where(np.arange(len(t)) % 3, t.time, '')))
    model = new_model(CLOSP_NB.change(text_encoder='tiny')).eval()
    ask, n = Searcher(Index.build(model, lost, progress=False), model), int((lost.table.time == '').sum())
    said = f'{n} tiles without a time were left out'
    since = dict(since='2000-01-01')
    for hits in (
        ask.search_text('crops', **since),
        ask.search_tile(t.id[0], **since),
        ask.search_feedback('crops', like=t.id[0], **since),
        ask.search_centred('crops', **since),
    ):
        assert hits.left_out == hits.collapsed().left_out == said and said in hits._repr_html_() and hits.note == ''
    assert (gpd.read_file(hits.save(tmp_path / 'hits.geojson')).left_out == said).all()
    assert ask.search_text('crops').left_out == '' and 'left_out' not in ask.search_text('crops').about
    page = Explorer(ask)
    page.form.since.value = date(2000, 1, 1)
    page.form.text.value = 'crops'
    page.search()
    assert said in page.view.status.value
    save_model(model, tmp_path / 'model')
    Index.build(model, lost, model_folder=tmp_path / 'model', progress=False).save(tmp_path / 'index')
    search_command('crops', str(tmp_path / 'index'), since='2090-01-01')
    assert capsys.readouterr().out == f'no tile meets these conditions\n{said} by these conditions\n'
