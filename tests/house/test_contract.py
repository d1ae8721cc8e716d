"The promises that hold the house together. Each failure says how to mend it; CONTRIBUTING.md says why."

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
import types
from configparser import ConfigParser
from pathlib import Path

import pytest
import readme

ROOT = Path(__file__).resolve().parents[2]
LIB, NBS = ROOT / 'closp_nb', ROOT / 'nbs'
MEND = 'run nbdev_export and nbdev_clean, and commit the notebook and its module together'

# ---- reading notebooks


class Book:
    "A notebook, looked at from outside."

    def __init__(self, path):
        self.path, self.name, self.part = path, path.stem, path.parent.name
        self.cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        for c in self.cells:
            c['source'] = ''.join(c['source'])
        self.code = [c for c in self.cells if c['cell_type'] == 'code']
        self.exports = [c for c in self.code if re.search(r'^#\s*\|\s*export[si]?\b', c['source'], flags=re.M)]
        self.lessons = [c for c in self.code if c not in self.exports]
        source = '\n'.join(c['source'] for c in self.code)
        m = re.search(r'^#\s*\|\s*default_exp\s+(\S+)', source, flags=re.M)
        self.module = m and m[1]  # 'data.catalog'; 'data.__init__' for the first page of a part

    def __repr__(self):
        return self.name if self.name != 'index' else f'{self.part}/index'


def hidden(path):
    return any(o[0] in '._' for o in path.relative_to(ROOT).parts)


BOOKS = [Book(p) for p in sorted(NBS.rglob('*.ipynb')) if not hidden(p)]
EXPORTING = [b for b in BOOKS if b.module]
CHAPTERS = [b for b in EXPORTING if not b.module.endswith('__init__')]
NUMBER = {b.module: b.name[:2] for b in CHAPTERS}
MODULES = {'.'.join(p.relative_to(LIB).with_suffix('').parts): p for p in LIB.rglob('*.py') if p.name[0] != '_'}
PARTS = {  # folder -> package
    '0_basics': '',
    '1_data': 'data',
    '2_synthetic': 'synthetic',
    '3_models': 'models',
    '4_training': 'training',
    '5_search': 'search',
    '6_evaluation': 'evaluation',
    '7_explorer': 'explorer',
    '8_commands': 'cli',
}
each_chapter = pytest.mark.parametrize('book', CHAPTERS, ids=repr)


def tree(
    source,  # of a cell or module; IPython's magics are left out
):
    "Parse code into its syntax tree."
    return ast.parse(re.sub(r'^\s*[%!].*$', 'pass', source, flags=re.M))


def imports(
    source,  # of a cell or module
    package='closp_nb',  # in which a module lies, for its relative imports
):  # full names of all modules it may import, inside functions too
    "List what code imports."
    res = set()
    for o in ast.walk(tree(source)):
        if isinstance(o, ast.Import):
            res |= {a.name for a in o.names}
        elif isinstance(o, ast.ImportFrom):
            above = package.split('.')[: len(package.split('.')) + 1 - o.level] if o.level else []
            base = '.'.join([*above, *([o.module] if o.module else [])])
            inner = {f'{base}.{a.name}' for a in o.names} if base.startswith('closp_nb') else set()
            rooms = {n for n in inner if n.removeprefix('closp_nb.') in MODULES}
            res |= rooms or {base}
        elif isinstance(o, ast.Call) and called(o) in ('import_module', '__import__'):
            res |= {a.value for a in o.args[:1] if isinstance(a, ast.Constant)}
    return res


def called(call):
    return getattr(call.func, 'attr', getattr(call.func, 'id', ''))


def ours(names):
    return {n.removeprefix('closp_nb.') for n in names if n.startswith('closp_nb.')}


def lines(source):
    return [s for s in source.splitlines() if s.strip() and not s.strip().startswith('#')]


# ---- rule 1: a notebook imports only lower numbers; a part only lower parts

SANDBOX = 'synthetic.'  # lessons everywhere run on the generated world, also before the chapters that make it


@each_chapter
def test_imports_only_lower_numbers(book):
    for cells, exported in ((book.exports, True), (book.lessons, False)):
        names = {n for c in cells for n in ours(imports(c['source']))} & set(NUMBER)
        high = sorted(n for n in names if NUMBER[n] >= book.name[:2] and (exported or not n.startswith(SANDBOX)))
        assert not high, (
            f'{book} imports {", ".join(f"{n} ({NUMBER[n]})" for n in high)}; '
            'move what it needs to a lower number, or this lesson to a later chapter'
        )


