"Vectors in parts survive whatever ends their makers; several indexes answer as one."

import signal
import socket
import subprocess
import sys
import time

import dask.distributed
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from closp_nb.models.config import CLOSP_NB
from closp_nb.models.folder import load_model, save_model
from closp_nb.models.closp import new_model
from closp_nb.core import ClospError, DamagedError, InputError, NotFoundError
from closp_nb.search.index import Index
from closp_nb.models.inference import embed
from closp_nb.search.stores import STORES
from closp_nb.search.bulk import embed_parts, missing_parts, read_parts, start_parts
from closp_nb.search.searcher import Searcher
from closp_nb.search.index import MultiIndex, open_index
from closp_nb.synthetic.world import build_world

pytestmark = [pytest.mark.slow, pytest.mark.kills]

N, PART = 160, 4


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A world, a model, and all vectors computed at once."
    d = tmp_path_factory.mktemp('parts')
    world = build_world(d / 'world', N, geotiffs=0, progress=False)
    save_model(new_model(CLOSP_NB.change(text_encoder='tiny')).eval(), d / 'model')
    return d, world, embed(load_model(d / 'model'), world, progress=False)


def start(*args, **kw):
    return subprocess.Popen(
        [sys.executable, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kw
    )


def wait_for(true, seconds=90):
    end = time.time() + seconds
    while not true():
        assert time.time() < end, 'waited in vain'
        time.sleep(0.01)


def whole(home, out):
    d, world, z = home
    cat, got = read_parts(out, load_model(d / 'model'))
    assert cat.table.id.tolist() == world.table.id.tolist()
    np.testing.assert_allclose(got, z, atol=1e-5)
    assert not list(out.glob('.part-*'))


def test_killed_and_called_again(home, tmp_path):
    "The process dies twice; what it had done is not done again."
    d, out, kept = home[0], tmp_path / 'vectors', {}
    start_parts(d / 'world', d / 'model', out, PART)
    for left in (35, 20):
        p = start('-m', 'closp_nb.cli.main', 'embed', d / 'world', '--model', d / 'model', '--out', out, '--part', PART)
        wait_for(lambda: len(missing_parts(out)) <= left or p.poll() is not None)
        p.send_signal(signal.SIGKILL)
        p.wait()
        now = {f.name: f.stat().st_mtime_ns for f in out.glob('part-*')}
        assert kept.items() <= now.items() and len(now) < N // PART
        kept = now
    (out / '.part-00000.abc').write_bytes(b'half')
    embed_parts(d / 'world', d / 'model', out, part_size=PART)
    assert kept.items() <= {f.name: f.stat().st_mtime_ns for f in out.glob('part-*')}.items()
    whole(home, out)


def test_a_worker_of_a_cluster_dies(home, tmp_path):
    "A scheduler and two workers, none of which anybody restarts; one is killed with work in its hands."
    d, out = home[0], tmp_path / 'vectors'
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        address = f'tcp://127.0.0.1:{s.getsockname()[1]}'
    start_parts(d / 'world', d / 'model', out, PART)
    ps = [
        start(
            '-m',
            'dask',
            'scheduler',
            '--host',
            '127.0.0.1',
            '--port',
            address.rpartition(':')[2],
            '--no-dashboard',
            cwd=tmp_path,
        )
    ]

    def listens():
        with socket.socket() as s:
            return s.connect_ex(('127.0.0.1', int(address.rpartition(':')[2]))) == 0

    try:
        wait_for(listens)
        ps += [
            start(
                '-m',
                'dask',
                'worker',
                address,
                '--nthreads',
                '1',
                '--no-nanny',
                '--no-dashboard',
                '--local-directory',
                tmp_path / str(i),
                cwd=tmp_path,
            )
            for i in range(2)
        ]
        run = start(
            '-c',
            'from closp_nb.search.bulk import embed_parts; '
            f"embed_parts({str(d / 'world')!r}, {str(d / 'model')!r}, {str(out)!r}, {address!r}, part_size={PART})",
        )
        ps.append(run)
        wait_for(lambda: len(missing_parts(out)) <= 36 or run.poll() is not None, 120)
        ps[1].send_signal(signal.SIGKILL)
        assert len(missing_parts(out)) > 0 and run.wait(120) == 0
    finally:
        for p in ps[::-1]:
            p.kill()
            p.wait()
    whole(home, out)


def test_bad_input(home, tmp_path, monkeypatch):
    d = home[0]
    monkeypatch.setattr(dask.distributed, 'Client', lambda a, timeout, real=dask.distributed.Client: real(a, timeout=1))
    with pytest.raises(NotFoundError, match='no scheduler answers at tcp://127.0.0.1:9 .*start one with'):
        embed_parts(d / 'world', d / 'model', tmp_path / 'a', 'tcp://127.0.0.1:9', part_size=PART)
    with pytest.raises(InputError, match='a number of processes is at least 1'):
        embed_parts(d / 'world', d / 'model', tmp_path / 'a', workers=-1, part_size=PART)
    with pytest.raises(ClospError, match='holds no catalog'):
        embed_parts(tmp_path, d / 'model', tmp_path / 'b')
    (tmp_path / 'a' / 'parts.json').write_text('{')
    with pytest.raises(DamagedError, match='damaged'):
        missing_parts(tmp_path / 'a')


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 59), max_size=4),
    k=st.integers(1, 70),
    seed=st.integers(0, 2**16),
    share=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    store=st.sampled_from(['exact', 'compact']),
)
def test_union_is_one(cuts, k, seed, share, store):
    "However it is cut, and whatever passes: the answers of one index, equal vectors included."
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((60, 8)).astype('f4')
    z[rng.integers(60, size=10)] = z[0]
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    about = dict(fingerprint='x', dim=8, store=store, model='')

    def make(a, b):
        return Index(STORES[store].build(z[a:b]), None, about | dict(count=b - a))

    edges = sorted({0, 60, *cuts})
    several, one = MultiIndex([make(a, b) for a, b in zip(edges, edges[1:])]), make(0, 60)
    among = None if share == 1 else rng.random(60) < share
    q = rng.standard_normal((2, 8)).astype('f4')
    for a, b in zip(one.search(q, k, among), several.search(q, k, among)):
        if store == 'exact':
            np.testing.assert_array_equal(a, b)
        else:
            assert a.shape == b.shape  # codes depend on what they are fitted to
    if store == 'exact':
        np.testing.assert_array_equal(several.vectors(np.arange(60)), z)


def test_searcher_opens_several(home, tmp_path):
    d, world, z = home
    m = load_model(d / 'model')
    Index.build(m, world, z, d / 'model').save(tmp_path / 'one')
    for i, (a, b) in enumerate([(0, 70), (70, N)]):
        Index.build(m, world.take(range(a, b)), z[a:b], d / 'model').save(tmp_path / 'months' / str(i))
    one, several = Searcher.load(tmp_path / 'one'), Searcher.load(tmp_path / 'months')
    for ask in (
        lambda s: s.search_text('crops seen by radar', 15),
        lambda s: s.search_tile(world.table.id[3], 9),
        lambda s: s.search_text('water', 500, label='water'),
    ):
        a, b = ask(one).frame, ask(several).frame
        assert a.id.tolist() == b.id.tolist() and (a.score == b.score).all()
    assert [t.id for t in several.search_text('crops', 3)] == [
        t.id for t in one.search_text('crops', 3)
    ]  # pixels are found, too
    (tmp_path / 'months' / '1' / 'index.json').write_text('{')
    with pytest.raises(DamagedError, match='damaged'):
        open_index(tmp_path / 'months')
