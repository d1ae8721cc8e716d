"A disk that fills up: one line, no debris, and what was there is whole. A limit on the size of files stands for it."

import os
import subprocess
import sys

import h5py
import pytest
from commandline import ROOT

from closp_nb.core import InputError, check_space
from closp_nb.data.hdf5 import new_h5

# the system refuses to let a file grow beyond this many bytes, as a full disk would
LIMITED = '''
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from closp_nb.cli.main import run_command
sys.exit(run_command(sys.argv[2:]))
'''


def run(limit, *argv, cwd):
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    return subprocess.run(
        [sys.executable, '-c', LIMITED, str(limit), *map(str, argv)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope='module')
def sources(world, model_folder, index_folder, shared_folder):
    world.save(shared_folder / 'for_disk.parquet')
    return dict(
        world=shared_folder / 'world', model=model_folder, index=index_folder, cat=shared_folder / 'for_disk.parquet'
    )


JOBS = {
    'world': (300_000, 'demo --out out --n 60 --epochs 1 --text_encoder tiny --offline'),
    'corpus': (300_000, 'corpus build out {world} --workers 1 --split stratified'),
    'corpus, two processes': (300_000, 'corpus build out {world} --workers 2 --split stratified'),
    'training': (300_000, 'train {cat} --out out --change epochs=1,text_encoder=tiny'),
    'index': (20_000, 'index {world} --model {model} --out out'),
    'vectors': (20_000, 'embed {world} --model {model} --out out'),
    'gpkg': (20_000, 'search water --index {index} --model {model} --k 80 --save out.gpkg'),
    'geojson': (20_000, 'search water --index {index} --model {model} --k 80 --save out.geojson'),
    'csv': (5_000, 'search water --index {index} --model {model} --k 80 --save out.csv'),
    'parquet': (5_000, 'search water --index {index} --model {model} --k 80 --save out.parquet'),
    'picture': (5_000, 'search water --index {index} --model {model} --k 80 --save out.png'),
}


@pytest.mark.skipif(sys.platform != 'linux', reason='limits on the size of files are set as Linux does')
@pytest.mark.parametrize('job', JOBS)
def test_one_line_and_no_debris(job, sources, tmp_path):
    limit, words = JOBS[job]
    done = run(limit, *words.format(**sources).split(), cwd=tmp_path)
    assert done.returncode == 1 and 'Traceback' not in done.stderr and 'Errors in' not in done.stderr, done.stderr
    assert done.stderr.count('closp: ') == 1, done.stderr
    left = [p for p in tmp_path.rglob('*') if p.is_file() and p.suffix in ('.tmp', '.part', '.h5')]
    assert not left and not list(tmp_path.glob('out.*.part')), left


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='this system has no disk that is always full')
def test_an_hdf5_file_is_closed_on_a_full_disk(tmp_path, monkeypatch):
    from closp_nb.data import hdf5

    monkeypatch.setattr(hdf5._Patient, '__init__', lambda self, path: _full(self, path))
    with pytest.raises(OSError, match='No space left'):
        with new_h5(tmp_path / 'a.h5') as f:
            for i in range(50):
                f[f'{i}/image'] = list(range(10_000))
    monkeypatch.undo()
    with new_h5(tmp_path / 'b.h5') as f:
        f['a'] = 1
    assert h5py.File(tmp_path / 'b.h5')['a'][()] == 1


def _full(self, path):
    import io

    io.FileIO.__init__(self, '/dev/full', 'r+b')
    self.path, self.error = path, None


def test_long_work_asks_first(tmp_path):
    check_space(tmp_path / 'a' / 'b', 1)
    with pytest.raises(InputError, match='make room'):
        check_space(tmp_path / 'a' / 'b', 10**18)
