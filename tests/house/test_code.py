"What tools say of the code: ruff finds no name that is missing or not needed, mypy none that is given the wrong type, codespell no misspelt word."

import json, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STYLE = 'attr-defined var-annotated assignment valid-type operator misc index call-overload union-attr'.split()
# not asked of mypy: methods that `patch` brings, names that take a new type on the way, fastcore's Param as annotation, and what torch and numpy leave open


def tool(*args):
    p = subprocess.run([sys.executable, '-m', *args], cwd=ROOT, capture_output=True, text=True, timeout=500)
    return p.returncode, p.stdout + p.stderr


def test_no_name_is_missing_or_unused():
    rc, said = tool(
        'ruff',
        'check',
        '--isolated',
        '--no-cache',
        '--select',
        'F,E9',
        '--output-format',
        'concise',
        'closp_nb',
        'tests',
    )
    assert rc == 0, f'{said}\nmodules come from notebooks: move what only lessons use into the hidden import cell'


def test_types_agree(tmp_path):
    rc, said = tool(
        'mypy',
        'closp_nb',
        '--ignore-missing-imports',
        '--cache-dir',
        str(tmp_path),
        *[f'--disable-error-code={o}' for o in STYLE],
    )
    assert rc == 0, said


def test_words_are_spelt(tmp_path):
    "Prose, code and comments of notebooks, and what else people read."
    for p in sorted((ROOT / 'nbs').rglob('*.ipynb')):
        if any(o[0] in '._' for o in p.relative_to(ROOT).parts):
            continue
        text = '\n'.join(''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells'])
        (tmp_path / p.with_suffix('.txt').name).write_text(text, encoding='utf-8')
    rc, said = tool(
        'codespell_lib', str(tmp_path), *[str(p) for p in (*ROOT.glob('*.md'), *ROOT.glob('*.cff'), ROOT / 'tests')]
    )
    assert rc == 0, f'{said}\nif a word is right, give codespell -L WORD'
