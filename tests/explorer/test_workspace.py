"Visits and the server without a browser: what is refused, by which kind of error, and bugs that stay bugs."

import json
import sys

import pytest

from closp_nb.core import ClospError, DamagedError, InputError, MissingDependencyError, NotFoundError
from closp_nb.explorer import server, workspace
from closp_nb.explorer.session import Question, Session
from closp_nb.search.searcher import Searcher

VISIT = json.dumps(dict(sides=[dict(question=dict(text='water', sensor='s1'))]))


def test_a_visit_is_read():
    visit = workspace.read_visit(VISIT)
    side = dict(question=dict(text='water', sensor='s1'), marks={}, earlier=[], first=0, recipe='true colour')
    assert visit == dict(model='', sides=[side])
    assert Question(**side['question']) == Question('water', sensor='s1')


@pytest.mark.parametrize('raw', ['', b'\xff\xfe', '[]', VISIT[:-5], VISIT.replace('"s1"', '"s3"'), '[' * 100_000])
def test_a_broken_visit_is_damaged(raw):
    with pytest.raises(DamagedError, match='no visit that closp_nb can open'):
        workspace.read_visit(raw)


def test_a_bug_shows_as_a_bug(monkeypatch):
    def bug(side):
        return 1 / 0

    monkeypatch.setattr(workspace, '_check_side', bug)
    with pytest.raises(ZeroDivisionError):
        workspace.read_visit(VISIT)


def test_nothing_to_report():
    with pytest.raises(InputError, match='search first'):
        workspace.visit_report([])


def test_an_empty_session_has_nothing():
    session = Session(3)
    assert (session.hits, session.page, session.marks, session.is_last_page) == (None, [], {}, True)
    assert not session.undo()


def test_what_the_page_opens_is_looked_at(monkeypatch, tmp_path):
    "Each error has its kind, and comes before a browser opens."
    with pytest.raises(ClospError, match='no index folder'):
        server.desk_source(tmp_path / 'nowhere')
    monkeypatch.setattr(Searcher, 'load', lambda *args: None)
    with pytest.raises(NotFoundError, match='no visit at'):
        server.desk_source(tmp_path, visit=tmp_path / 'visit.json')
    (tmp_path / 'visit.json').write_text('[]')
    with pytest.raises(DamagedError):
        server.desk_source(tmp_path, visit=tmp_path / 'visit.json')
    with pytest.raises(ClospError):
        server.desk_source(tmp_path, train=tmp_path / 'nowhere')


def test_folder_names_stay_names(monkeypatch, tmp_path):
    "A quote or a backslash in a name does not end the text that holds it."
    loaded = []
    monkeypatch.setattr(Searcher, 'load', lambda *args: loaded.append(args))
    folder = tmp_path / 'a"b\'c\\d{e}'
    line = next(x for x in server.desk_source(folder).splitlines() if x.startswith('searcher ='))
    exec(line, dict(Searcher=Searcher))
    assert loaded == [(folder, None), (str(folder), None)]


def test_the_server_names_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'voila', None)
    with pytest.raises(MissingDependencyError, match='needs Voila'):
        server.check_server('127.0.0.1', 8866)


@pytest.mark.parametrize('port', [0, -1, 65536])
def test_a_port_is_a_number(port):
    pytest.importorskip('voila')
    with pytest.raises(InputError, match='a port is a number'):
        server.check_server('127.0.0.1', port)