def test_rooms_lie_in_their_part():
    for b in CHAPTERS:
        package, _, room = b.module.rpartition('.')
        assert PARTS.get(b.part) == package, (
            f'{b} lies in {b.part} and exports {b.module}; part and package go together'
        )
        assert b.name == f'{b.name[:2]}_{room}' and b.name[0] == b.part[0], (
            f'{b} exports {b.module}; call it NN_{room}.ipynb, where the first digit is that of its part'
        )
    for what in ('name', 'module'):
        seen = [getattr(b, what)[:2] if what == 'name' else b.module for b in CHAPTERS]
        twice = sorted({o for o in seen if seen.count(o) > 1})
        assert not twice, f'two notebooks claim the {what} {twice}; give one another'
    orphans = sorted(set(MODULES) - {b.module for b in CHAPTERS})
    assert not orphans, f'no notebook exports closp_nb.{orphans}; remove it or bring its notebook back'


def test_packages_form_no_circle():
    "Arrows between packages go one way: from higher parts to lower ones."
    order = [f for f in PARTS.values()]
    for m, p in MODULES.items():
        package = m.rpartition('.')[0]
        for n in ours(imports(p.read_text(encoding='utf-8'), f'closp_nb.{package}'.rstrip('.'))):
            to = n.rpartition('.')[0]
            assert order.index(to) <= order.index(package), f'closp_nb.{m} imports closp_nb.{n}, a higher part'


def test_public_names_stand_once():
    "One name, one meaning."
    where: dict = {}
    for m, p in MODULES.items():
        for o in ast.parse(p.read_text(encoding='utf-8')).body:
            if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == '__all__':
                for n in ast.literal_eval(o.value):
                    where.setdefault(n, []).append(m)
    twice = {n: ms for n, ms in where.items() if len(ms) > 1}
    assert len(where) > 300 and not twice, f'public names that stand twice: {twice}; rename one'


ROOMS = {f: sorted(m.rpartition('.')[2] for m in MODULES if m.rpartition('.')[0] == f) for f in PARTS.values() if f}


@pytest.mark.parametrize('package', ROOMS)
def test_packages_say_what_is_in_them(package):
    "A package's docstring is a table of contents, and its rooms are there without being imported one by one."
    rc, out, _ = python('-c', f'import closp_nb.{package} as p; print(sorted(dir(p)), p.__doc__, sep="|")')
    names, _, doc = out.partition('|')
    assert rc == 0 and ast.literal_eval(names) == ROOMS[package], f'{out}\nsee the index notebook of the part'
    lack = [r for r in ROOMS[package] if not re.search(rf'^{r}  ', doc, flags=re.M)]
    assert not lack, f'the docstring of closp_nb.{package} does not list {lack}; see the index notebook of the part'


def test_public_face():
    "`closp_nb.<TAB>` shows some twenty names and the packages; each leads somewhere."
    code = 'import closp_nb; print([n for n in dir(closp_nb) if n[0] != "_"])'
    rc, out, _ = python('-c', code)
    names = ast.literal_eval(out)
    rooms = {m for m in MODULES if '.' not in m} | {f for f in PARTS.values() if f}
    assert rooms <= set(names) and 20 <= len(set(names) - rooms) <= 30, names
    some = sorted(set(names) - rooms)
    homes = f'import closp_nb\nfor n in {some}: print(n, getattr(getattr(closp_nb, n), "__module__", ""))'
    rc, out, _ = python('-W', 'ignore', '-c', homes)
    assert rc == 0 and all(s.split()[-1].startswith('closp_nb') for s in out.splitlines() if ' ' in s), out


def test_tests_have_tests():
    "A file that only says what it tests, tests nothing."
    for p in (ROOT / 'tests').rglob('test_*.py'):
        named = {o.name for o in ast.walk(ast.parse(p.read_text(encoding='utf-8'))) if isinstance(o, ast.FunctionDef)}
        assert any(n.startswith('test_') for n in named), (
            f'{p.relative_to(ROOT)} holds no test; write some or remove it'
        )


def test_tests_mirror_the_packages():
    folders = {p.name for p in (ROOT / 'tests').iterdir() if p.is_dir() and p.name[0] not in '._'}
    assert folders == {PARTS[f] or 'basics' for f in PARTS} | {'benchmarks', 'house'}


