"The command line from end to end on a small world, as a user runs it: in processes of its own."

import json, os, signal, subprocess, sys, time

import h5py
import pandas as pd
import pytest

SMALL = ['--n', '240', '--epochs', '2', '--offline', '--workers', '1']


def closp(*argv, cwd, cache, **kw):
    env = os.environ | {'XDG_CACHE_HOME': str(cache), 'HF_HUB_OFFLINE': '1'}
    return subprocess.run(
        [sys.executable, '-m', 'closp_nb.cli.main.main', *argv],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=400,
        **kw,
    )


def refused(done, *words):
    "One line on standard error that names the mend, and no traceback."
    lines = [
        l
        for l in done.stderr.strip().splitlines()
        if l.strip() and not l.startswith(('scan', 'embed', 'catalog', 'world', 'train'))
    ]
    assert done.returncode in (1, 2) and 'Traceback' not in done.stderr + done.stdout, done.stderr
    assert len(lines) == 1 and lines[0].startswith('closp: '), done.stderr
    for w in words:
        assert w in lines[0], lines[0]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder in which the demo has run once."
    d = tmp_path_factory.mktemp('closp')
    done = closp('demo', '--out', 'demo', *SMALL, cwd=d, cache=d / 'cache')
    assert done.returncode == 0, done.stderr[-3000:]
    return d, done


def test_demo_leaves_what_it_promises(place):
    d, done = place
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
    for n in names:
        assert f'wrote demo/{n}' in done.stdout.replace(os.sep, '/'), n
    assert (
        json.loads((d / 'demo' / 'index' / 'index.json').read_text())['fingerprint']
        == json.loads((d / 'demo' / 'model' / 'model.json').read_text())['fingerprint']
    )
    assert not [p for p in d.iterdir() if p.name.startswith('.')], 'nothing half-written is left'


def test_demo_world_is_a_corpus(place):
    d, _ = place
    meta = pd.read_parquet(d / 'demo' / 'world' / 'metadata.parquet')
    assert (
        len(meta) == 240 and set(meta.split) == {'train', 'corpus'} and abs((meta.split == 'train').mean() - 0.2) < 0.03
    )
    with h5py.File(d / 'demo' / 'world' / 'crisislandmark.h5') as f:
        for key in meta.key[:20]:
            assert f[key]['image'].shape[1:] == (120, 120) and f[key]['coords'].shape == (2, 120, 120)


def test_results_have_floors_and_both_archives(place):
    d, _ = place
    r = pd.read_csv(d / 'demo' / 'results.csv')
    assert set(r.archive) == {'world', 'real'} and set(r.gallery) == {'Sentinel-1', 'Sentinel-2', 'both'}
    assert {'nDCG@10', 'nDCG@100', 'nDCG@1000', 'P@10', 'mAP'} == set(r.metric)
    scores = r[['value', 'random', 'untrained']].stack().dropna()  # no value where a gallery holds nothing right
    assert scores.between(0, 1).all() and len(scores) > 1000


def test_real_tiles_never_train(place):
    from closp_nb.data.catalog import Catalog

    d, _ = place
    rows = Catalog.load(d / 'demo' / 'index' / 'rows.parquet').frame
    assert set(rows.split) == {'corpus'} and (rows.source == 'bigearthnet-v1').sum() == 12


def test_same_seed_same_results(place):
    d, _ = place
    done = closp('demo', '--out', 'twin', *SMALL, cwd=d, cache=d / 'cache')
    assert done.returncode == 0, done.stderr[-2000:]
    assert (d / 'twin' / 'results.csv').read_bytes() == (d / 'demo' / 'results.csv').read_bytes()


def test_taken_folder_is_refused(place):
    d, _ = place
    before = (d / 'demo' / 'results.csv').read_bytes()
    refused(closp('demo', '--out', 'demo', *SMALL, cwd=d, cache=d / 'cache'), '--force')
    assert (d / 'demo' / 'results.csv').read_bytes() == before


def test_search_and_index(place):
    d, _ = place
    done = closp('search', 'flooded area seen by radar', '--save', 'hits.geojson', cwd=d, cache=d / 'cache')
    assert done.returncode == 0 and ' s2 ' not in done.stdout and (d / 'hits.geojson').exists(), done.stderr
    assert closp('index', 'demo/world/geotiff', '--out', 'mine', cwd=d, cache=d / 'cache').returncode == 0
    assert closp('search', 'water', '--index', 'mine', cwd=d, cache=d / 'cache').returncode == 0


@pytest.mark.parametrize(
    'argv,words',
    [
        (['demo', '--out', 'x', '--towers', 'resnet5'], ['tiny', 'resnet50']),
        (['demo', '--out', 'x', '--n', '1'], ['at least 2']),
        (['demo', '--out', 'x', '--n', '20'], ['too few']),
        (['demo', '--out', 'x', '--epochs', '0'], ['epoch']),
        (['demo', '--out', 'x', '--tiles', 'nowhere', '--n', '40'], ['nowhere', 'check the path']),
        (['search', 'flood', '--index', 'nowhere'], ['no index folder']),
        (['search', ' ', '--index', 'demo/index'], ['empty']),
        (['search', 'flood', '--bbox', '1,2,3'], ['west']),
        (['search', 'flood', '--since', 'someday'], ['2021-07-31']),
        (['search', 'flood', '--sensor', 's3'], ['s1, s2']),
        (['index', 'nowhere'], ['not a folder']),
        (['sample'], ['samples']),
    ],
    ids=lambda v: '_'.join(v)[:40],
)
def test_user_errors(place, argv, words):
    d, _ = place
    argv = argv + (['--offline', '--workers', '1', '--text', 'tiny'] if argv[0] == 'demo' else [])
    refused(closp(*argv, cwd=d, cache=d / 'cache'), *words)
    assert not (d / 'x').exists() and not (d / '.x.part').exists()


def test_a_kill_leaves_nothing_half(tmp_path):
    "Stopped in the middle, the demo leaves no output folder, and a second run with the same name works."
    env = os.environ | {'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    p = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'closp_nb.cli.main.main',
            'demo',
            '--out',
            'demo',
            '--n',
            '2000',
            '--offline',
            '--workers',
            '1',
            '--text',
            'tiny',
        ],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.time() + 120
    while not (tmp_path / '.demo.part').exists() and time.time() < end:
        time.sleep(0.2)
    time.sleep(2)
    assert p.poll() is None, 'the demo ended before it could be killed'
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert not (tmp_path / 'demo').exists()
    done = closp('demo', '--out', 'demo', '--text', 'tiny', *SMALL, cwd=tmp_path, cache=tmp_path / 'cache')
    assert (
        done.returncode == 0 and (tmp_path / 'demo' / 'results.csv').exists() and not (tmp_path / '.demo.part').exists()
    ), done.stderr[-2000:]


def test_a_library_that_is_missing_is_named_with_its_extra(tmp_path):
    code = "import sys; sys.modules['fastai'] = sys.modules['fastai.callback.core'] = None; from closp_nb import cli; cli.extra_of = lambda n: 'train' if n.startswith('fastai') else ''; sys.exit(cli.run(['demo', '--out', 'd', '--n', '24', '--offline']))"
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    refused(done, 'fastai', "pip install 'closp_nb[train]'")
    assert not list(tmp_path.iterdir())
