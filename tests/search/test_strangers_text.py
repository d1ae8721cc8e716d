"Ids, labels and queries of strangers: nothing steers a terminal or a spreadsheet."

import csv
import shutil

import pandas as pd
import pytest

from closp_nb.cli.main import run_command
from closp_nb.core import no_formula, printable
from closp_nb.search.index import Index
from closp_nb.search.searcher import Searcher

BAD = '\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj'
FORMULAS = ['=HYPERLINK("http://evil.example","x")', '+1', '-1', '@SUM(A1)', '\t=1', '\r=1', ' =1']


@pytest.fixture(scope='module')
def folder(index_folder, tmp_path_factory):
    "An index of tiles with names that nobody should have."
    old, d = Index.load(index_folder), tmp_path_factory.mktemp('named') / 'index'
    frame = old.cat.frame.copy()
    frame['id'] = [f'{FORMULAS[i % len(FORMULAS)]}{BAD}{i}' for i in range(len(frame))]
    frame['source'] = [FORMULAS[i % len(FORMULAS)] for i in range(len(frame))]
    frame['caption'] = BAD
    Index(old.store, type(old.cat)(frame), old.about).save(d)
    return d


def steers(text):
    return [c for c in text if (ord(c) < 32 and c not in '\n\t\r') or 127 <= ord(c) < 160 or c in '\u202e\u2066']


def test_the_terminal_is_not_steered(folder, model_folder, tmp_path, capsys):
    assert run_command(['search', f'water{BAD}', '--index', str(folder), '--model', str(model_folder)]) == 0
    out, err = capsys.readouterr()
    assert 'gpj' in out and not steers(out) and not steers(err)
    shutil.copytree(folder, tmp_path / f'a{BAD[:5]}')
    assert run_command(['search', 'water', '--index', str(tmp_path / f'a{BAD[:5]}x')]) == 1
    assert not steers(capsys.readouterr().err)
    assert run_command(['corpus', 'check', str(folder)]) == 0
    out, err = capsys.readouterr()
    assert not steers(out) and not steers(err)


def test_no_cell_is_a_formula(folder, model_folder, tmp_path):
    hits = Searcher.load(folder, model_folder).search_text('=1+1', k=20)
    hits.save(tmp_path / 'hits.csv')
    with open(tmp_path / 'hits.csv', newline='') as f:
        rows = list(csv.reader(f))
    numbers = {rows[0].index(c) for c in ('rank', 'score', 'lon', 'lat', 'cloud', 'gaps')}
    cells = [c for r in rows for i, c in enumerate(r) if i not in numbers]
    assert cells and not [c for c in cells if c.strip()[:1] in tuple('=+-@')]
    assert [r[rows[0].index('query')] for r in rows[1:]] == ["'=1+1"] * 20
    assert (pd.read_csv(tmp_path / 'hits.csv').lon.to_numpy() == hits.frame.lon.to_numpy()).all()


def test_plain_text_stays():
    for text in ('', 'flooded area', 'é 山 🛰', 'two\nlines\tand a tab', 'a=b', '2021-07-31'):
        assert printable(text) == text and no_formula(text) == text
    assert printable('\udc80') == r'\udc80' and [no_formula(o) for o in (-1, 1.5, None)] == [-1, 1.5, None]