def test_sensors_are_compared_by_what_they_are():
    "An object that went through a process pool is another object."
    files = [*LIB.rglob('*.py'), *(ROOT / 'tests').rglob('*.py')]
    pattern = r'\bis (not )?S(1|2|2L1C|2RGB)\b'
    bad = [f'{p.name}: {m[0]}' for p in files for m in re.finditer(pattern, p.read_text(encoding='utf-8'))]
    assert not bad, f'{bad}: compare sensors with == and !=, not by identity'


def test_methods_live_in_their_class():
    for m, p in MODULES.items():
        bad = [
            o.name
            for o in ast.parse(p.read_text(encoding='utf-8')).body
            if isinstance(o, ast.FunctionDef) and any('patch' in ast.unparse(d) for d in o.decorator_list)
        ]
        assert not bad, f'closp_nb.{m} patches {bad} into a class; write them where the class is'


# ---- rule 2: every heavy library has one home

HOME = {  # library -> packages or rooms whose exported code may import it
    'torch': 'models training cli.doctor',
    'torchvision': 'models.encoders',
    'timm': 'models.encoders',
    'transformers': 'models.encoders',
    'tokenizers': 'models.encoders',
    'huggingface_hub': 'models.encoders models.pretrained',
    'safetensors': 'data.archives synthetic.archives models training.checkpoint',
    'lmdb': 'data.archives synthetic.archives',
    'fastai': 'training',
    'faiss': 'search.stores search.index cli.doctor',
    'dask': 'search.bulk',
    'sklearn': '',
    'seaborn': 'data.report evaluation',
    'ipywidgets': 'explorer',
    'ipyleaflet': 'explorer.maps',
    'ipyevents': 'explorer.cards',
    'rasterio': 'data synthetic',
    'pystac': 'stac',
    'h5py': 'data synthetic',
    'hdf5plugin': 'data.hdf5 data.archives synthetic.archives',
    'pyproj': 'geodesy search.filters',
    'geopandas': 'data.catalog search.filters',
    'pyogrio': 'data.catalog',
    'shapely': 'geodesy data.catalog search.filters',
}
HEAVY = 'torch fastai faiss rasterio ipywidgets geopandas h5py'.split()


@each_chapter
def test_heavy_libraries_stay_home(book):
    roots = {n.partition('.')[0] for c in book.exports for n in imports(c['source'])}
    rooms = {book.module, book.module.partition('.')[0]}
    away = sorted(r for r in roots if r in HOME and not rooms & set(HOME[r].split()))
    assert not away, (
        f'{book} exports code that imports {", ".join(f"{r} (lives in {HOME[r]})" for r in away)}; '
        'ask a function of that chapter instead'
    )


def python(*args):
    "Run this Python from the checkout; returns (exit status, output, seconds)."
    t = time.perf_counter()
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    p = subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=300, env=env)
    return p.returncode, p.stdout + p.stderr, time.perf_counter() - t


@pytest.mark.parametrize('module', ['closp_nb', 'closp_nb.evaluation.metrics', 'closp_nb.cli.main'])
def test_light_imports(module):
    rc, out, _ = python('-c', f'import sys, {module}; print("loaded:", *[m for m in {HEAVY} if m in sys.modules])')
    assert rc == 0, f'import {module} fails; write its chapter or mend it\n{out}'
    loaded = out.partition('loaded:')[2].split()
    assert not loaded, f'import {module} loads {loaded}; import them inside the functions that need them'


def test_filters_need_no_torch():
    rc, out, _ = python('-c', 'import sys, closp_nb.search.filters; print("torch" in sys.modules)')
    assert rc == 0 and out.strip() == 'False', out


# ---- rule 3: training and search never meet


def reach(module):
    "List all modules of the package that a module imports, directly or through others."
    seen, todo = set(), [module]
    while todo:
        m = todo.pop()
        if m not in MODULES:
            continue
        package = f'closp_nb.{m.rpartition(".")[0]}'.rstrip('.')
        new = ours(imports(MODULES[m].read_text(encoding='utf-8'), package)) - seen
        seen |= new
        todo += new
    return seen


@pytest.mark.parametrize('a,b', [('training', 'search'), ('search', 'training')])
def test_training_and_search_never_meet(a, b):
    for m in MODULES:
        if m.startswith(f'{a}.'):
            met = sorted(n for n in reach(m) if n.startswith(f'{b}.'))
            assert not met, f'closp_nb.{m} reaches closp_nb.{met}; hand over by the model folder and the index folder'


