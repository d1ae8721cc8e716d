"What all tests share: the checkout comes first on the path, versions come first in the report, notebook times last; a tower without BatchNorm."

import os, sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SHOWN = (
    'nbdev',
    'execnb',
    'fastcore',
    'fastai',
    'torch',
    'timm',
    'transformers',
    'faiss-cpu',
    'rasterio',
    'geopandas',
    'h5py',
    'numpy',
    'pandas',
)


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


@pytest.fixture(scope='module')
def plain():
    "The tower 'plain', as long as a test file needs it."
    from closp_nb.models.encoders import IMAGE_ENCODERS, register
    from towers import Plain

    register(IMAGE_ENCODERS, 'plain')(Plain)
    yield 'plain'
    del IMAGE_ENCODERS['plain']
