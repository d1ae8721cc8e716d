"Every notebook runs from top to bottom, in its own process, through nbdev's runner, and leaves the tree clean."

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT, PATIENCE = 20, 3  # seconds on two cores; a busy machine may take so many times longer
BOOKS = [p for p in sorted((ROOT / 'nbs').rglob('*.ipynb')) if not any(o[0] in '._' for o in p.relative_to(ROOT).parts)]

RUN = '''
import json, sys
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
book, root, out = map(Path, sys.argv[1:])
out.write_text(json.dumps(test_nb(book, skip_flags=get_config(path=root).tst_flags.split(), basepath=root)))
'''


def git_status(
    root,  # of the checkout
):  # what `git status` lists as changed or new, sorted; None where `root` is no git checkout
    "What git thinks of the tree."

    def git(*args):
        return subprocess.run(['git', '-C', str(root), *args], capture_output=True, text=True)

    try:
        top = git('rev-parse', '--show-toplevel')
    except FileNotFoundError:
        return None
    if top.returncode or Path(top.stdout.strip()).resolve() != Path(root).resolve():
        return None
    return sorted(git('status', '--porcelain', '--untracked-files=all').stdout.splitlines())


def where(
    book,  # path of a notebook
    err,  # what the runner wrote
):  # 'cell 12 (`first line`)'
    "The cell that failed, counted as an editor counts it: all cells, from 0."
    from nbdev.frontmatter import FrontmatterProc
    from nbdev.process import NBProcessor

    n = re.search(r'While Executing Cell #(\d+)', err)
    if not n:
        return 'an unknown cell'
    ran = NBProcessor(book, procs=FrontmatterProc, process=True).nb.cells[int(n[1]) - 1]  # without the title cell
    cells = json.loads(book.read_text(encoding='utf-8'))['cells']
    i = next((i for i, c in enumerate(cells) if c.get('id') == ran.get('id')), n[1])
    return f"cell {i} (`{(ran.source.strip().splitlines() or [''])[0]}`)"


def run_book(
    book,  # path of a notebook
    root=ROOT,  # folder with settings.ini
    timeout=600,  # seconds before the process is ended
):  # seconds it took; raises AssertionError that names notebook and cell
    "Run a notebook in a fresh process whose temporary files vanish with it."
    with tempfile.TemporaryDirectory(prefix='nb', ignore_cleanup_errors=True) as tmp:
        env = {**os.environ, 'IN_TEST': '1', 'HF_HUB_OFFLINE': '1', 'TMPDIR': tmp}
        out = Path(tmp) / 'result.json'
        try:
            p = subprocess.run(
                [sys.executable, '-c', RUN, str(book), str(root), str(out)],
                cwd=root,
                env=env,
                timeout=timeout,
                capture_output=True,
                text=True,
            )
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{book.name} did not end within {timeout} s; "
                "shrink its slow cells when os.environ.get('IN_TEST') is set"
            ) from None
        ok, seconds = json.loads(out.read_text()) if out.exists() else (False, 0)
    assert ok, (
        f'{book.name} failed in {where(book, p.stderr)}; open it, run all cells and mend that one\n{p.stderr[-4000:]}'
    )
    return seconds


@pytest.mark.notebook
@pytest.mark.parametrize('book', BOOKS, ids=[p.relative_to(ROOT / 'nbs').as_posix() for p in BOOKS])
def test_notebook(book, record_property):
    before = git_status(ROOT)
    seconds = run_book(book)
    left = sorted(set(git_status(ROOT) or ()) - set(before or ()))
    record_property('seconds', seconds)
    print(f'{book.name}: {seconds:.1f} s')
    assert not left, f'{book.name}, or one that ran beside it, changed {left}; let it write into a temporary folder'
    assert seconds <= LIMIT * PATIENCE, (
        f"{book.name} took {seconds:.0f} s, {LIMIT} s are meant (and {PATIENCE} times that allowed); "
        "shrink its slow cells when os.environ.get('IN_TEST') is set"
    )


@pytest.fixture
def small(tmp_path):
    "A project of one notebook that fails in its third cell, to see that failures are told well."
    (tmp_path / 'settings.ini').write_text((ROOT / 'settings.ini').read_text(encoding='utf-8'), encoding='utf-8')
    (tmp_path / 'nbs').mkdir()

    def make(code):
        def cell(i, kind, src):
            return dict(
                id=f'c{i}',
                cell_type=kind,
                metadata={},
                source=src,
                **({'outputs': [], 'execution_count': None} if kind == 'code' else {}),
            )

        cells = [
            cell(0, 'markdown', '# Small\n\n> A test of the test.'),
            cell(1, 'code', 'a = 1'),
            cell(2, 'code', code),
        ]
        meta = {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}
        path = tmp_path / 'nbs' / '00_small.ipynb'
        path.write_text(json.dumps(dict(cells=cells, metadata=meta, nbformat=4, nbformat_minor=5)))
        return path

    return make


def test_failure_names_notebook_and_cell(small, tmp_path):
    assert (
        run_book(
            small("import os; assert os.environ['IN_TEST']; open(os.environ['TMPDIR']+'/left', 'w').close()"), tmp_path
        )
        < LIMIT * PATIENCE
    )
    with pytest.raises(AssertionError, match=r'00_small.ipynb failed in cell 2 \(`assert a == 2`\)'):
        run_book(small('assert a == 2'), tmp_path)
    with pytest.raises(AssertionError, match='did not end within 2 s'):
        run_book(small('import time; time.sleep(60)'), tmp_path, timeout=2)