# rule 4, a clean tree, is held by test_notebooks.py

# ---- budgets


@each_chapter
def test_page_starts_with_its_promise(book):
    first = book.cells[0]
    assert first['cell_type'] == 'markdown' and re.fullmatch(r'# [^\n]+\n+> [^\n]+\n*', first['source']), (
        f'{book}: the first cell holds only "# Noun" and "> one-line promise"; '
        'move the rest to the second cell (nbdev drops it otherwise)'
    )


def asserts(source):
    "Does code check something?"
    return any(
        isinstance(o, ast.Assert) or (isinstance(o, ast.Call) and re.match('test_|assert_|AssertionError$', called(o)))
        for o in ast.walk(tree(source))
    )


CELL = 80  # lines of an export cell
LONG = {
    'data.archives': 550,  # one registry of nine readers
    'data.products': 470,  # one door for all products
    'core': 580,  # what every room needs: errors, files, text, processes
}


@each_chapter
def test_budgets(book):
    export = [len(lines(c['source'])) for c in book.exports]
    long = [c['source'].splitlines()[1] for c in book.exports if len(c['source'].splitlines()) - 1 > CELL]
    words = sum(len(c['source'].split()) for c in book.cells if c['cell_type'] == 'markdown')
    checks = sum(asserts(c['source']) for c in book.lessons)
    outputs = [o for c in book.code for o in c['outputs']]
    size = sum(len(json.dumps(o)) for o in outputs) / 1000
    over = [
        say
        for ok, say in [
            (len(book.cells) <= 90, f'{len(book.cells)} cells, 90 allowed: split the chapter'),
            (sum(export) <= LONG.get(book.module, 400), f'{sum(export)} exported lines, 400 meant: split the chapter'),
            (not long, f'export cells of more than {CELL} lines: {long}: cut them where the prose can breathe'),
            (
                words >= sum(export),
                f'{words} words of prose for {sum(export)} exported lines, as many meant: explain more or export less',
            ),
            (
                checks >= len(export) / 2,
                f'{checks} lesson cells assert something for {len(export)} export cells: half as many are meant',
            ),
            (size <= 200, f'{size:.0f} kB of outputs, 200 allowed: smaller figures (dpi 80, jpeg)'),
            (outputs, 'no stored outputs: run the notebook before you save it'),
            (
                not any(o['output_type'] == 'error' for o in outputs),
                'a stored output is an error: show messages with try and print',
            ),
        ]
        if not ok
    ]
    assert not over, f'{book}: ' + '; '.join(over)


@each_chapter
def test_import_cells_hold_only_imports(book):
    "nbdev runs each cell with an import when it makes the documentation, without the cells above it."
    for c in book.code:
        body = tree(c['source']).body
        kinds = {isinstance(o, (ast.Import, ast.ImportFrom)) for o in body}
        assert len(kinds) < 2 or 'nbdev_export()' in c['source'], (
            f"{book}: a cell mixes imports with other code; move the imports to the import cell:\n{c['source'][:300]}"
        )


# ---- notebooks, modules and README agree


@pytest.fixture(scope='session')
def fresh(tmp_path_factory):
    "A copy of the project, exported and cleaned anew."
    tmp = tmp_path_factory.mktemp('fresh')
    shutil.copy(ROOT / 'settings.ini', tmp)
    shutil.copytree(NBS, tmp / 'nbs', ignore=shutil.ignore_patterns('.*', '_proc'))
    (tmp / 'closp_nb').mkdir()
    if (LIB / '__init__.py').exists():
        shutil.copy(LIB / '__init__.py', tmp / 'closp_nb')
    code = (
        'from nbdev.doclinks import nbdev_export; from nbdev.clean import nbdev_clean; '
        'nbdev_export.__wrapped__(); nbdev_clean.__wrapped__()'
    )
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}  # nbdev exports nothing when it is set
    p = subprocess.run([sys.executable, '-c', code], cwd=tmp, env=env, capture_output=True, text=True, timeout=300)
    assert p.returncode == 0 and 'Failed to clean' not in p.stderr, (
        f'nbdev cannot export and clean the notebooks\n{p.stderr}'
    )
    return tmp


def test_export_is_current(fresh):
    def read(d):
        return {p.relative_to(d).as_posix(): p.read_text(encoding='utf-8') for p in d.rglob('*.py')}

    here, new = read(LIB), read(fresh / 'closp_nb')
    assert not here.keys() - new.keys(), (
        f'no notebook exports closp_nb/{sorted(here.keys() - new.keys())}; remove it or bring its notebook back'
    )
    stale = sorted(k for k in new if here.get(k) != new[k])
    assert not stale, f'closp_nb/{stale} differ from their notebooks; {MEND}'


