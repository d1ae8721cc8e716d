"Processes end with the one that started them, inherit nothing that cannot be shared, and leave Ctrl-C to it."

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from closp_nb.core import process_pool

psutil = pytest.importorskip('psutil', reason='counts the children of a process that was killed')
ROOT = Path(__file__).resolve().parents[2]
ENV = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1'}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    from closp_nb.synthetic.world import build_world

    d = tmp_path_factory.mktemp('place')
    build_world(d / 'world', 200, train_frac=0.6, geotiffs=0, progress=False)
    return d


JOBS = {
    'world': 'demo --out OUT --n 4000 --text_encoder tiny --offline --workers 2',
    'corpus': 'corpus build OUT WORLD --workers 2',
    'readers': 'train WORLD --out OUT --change text_encoder=tiny,epochs=50,batch_size=8 --workers 2',
    'ranks': 'train WORLD --out OUT --change text_encoder=tiny,epochs=50,batch_size=8 --nproc 2',
}


def begin(place, tmp_path, job):
    "Start a command and wait until it has children; returns it, and them."
    words = [str(dict(OUT=tmp_path / 'out', WORLD=place / 'world').get(w, w)) for w in JOBS[job].split()]
    argv = [sys.executable, '-m', 'closp_nb.cli.main', *words]
    p = subprocess.Popen(argv, env=ENV, stdout=-3, stderr=-1, text=True, start_new_session=True)
    end = time.time() + 60
    while p.poll() is None and time.time() < end:
        children = psutil.Process(p.pid).children(recursive=True)
        if len(children) >= 2:
            return p, children
        time.sleep(0.02)
    raise AssertionError(f'no children: {p.communicate()[1][-500:]}')


def alive(children):
    return [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.kills
@pytest.mark.slow
@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGKILL, signal.SIGINT], ids=lambda s: s.name)
@pytest.mark.parametrize('job', JOBS)
def test_no_child_outlives_its_parent(place, tmp_path, job, how):
    p, children = begin(place, tmp_path, job)
    os.killpg(p.pid, how) if how == signal.SIGINT else p.send_signal(how)  # Ctrl-C goes to all of them
    said = p.communicate(timeout=30)[1] if how == signal.SIGINT else p.wait(30)
    end = time.time() + 10
    while alive(children) and time.time() < end:
        time.sleep(0.1)
    left = alive(children)
    for c in left:
        c.kill()
    assert not left, left
    assert p.returncode == {signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[how]
    if how == signal.SIGINT:
        assert 'Traceback' not in said and 'closp: stopped; nothing half-written is left' in said
    if how != signal.SIGKILL:
        assert not [q.name for q in tmp_path.iterdir() if q.name.startswith('.')]


def test_a_pool_ends_at_once_when_the_block_fails():
    begun = time.time()
    with pytest.raises(ZeroDivisionError):
        with process_pool(2) as pool:
            for _ in range(4):
                pool.submit(time.sleep, 60)
            1 / 0
    assert time.time() - begun < 20


def ask(index, q):
    rows = index.search(q, 5)[1]
    return rows.tolist(), index.cat.table.id.tolist()


@pytest.mark.parametrize('searched', [False, True], ids=['opened', 'searched'])
def test_an_index_that_was_opened_before_a_fork(index_folder, searched):
    from closp_nb.search.index import Index

    q = Index.load(index_folder).vectors(range(3))
    want, said = repr(ask(Index.load(index_folder), q)), []
    for _ in range(6):
        index, pipes = Index.load(index_folder), []
        if searched:
            index.search(q, 5)
        for _ in range(4):
            r, w = os.pipe()
            if (pid := os.fork()) == 0:
                try:
                    answer = repr(ask(index, q))
                except BaseException as e:
                    answer = repr(e)
                os.write(w, b'right' if answer == want else answer.encode()[:300])
                os._exit(0)
            os.close(w)
            pipes.append((pid, r))
        for pid, r in pipes:
            said.append(os.read(r, 999))
            os.close(r)
            os.waitpid(pid, 0)
    assert said == [b'right'] * 24
