"""Kill commands at random moments, by a signal that cannot be caught, and call them again.

Nothing finished may be lost, nothing half may be left.

python tests/kills.py KILLS [JOB ...]      # kills for each job; ends with what was found
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from closp_nb.data.catalog import Catalog, open_catalog  # noqa: E402, this checkout comes first
from closp_nb.models.closp import new_model  # noqa: E402
from closp_nb.models.config import CLOSP_NB  # noqa: E402
from closp_nb.models.folder import fingerprint, load_model, save_model  # noqa: E402
from closp_nb.models.inference import embed  # noqa: E402
from closp_nb.search.index import Index  # noqa: E402
from closp_nb.synthetic.archives import ARCHIVE_WRITERS  # noqa: E402
from closp_nb.synthetic.world import build_world  # noqa: E402

ENV = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1'}


def start(argv):
    return subprocess.Popen(
        [sys.executable, '-m', 'closp_nb.cli.main', *map(str, argv)],
        env=ENV,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(p, rng):
    "End a command: all its processes, or the main process alone, by a signal that it can catch or not."
    if rng.random() < 0.5:
        os.killpg(p.pid, signal.SIGKILL)
    else:
        p.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
    p.communicate()


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).rglob('*')) if p.is_file()}


def corpus(out):
    assert len(Catalog.load(out / 'catalog.parquet')), 'an empty corpus'
    return files(out)


def run(out):
    return fingerprint(load_model(out / 'model')), (out / 'log.csv').read_bytes()


def vectors(out):
    return {k: v for k, v in files(out).items() if k.endswith('.npy')}


def index(out):
    ix = Index.load(out)
    s, r = ix.search(np.eye(3, ix.about['dim'], dtype='f4'), 5)
    return len(ix), s.tolist(), ix.cat.table.id.iloc[r.ravel()].tolist()


def prepare(d):
    "Name -> (command, what is left, how to look at it: equal for equal results)."
    for key in ('mmflood', 'quakeset', 'bigearthnet-v2'):
        ARCHIVE_WRITERS[key](d / key)
    cat = build_world(d / 'world', 160, train_frac=0.5, geotiffs=0, progress=False)
    more = build_world(d / 'more', 120, seed=1, geotiffs=0, progress=False)
    build_world(d / 'labelled', 240, seed=2, train_frac=0.9, geotiffs=0, progress=False)
    assert not set(more.table.id) & set(cat.table.id)
    model = new_model(CLOSP_NB.change(text_encoder='tiny')).eval()
    save_model(model, d / 'model')
    Index.build(model, cat, model_folder=d / 'model', progress=False).save(d / 'old')

    def vectors_of(out):
        return ['embed', d / 'world', '--model', d / 'model', '--out', out, '--part', 8]

    def train(out):
        change = 'text_encoder=tiny,epochs=3,batch_size=8'
        return ['train', d / 'world', '--out', out, '--change', change, '--checkpoint_steps', 3]

    command = [sys.executable, '-m', 'closp_nb.cli.main', *map(str, vectors_of(d / 'vectors'))]
    subprocess.run(command, env=ENV, check=True, capture_output=True)
    folders = [d / 'mmflood', d / 'quakeset', d / 'bigearthnet-v2']
    return {
        'corpus': (lambda out: ['corpus', 'build', out, *folders, '--workers', 1], corpus),
        'train': (train, run),
        'embed': (vectors_of, vectors),
        'index': (lambda out: ['index', d / 'vectors', '--model', d / 'model', '--out', out], index),
    }


def attack(name, command, look, kills, d, rng):
    "One job: once in peace, then killed so many times and called again."
    begun = time.time()
    calm = start(command(d / f'{name}-calm'))
    said = calm.communicate()[1]
    if calm.returncode:
        return [f'fails in peace: {said[-300:]}']
    took, want, out, found, done, finished = time.time() - begun, look(d / f'{name}-calm'), d / name, [], 0, 0
    while done < kills:
        again = ['--resume'] if name == 'train' and (out / 'checkpoints').exists() else []
        p = start([*command(out), *again])
        try:
            said = p.communicate(timeout=rng.uniform(0.2, 1.1) * took)[1]
        except subprocess.TimeoutExpired:
            end(p, rng)
            done += 1
        else:
            finished += 1
            if p.returncode:
                found.append(f'kill {done}: called again it says {said[-300:]}')
            elif look(out) != want:
                found.append(f'kill {done}: another result')
            out = d / f'{name}{finished}'  # begin anew
            continue
        if name in ('corpus', 'index') and out.exists():  # these have their name only when they are whole
            try:
                whole = look(out) == want
            except Exception as e:
                whole = found.append(f'kill {done}: {type(e).__name__} {e}')
            if whole is False:
                found.append(f'kill {done}: half a result under its name')
            out = d / f'{name}-{done}'
    p = start([*command(out), *(['--resume'] if name == 'train' and (out / 'checkpoints').exists() else [])])
    said = p.communicate()[1]
    if p.returncode:
        found.append(f'at last: {said[-300:]}')
    elif look(out) != want:
        found.append('at last: another result')
    return tell(f'{name}: {took:.1f} s in peace, {done} kills, {finished} runs that were quicker', found)


def adding(kills, d, rng):
    "`closp add`, `remove` and `calibrate` on an index that people ask: it is the old one or the new one."
    old, found, quick, done = len(Index.load(d / 'old')), [], 0, 0
    ids = open_catalog(d / 'more', progress=False).table.id
    (d / 'ids.csv').write_text('\n'.join(['id', *ids]))
    more, less, curve = ['add', d / 'old', d / 'more'], ['remove', d / 'old', d / 'ids.csv'], ['calibrate', d / 'old']
    begun = time.time()
    start(more).communicate()
    took, whole = time.time() - begun, len(Index.load(d / 'old'))
    assert whole == old + len(ids)
    while done < kills:
        was = Index.load(d / 'old').about
        words = [*curve, d / 'labelled'] if rng.random() < 0.3 else more if was['count'] == old else less
        p = start(words)
        try:
            said = p.communicate(timeout=rng.uniform(0.3, 1) * took)[1]
        except subprocess.TimeoutExpired:
            end(p, rng)
            done += 1
        else:
            quick += 1
            if p.returncode:
                found.append(f'kill {done}: {words[0]} says {said[-300:]}')
        try:
            n, now = index(d / 'old')[0], Index.load(d / 'old').about
        except Exception as e:
            found.append(f'kill {done}: {type(e).__name__} {e}')
            break
        if n not in (old, whole) or words[0] == 'calibrate' and n != was['count']:
            found.append(f'kill {done}: {n} tiles, {old} or {whole} expected')
        if 'calibration' in was and 'calibration' not in now:
            found.append(f'kill {done}: the calibration is lost')
    return tell(f'add, remove, calibrate: {took:.1f} s in peace, {done} kills, {quick} runs that were quicker', found)


def two(rounds, d, rng):
    "Two writers at one moment on one index, one of them killed at times: nothing that was said to be done is lost."
    cat, found, done, refused, killed = open_catalog(d / 'more', progress=False), [], 0, 0, 0
    model, shares = load_model(d / 'model'), [cat.take(range(5)), cat.take(range(5, 10))]
    truth = dict(zip(cat.table.id, embed(model, cat, progress=False)))
    for n, c in enumerate(shares):
        c.save(d / f'share{n}.parquet', overwrite=True)
    world = open_catalog(d / 'world', progress=False)
    old = Index.build(model, world, model_folder=d / 'model', progress=False)
    for i in range(rounds):
        ix = d / f'two{i}'
        old.save(ix)
        writers = [start(['add', ix, d / f'share{n}.parquet']) for n in range(2)]
        if rng.random() < 0.3:
            time.sleep(rng.uniform(2, 6))
            end(writers[0], rng)
            killed += 1
        codes = [p.wait() for p in writers]
        now = Index.load(ix, whole=True)
        ids, z = now.cat.table.id.tolist(), now.vectors(range(len(now)))
        for n, c in enumerate(shares):
            if codes[n] == 0 and not set(c.table.id) <= set(ids):
                found.append(f'round {i}: writer {n} said that it was done, and its tiles are not there')
        if any(k in truth and not np.allclose(truth[k], v, atol=1e-4) for k, v in zip(ids, z)):
            found.append(f'round {i}: a tile has the vector of another')
        done += codes == [0, 0]
        refused += 1 in codes
    return tell(f'two writers: {rounds} rounds, {done} both done, {refused} refused one, {killed} with a kill', found)


def tell(what, found):
    print(f'{what}, {len(found)} findings', *found, sep='\n   ', flush=True)
    return found


if __name__ == '__main__':
    kills, names, rng = int(sys.argv[1]), sys.argv[2:], random.Random(0)
    with tempfile.TemporaryDirectory() as tmp:
        d = Path(tmp)
        jobs = prepare(d)
        bad = [n for n in names or jobs if n in jobs and attack(n, *jobs[n], kills, d, rng)]
        for name, job in (('add', adding), ('two', two)):
            if not names or name in names:
                bad += [name] * bool(job(kills, d, rng))
    sys.exit(bool(bad))