@pytest.mark.parametrize('book', BOOKS, ids=repr)
def test_notebook_is_clean(book, fresh):
    assert book.path.read_bytes() == (fresh / book.path.relative_to(ROOT)).read_bytes(), (
        f'{book} holds execution counts or metadata; {MEND}'
    )


def test_readme_is_current():
    assert readme.INDEX.exists(), 'nbs/index.ipynb is missing; README.md is written from it'
    assert readme.README.read_text(encoding='utf-8') == readme.render(), (
        'README.md differs from nbs/index.ipynb; edit the notebook and run python tests/readme.py'
    )


def test_readme_writer(tmp_path):
    def cell(src, kind='code', **o):
        return dict(cell_type=kind, source=src, outputs=[o] if o else [])

    cells = [
        cell('# T\n\n> P', 'markdown'),
        cell(
            '![x](images/a.jpg) [c](../C.md#d) [w](https://e.org) [h](#t)\n```bash\ncat [a](b)\n```\n`[a](b)`',
            'markdown',
        ),
        cell('#| hide\nsecret = 1', text=['hidden']),
        cell('#| echo: false\nunseen()', text=['shown\n', 'twice']),
        cell('1+1', data={'text/html': ['<b>2</b>'], 'text/plain': ['2']}),
        cell('#| code-fold: true\nx = 1'),
    ]
    (tmp_path / 'i.ipynb').write_text(json.dumps(dict(cells=cells)))
    assert readme.render(tmp_path / 'i.ipynb') == readme.HEAD + (
        '\n\n# T\n\n> P\n\n![x](nbs/images/a.jpg) [c](C.md#d) [w](https://e.org) [h](#t)\n'
        '```bash\ncat [a](b)\n```\n`[a](b)`\n\n```\nshown\ntwice\n```\n\n'
        '```python\n1+1\n```\n\n```\n2\n```\n\n```python\nx = 1\n```\n'
    )


def test_readme_links_lead_somewhere():
    text = re.sub(r'^```.*?^```|`[^`\n]+`', '', readme.README.read_text(encoding='utf-8'), flags=re.M | re.S)
    paths = [m.partition('#')[0] for m in re.findall(r'''(?:\]\(|\b(?:src|href)=["'])(?!\w+:|#)([^)\s"']+)''', text)]
    dead = [p for p in paths if not (ROOT / p).exists()]
    assert not dead, f'README.md points to {dead}, which are not there; mend the links in nbs/index.ipynb'


def test_readme_starts_with_two_shell_blocks():
    blocks = re.findall(r'^```([^\n`]*)\n(.*?)^```', readme.README.read_text(encoding='utf-8'), flags=re.M | re.S)
    langs = [lang.strip() for lang, _ in blocks]
    assert langs[:2] == ['bash', 'bash'] and langs.count('bash') == 2, (
        f'README.md starts with two bash blocks (use it; work on it) and has no others; '
        f'it has {langs[:4]}...: mend nbs/index.ipynb'
    )
    p = subprocess.run(['bash', '.ci/run', '--show'], cwd=ROOT, capture_output=True, text=True)
    assert p.returncode == 0 and p.stdout.strip() == blocks[1][1].strip(), (
        '.ci/run does not run the second bash block of README.md; let it read the block from there'
    )
    last = blocks[1][1].strip().splitlines()[-1]
    assert last.rpartition('&&')[2].strip().startswith('pytest'), (
        f'the second bash block ends with `{last}`; end it with pytest, whose count is the last line of a run'
    )
    own = re.findall(r'^(?!\s*#).*\b(?:pip install|pytest)\b.*$', (ROOT / '.ci' / 'run').read_text(), flags=re.M)
    assert not own, f'.ci/run has its own {own}; README.md is the only place for that'


def test_quarto_config_has_one_text():
    assert (NBS / '_quarto.yml').read_text() == (ROOT / '_quarto.yml').read_text(), (
        'nbs/_quarto.yml is a link to ../_quarto.yml; restore it: ln -sf ../_quarto.yml nbs/_quarto.yml'
    )


# ---- packaging


