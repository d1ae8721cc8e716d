"The demo from end to end on a small world, in processes of its own."

import json
import os
import signal
import subprocess
import sys
import time

import h5py
import pandas as pd
import pytest
from commandline import ENV, SMALL, closp

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('demo')]  # one worker runs the demo


def test_it_leaves_what_it_promises(demo):
    d, done = demo
    names = {p.name for p in (d / 'demo').iterdir()}
    assert names >= {
        'world',
        'model',
        'index',
        'results.csv',
        'summary.csv',
        'map.png',
        'hits_burned_forest.png',
        'hits_flooded_area_near_water.png',
        'hits_built-up_area_seen_by_radar.png',
    }
    for n in names - {'.closp'}:  # the mark of a folder that closp may replace
        assert f'wrote demo/{n}' in done.stdout.replace(os.sep, '/'), n
    about = [json.loads((d / 'demo' / f).read_text()) for f in ('index/index.json', 'model/model.json')]
    assert about[0]['fingerprint'] == about[1]['fingerprint']
    assert not [p for p in d.iterdir() if p.name.startswith('.')], 'nothing half-written is left'


def test_its_world_is_a_corpus(demo):
    d, _ = demo
    meta = pd.read_parquet(d / 'demo' / 'world' / 'metadata.parquet')
    assert len(meta) == 240 and set(meta.split) == {'train', 'corpus'}
    assert abs((meta.split == 'train').mean() - 0.2) < 0.03
    with h5py.File(d / 'demo' / 'world' / 'crisislandmark.h5') as f:
        for key in meta.key[:20]:
            assert f[key]['image'].shape[1:] == (120, 120) and f[key]['coords'].shape == (2, 120, 120)


def test_results_have_floors_and_both_archives(demo):
    d, _ = demo
    r = pd.read_csv(d / 'demo' / 'results.csv')
    assert set(r.archive) == {'world', 'real'} and set(r.gallery) == {'Sentinel-1', 'Sentinel-2', 'both'}
    assert {'nDCG@10', 'nDCG@100', 'nDCG@1000', 'P@10', 'mAP'} == set(r.metric)
    scores = r[['value', 'random', 'untrained']].stack().dropna()  # no value where a gallery holds nothing right
    assert scores.between(0, 1).all() and len(scores) > 1000


def test_real_tiles_never_train(demo):
    from closp_nb.data.catalog import Catalog

    d, _ = demo
    rows = Catalog.load(d / 'demo' / 'index' / 'rows.parquet').frame
    assert set(rows.split) == {'gallery'} and (rows.source == 'bigearthnet-v1').sum() == 12


def test_same_seed_same_results(demo):
    d, _ = demo
    done = closp('demo', '--out', 'twin', *SMALL, cwd=d, cache=d / 'cache')
    assert done.returncode == 0, done.stderr[-2000:]
    assert (d / 'twin' / 'results.csv').read_bytes() == (d / 'demo' / 'results.csv').read_bytes()


@pytest.mark.kills
def test_a_kill_leaves_nothing_half(tmp_path):
    "Stopped in the middle, the demo leaves no output folder, and a second run with the same name works."
    env = ENV | {'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    words = ['demo', '--out', 'demo', '--n', '2000', '--offline', '--workers', '1', '--text_encoder', 'tiny']
    p = subprocess.Popen(
        [sys.executable, '-m', 'closp_nb.cli.main', *words],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.time() + 120
    while not list(tmp_path.glob('.demo.*.part')) and p.poll() is None and time.time() < end:
        time.sleep(0.2)
    time.sleep(2)
    assert p.poll() is None, 'the demo ended before it could be killed'
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert not (tmp_path / 'demo').exists()
    done = closp('demo', '--out', 'demo', *SMALL, '--n', '120', cwd=tmp_path, cache=tmp_path / 'cache')
    assert done.returncode == 0 and (tmp_path / 'demo' / 'results.csv').exists(), done.stderr[-2000:]
    assert sorted(p.name for p in tmp_path.iterdir()) == ['cache', 'demo']
