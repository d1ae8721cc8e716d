"What is uploaded: a wheel and a source archive that hold what they should, and search without a training library."

import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import pytest
from book import copy_tree

pytestmark = [pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "The wheel and the source archive, built from a copy as git would give it."
    d = tmp_path_factory.mktemp('build')
    try:
        copy = copy_tree(d / 'closp_nb')
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f'git does not say which files belong to the project: {e}')
    p = subprocess.run(
        [sys.executable, '-m', 'build', '--outdir', str(d / 'dist'), str(copy)],
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert p.returncode == 0, p.stdout[-2000:] + p.stderr[-2000:]
    return next((d / 'dist').glob('*.whl')), next((d / 'dist').glob('*.tar.gz'))


def test_the_wheel_holds_the_package_and_its_data(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    inside = {n for n in names if n.startswith('closp_nb/')}
    want = {
        p.relative_to(ROOT).as_posix()
        for p in [
            *(ROOT / 'closp_nb').rglob('*.py'),
            ROOT / 'closp_nb' / 'py.typed',
            *(ROOT / 'closp_nb' / 'assets').glob('*'),
        ]
    }
    assert inside == want, f'missing {want - inside}, not expected {inside - want}: see package_data in setup.py'
    assert all('.dist-info/' in n for n in names - inside), names - inside
    assert built[0].stat().st_size < 1_000_000


def test_the_source_archive_builds_the_same(built):
    with tarfile.open(built[1]) as t:
        names = {n.partition('/')[2] for n in t.getnames()}
    assert {
        'settings.ini',
        'setup.py',
        'README.md',
        'LICENSE',
        'closp_nb/cli/main.py',
        'closp_nb/assets/land.geojson',
    } <= names  # the wheel was built from it
    assert not [n for n in names if n.endswith('.ipynb') or n.startswith(('tests', 'nbs'))]


def test_what_the_index_of_packages_checks(built):
    p = subprocess.run(
        [sys.executable, '-m', 'twine', 'check', '--strict', *map(str, built)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert p.returncode == 0, p.stdout + p.stderr


def test_search_needs_no_training_library(tmp_path):
    "A Searcher opens and answers where fastai, accelerate, seaborn, ipywidgets, voila and nbdev cannot be imported."
    code = f'''
import sys
for n in (
    'fastai', 'fastcore.all', 'accelerate', 'seaborn', 'ipywidgets', 'ipyleaflet', 'voila', 'nbdev',
    'dask', 'distributed'
):
    sys.modules[n] = None
from pathlib import Path
from closp_nb import CLOSP_NB, Index, Searcher, build_world, explain_hit, save_model
from closp_nb.models.closp import new_model
d = Path({str(tmp_path)!r})
cat = build_world(d/'world', 24, train_frac=.5, geotiffs=0, progress=False)
model = new_model(CLOSP_NB.change(text_encoder='tiny')).eval()
save_model(model, d/'model')
Index.build(model, cat, model_folder=d/'model', progress=False).save(d/'index')
hits = Searcher.load(d/'index').search_text('water', k=3)
assert len(hits) == 3
hits.save(d/'hits.geojson')
explain_hit(Searcher.load(d/'index'), hits.frame.id[0], 'open water')
'''
    p = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr[-3000:]


def test_pythons_that_are_stated_are_tried():
    "What setup.py promises is what the nightly workflow runs, and pull requests run the first."
    import yaml

    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(ROOT / 'settings.ini', encoding='utf-8')
    cfg = ini['DEFAULT']
    flows = {n: yaml.safe_load((ROOT / '.github' / 'workflows' / f'{n}.yaml').read_text()) for n in ('nightly', 'test')}
    tried = flows['nightly']['jobs']['test']['strategy']['matrix']['python']
    assert cfg['pythons'].split() == tried and tried[0] == cfg['min_python']
    steps = flows['test']['jobs']['quick']['steps']
    assert [s['with']['python-version'] for s in steps if 'setup-python' in s.get('uses', '')] == [cfg['min_python']]


def test_citation_is_of_this_version():
    import yaml

    cff = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    assert cff['cff-version'] == '1.2.0' and cff['message'] and cff['authors'] and cff['title'].startswith('closp_nb')
    assert cff['version'] == version('closp_nb') and f"## [{cff['version']}]" in (ROOT / 'CHANGELOG.md').read_text(
        encoding='utf-8'
    )


def test_the_demo_is_the_sum_of_what_it_needs():
    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(ROOT / 'settings.ini', encoding='utf-8')

    def extra(k):
        return set(ini['DEFAULT'][f'{k}_requirements'].split())

    assert extra('demo') == extra('text') | extra('train') | extra('samples')
