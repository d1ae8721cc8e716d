"What all tests share: one small world, model and index; files of tests stay on one worker; notebook times come last."

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

if 'PYTEST_XDIST_WORKER' in os.environ:  # workers share the cores; before torch is imported
    os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SHOWN = 'nbdev execnb fastcore fastai torch timm transformers faiss-cpu rasterio geopandas h5py numpy pandas'.split()
SPREAD = 'test_notebooks', 'test_contract'  # their tests need nothing of each other: any worker may take one


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return 'missing'


def pytest_configure(config):
    if 's' not in config.option.reportchars:
        config.option.reportchars += 's'  # a skipped test says why
    if not all('test_gpu' in a for a in config.args):
        os.environ['CUDA_VISIBLE_DEVICES'] = ''  # other tests compare runs of the processor to the bit


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem not in SPREAD and item.get_closest_marker('xdist_group') is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))  # fixtures of a file are made once


def pytest_report_header():
    return 'versions: ' + ', '.join(f'{o} {_version(o)}' for o in SHOWN)


def pytest_terminal_summary(terminalreporter):
    reports = [r for o in ('passed', 'failed') for r in terminalreporter.getreports(o)]
    times = sorted(
        (v, r.nodeid.rpartition('[')[2].rstrip(']'))
        for r in reports
        for k, v in getattr(r, 'user_properties', [])
        if k == 'seconds'
    )
    if times:
        terminalreporter.section('seconds per notebook')
    for t, name in reversed(times):
        terminalreporter.write_line(f'{t:6.1f}  {name}')


@pytest.fixture(scope='session')
def shared_folder(tmp_path_factory):
    "A folder for what the session shares; tests read from it and do not write."
    return tmp_path_factory.mktemp('shared')


@pytest.fixture(scope='session')
def world(shared_folder):
    "A catalog of eighty generated tiles, half of them for training."
    from closp_nb.synthetic.world import build_world

    return build_world(shared_folder / 'world', 80, train_frac=0.5, geotiffs=2, progress=False)


@pytest.fixture(scope='session')
def model_folder(shared_folder):
    "The folder of a CLOSP with tiny encoders, untrained."
    from closp_nb.models.closp import new_model
    from closp_nb.models.config import CLOSP_NB
    from closp_nb.models.folder import save_model

    return save_model(new_model(CLOSP_NB.change(text_encoder='tiny')).eval(), shared_folder / 'model')


@pytest.fixture(scope='session')
def index_folder(shared_folder, world, model_folder):
    "The folder of an index of all tiles of `world`."
    from closp_nb.models.folder import load_model
    from closp_nb.search.index import Index

    index = Index.build(load_model(model_folder), world, model_folder=model_folder, progress=False)
    index.save(shared_folder / 'index')
    return shared_folder / 'index'


@pytest.fixture(scope='module')
def plain():
    "The encoder 'plain', as long as a test file needs it."
    from closp_nb.models.encoders import IMAGE_ENCODERS, register
    from towers import Plain

    register(IMAGE_ENCODERS, 'plain')(Plain)
    yield 'plain'
    del IMAGE_ENCODERS['plain']
