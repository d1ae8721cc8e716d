"What tools say of the code: ruff, its formatter, mypy and codespell, each as pyproject.toml asks."

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tool(*args):
    p = subprocess.run([sys.executable, '-m', *args], cwd=ROOT, capture_output=True, text=True, timeout=500)
    return p.returncode, p.stdout + p.stderr


def test_ruff_finds_nothing():
    rc, said = tool('ruff', 'check', '--no-cache', '--output-format', 'concise', 'closp_nb', 'nbs', 'tests')
    assert rc == 0, f'{said}\nmodules come from notebooks: move what only lessons use into the hidden import cell'


def test_notebooks_and_tests_are_formatted():
    rc, said = tool('ruff', 'format', '--no-cache', '--check', 'nbs', 'tests')
    assert rc == 0, f'{said}\nrun ruff format nbs tests, then nbdev_export'


@pytest.mark.slow
def test_types_agree(tmp_path):
    rc, said = tool('mypy', '--cache-dir', str(tmp_path))
    assert rc == 0, said


def test_words_are_spelt(tmp_path):
    "Prose, code and comments of notebooks, and what else people read."
    for p in sorted((ROOT / 'nbs').rglob('*.ipynb')):
        if any(o[0] in '._' for o in p.relative_to(ROOT).parts):
            continue
        text = '\n'.join(''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells'])
        (tmp_path / f'{p.parent.name}_{p.stem}.txt').write_text(text, encoding='utf-8')
    others = [*ROOT.glob('*.md'), *ROOT.glob('*.cff'), ROOT / 'tests']
    rc, said = tool('codespell_lib', str(tmp_path), *map(str, others))
    assert rc == 0, f'{said}\nif a word is right, give codespell -L WORD'
