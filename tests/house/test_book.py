"The book as pages: all are written, no link leads nowhere, every picture has words, the sidebar knows every chapter."

import json
import re
import subprocess
from calendar import month_name
from pathlib import Path

import pytest
import yaml
from book import build, check

pytestmark = [pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
BOOKS = [
    p.relative_to(ROOT / 'nbs')
    for p in sorted((ROOT / 'nbs').rglob('*.ipynb'))
    if not any(o[0] in '._' for o in p.relative_to(ROOT).parts)
]


def cells(p, kind=''):
    return [
        ''.join(c['source'])
        for c in json.loads((ROOT / 'nbs' / p).read_text(encoding='utf-8'))['cells']
        if kind in c['cell_type']
    ]


def test_every_page_is_written_and_whole(tmp_path):
    site = tmp_path / 'site'
    try:
        warned = build(site)
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f'git does not say which files belong to the project: {e}')
    missing = [p.as_posix() for p in BOOKS if not (site / p.with_suffix('.html')).is_file()]
    assert not missing, f'{missing} were not written'
    found = [*warned, *check(site)]
    assert not found, '\n'.join(found)
    assert (
        'id="' in (site / '6_evaluation' / '60_metrics.html').read_text()
        and 'ndcg' in (site / 'search.json').read_text()
    )


def test_what_the_check_finds(tmp_path):
    (tmp_path / 'a.html').write_text(
        '<p id="here"><a href="#here">x</a><a href="#there">x</a><a href="b.html">x</a>'
        '<a href="https://e.org">x</a><img src="c.png"><img alt="c" src="d.png"><script src="https://e.org/f.js"></script>'
    )
    said = '\n'.join(check(tmp_path))
    assert said.count('\n') == 5 and all(
        w in said for w in ('#there', 'b.html', 'c.png', 'd.png', 'f.js', 'without words')
    )


def test_the_sidebar_knows_every_page():
    bar = yaml.safe_load((ROOT / 'nbs' / 'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    shown = [o for s in bar for o in s['contents']]
    assert sorted(o['href'] for o in shown) == sorted(p.as_posix() for p in BOOKS), (
        'nbs/sidebar.yml and the notebooks differ'
    )
    for o in shown:
        title = cells(o['href'])[0].splitlines()[0].removeprefix('# ')
        assert (
            o['href'] == 'index.ipynb'
            or o['text'].split(' ', o['text'][:1].isdigit() or o['href'].startswith('tutorials'))[-1] == title
        ), f"{o['href']} is called {title}, the sidebar says {o['text']}"


def test_words_lead_to_where_they_are_explained():
    text = '\n'.join(cells('appendix/words.ipynb'))
    rows = re.findall(r'^\| \*\*(.+?)\*\* \|.*\| (.+?) \|$', text, flags=re.M)
    assert len(rows) > 40
    for words, where in rows:
        for link in re.findall(r'\]\(\.\./(.+?)\)', where):
            page = '\n'.join(cells(link)).lower()
            lack = [w for w in words.split(', ') if w.lower() not in page]
            assert not lack, f'{link} does not hold the word {lack[0]}, to which appendix/words.ipynb leads'


def test_sources_are_listed():
    "Whoever is named with a year in the prose of a chapter stands in the list of sources."
    listed = ''.join(cells('appendix/words.ipynb'))
    for p in BOOKS:
        if not p.stem[0].isdigit():
            continue
        prose = '\n'.join(c for c in cells(p, 'markdown'))
        for name, year in re.findall(
            r"\b([A-ZÄÖŠ][\w’-]+)(?: and others,?| et al\.| and [A-Z]\w+)?,? \(?((?:19|20)\d\d)\)", prose
        ):
            if name not in month_name:
                assert name in listed and year in listed, (
                    f'{p} names {name} ({year}); add the source to appendix/words.ipynb'
                )