def test_setup_reads_settings(monkeypatch):
    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    cfg, got = ini['DEFAULT'], {}
    monkeypatch.setitem(
        sys.modules, 'setuptools', types.SimpleNamespace(setup=got.update, find_packages=lambda **_: ['closp_nb'])
    )
    monkeypatch.chdir(ROOT)
    runpy.run_path('setup.py')
    want = dict(
        name=cfg['lib_name'],
        version=cfg['version'],
        description=cfg['description'],
        python_requires='>=' + cfg['min_python'],
        install_requires=cfg['requirements'].split(),
        entry_points={'console_scripts': cfg['console_scripts'].split()},
    )
    wrong = [k for k in want if got.get(k) != want[k]]
    assert not wrong, f'setup.py says something else than settings.ini about {wrong}; let setup.py read it'
    extras = {k.removesuffix('_requirements'): cfg[k].split() for k in cfg if k.endswith('_requirements')}
    assert got.get('extras_require') == extras, (
        'the extras in setup.py are not the *_requirements of settings.ini; let setup.py read them'
    )
    assert f'__version__ = "{cfg["version"]}"' in (LIB / '__init__.py').read_text(), (
        f'closp_nb/__init__.py has another version than settings.ini; {MEND}'
    )


def test_users_need_no_nbdev():
    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    names = {
        key: {re.split(r'[^\w.-]', o)[0].lower() for o in ini['DEFAULT'][key].split()}
        for key in ('requirements', 'dev_requirements')
    }
    assert not names['requirements'] & {'nbdev', 'execnb', 'pytest', 'ipykernel', 'nbclient'}, (
        'settings.ini: tools for writing belong in dev_requirements, not in requirements'
    )
    assert {'nbdev', 'execnb', 'pytest'} <= names['dev_requirements'], (
        'settings.ini: dev_requirements lack nbdev, execnb or pytest'
    )
    needy = [
        p.name
        for p in MODULES.values()
        if {'nbdev', 'execnb'} & {n.partition('.')[0] for n in imports(p.read_text(encoding='utf-8'))}
    ]
    assert not needy, f'{needy} import nbdev; keep it out of exported cells'


@pytest.mark.parametrize(
    'limit,args',
    [(0.3, ('-c', 'import closp_nb')), (1, ('-m', 'closp_nb.cli.main', '--help'))],
    ids=['import', 'help'],
)
def test_starts_fast(limit, args):
    runs = [python(*args) for _ in range(3)]
    assert runs[0][0] == 0, f'python {" ".join(args)} fails; mend it\n{runs[0][1]}'
    best = min(r[2] for r in runs)
    assert best <= limit, (
        f'python {" ".join(args)} takes {best:.2f} s, {limit} s allowed; see python -X importtime and import late'
    )


# ---- text


@pytest.mark.parametrize('path', MODULES.values(), ids=MODULES)
def test_public_things_have_one_line_docstrings(path):
    things = [
        o
        for o in ast.parse(path.read_text(encoding='utf-8')).body
        if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and o.name[0] != '_'
    ]
    bad = [o.name for o in things if '\n' in (ast.get_docstring(o) or '\n')]
    assert not bad, (
        f'{path.name}: {bad} lack a docstring of one line; '
        'say what it does in the notebook, and tell about parameters in comments behind them'
    )


PLACE = re.compile(r'(?<![\w.~])/(?:work|root|home|Users|opt)/|(?<![\w/])shared/')


def texts():
    "(name, text) of everything people read, without the bytes of pictures."
    for b in BOOKS:
        out = [
            ''.join(t)
            for c in b.code
            for o in c['outputs']
            for k, t in [('text', o.get('text', ''))] + list(o.get('data', {}).items())
            if k.startswith('text') and isinstance(t, (str, list))
        ]
        yield b.name, '\n'.join([c['source'] for c in b.cells] + out)
    for p in [
        *MODULES.values(),
        *ROOT.glob('*.md'),
        *ROOT.glob('*.cff'),
        ROOT / 'settings.ini',
        ROOT / 'setup.py',
        ROOT / '.ci' / 'run',
        *ROOT.glob('.github/workflows/*'),
    ]:
        yield p.relative_to(ROOT).as_posix(), p.read_text(encoding='utf-8')


def test_no_path_of_one_machine():
    found = [f'{name}: {t[max(0, m.start() - 30) : m.end() + 30]!r}' for name, t in texts() for m in PLACE.finditer(t)]
    assert not found, (
        'text names a folder of one machine; use a temporary folder, and print paths without it: ' + '; '.join(found)
    )
