"Several processes give the losses of one."

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from closp_nb.models.config import CLOSP_NB
from closp_nb.models.folder import fingerprint, load_model
from closp_nb.models.closp import new_model
from closp_nb.core import ClospError, DivergedError, InputError
from closp_nb.models.geoclosp import GeoCLOSP, location_encoder
from closp_nb.geodesy import check_lonlat
from closp_nb.training.distributed import launch
from closp_nb.training.checkpoint import checkpoints
from closp_nb.training.train import RunOptions, train
from closp_nb.synthetic.world import build_world

pytestmark = [
    pytest.mark.slow,
    pytest.mark.kills,
    pytest.mark.usefixtures('plain'),
    pytest.mark.skipif(torch.cuda.is_available(), reason='written for processes on a CPU; hide the GPUs to run it'),
]
RECIPE = CLOSP_NB.change(
    image_encoder='plain', text_encoder='tiny', location_encoder='tiny', epochs=3, batch_size=4, grad_cache_chunks=2
)


@pytest.fixture(scope='module')
def cat(tmp_path_factory):
    "Make a world in which some coordinates are unknown, so that processes can compare different numbers of tiles."
    cat = build_world(tmp_path_factory.mktemp('processes') / 'world', 80, train_frac=0.6, geotiffs=0, progress=False)
    cat.frame.loc[::7, ['lon', 'lat']] = np.nan
    return cat


def model():
    torch.manual_seed(0)
    return GeoCLOSP.around(new_model(RECIPE), location_encoder('tiny'))


@pytest.fixture(scope='module')
def two(cat, tmp_path_factory):
    out = tmp_path_factory.mktemp('two') / 'run'
    return out, *train(cat, RECIPE, progress=False, model=model(), folder=out, options=RunOptions(processes=2))


def test_two_are_one(cat, two):
    "Losses to 1e-4 of their size, weights to a thousandth: other sums round otherwise, and Adam divides by small ones."
    one, table = train(cat, RECIPE, progress=False, model=model())
    out, both, curve = two
    assert len(curve) == 3 and list(curve) == list(table)
    np.testing.assert_allclose(curve, table, rtol=1e-4)
    for (k, v), w in zip(one.state_dict().items(), both.state_dict().values()):
        torch.testing.assert_close(w, v, rtol=1e-3, atol=1e-3, msg=lambda m: f'{k}: {m}')
    assert fingerprint(load_model(out / 'model')) == fingerprint(both)
    pd.testing.assert_frame_equal(pd.read_csv(out / 'log.csv', index_col='epoch'), curve)


def test_one_dies_and_the_run_resumes(cat, two, tmp_path):
    "A process is killed when some checkpoints are there; what is resumed equals the undisturbed run to the byte."
    out, done = tmp_path / 'run', []
    run = dict(progress=False, folder=out, options=RunOptions(checkpoint_steps=1, processes=2))

    def kill():
        while not done and len(checkpoints(out / 'checkpoints')) < 2:
            time.sleep(0.01)
        for p in multiprocessing.active_children()[:1]:
            os.kill(p.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(ClospError, match='died') as e:
            train(cat, RECIPE, model=model(), **run)
    finally:
        done.append(1)
        killer.join()
    assert type(e.value) is ClospError and '\n' not in str(e.value) and 'resume' in str(e.value)
    train(cat, RECIPE, model=model(), resume=True, **run)
    assert (out / 'log.csv').read_bytes() == (two[0] / 'log.csv').read_bytes()
    assert fingerprint(load_model(out / 'model')) == fingerprint(two[1])


def test_refusals_come_home(cat):
    with pytest.raises(InputError, match='beyond 180') as e:
        launch(check_lonlat, 2, (200, 10))
    assert '\n' not in str(e.value)
    with pytest.raises(InputError, match='callbacks'):
        train(cat, RECIPE, callbacks=[1], options=RunOptions(processes=2))


def diverge():
    raise DivergedError('not a number')


def test_errors_keep_their_kind():
    with pytest.raises(DivergedError, match='^not a number$'):
        launch(diverge, 2)


def linger(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(300)


def alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='looks into /proc')
def test_processes_end_with_their_parent(tmp_path):
    "Kill the process that started the others, and they end."
    here = Path(__file__).resolve()
    code = (
        'from closp_nb.training.distributed import launch\n'
        f"if __name__ == '__main__': launch('test_distributed.linger', 2, {str(tmp_path)!r})"
    )
    path = os.pathsep.join(map(str, (here.parents[2], here.parents[1], here.parent)))
    p = subprocess.Popen([sys.executable, '-c', code], env=os.environ | {'PYTHONPATH': path})
    try:
        end = time.time() + 120
        while len(list(tmp_path.iterdir())) < 2 and time.time() < end:
            time.sleep(0.1)
        pids = [int(f.name) for f in tmp_path.iterdir()]
        assert len(pids) == 2 and all(map(alive, pids))
    finally:
        p.kill()
        p.wait()
    end = time.time() + 20
    while any(map(alive, pids)) and time.time() < end:
        time.sleep(0.1)
    assert not any(map(alive, pids))
