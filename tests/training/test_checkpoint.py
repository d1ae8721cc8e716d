"A killed run goes on to the bit; damaged checkpoints and those of other runs are told apart."

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fastai.callback.core import Callback

from closp_nb.models.config import CLOSP_NB
from closp_nb.models.folder import fingerprint, load_model
from closp_nb.data.catalog import Catalog
from closp_nb.core import MARK, ClospError, DamagedError, IncompatibleError, InputError
from closp_nb.models.encoders import find_minilm
from closp_nb.training.checkpoint import _hash, _packed, checkpoints, read_checkpoint
from closp_nb.training.train import RunOptions, train
from closp_nb.synthetic.world import build_world

pytestmark = [pytest.mark.slow, pytest.mark.kills]

ROOT = Path(__file__).resolve().parent.parent.parent


def every(n):
    return RunOptions(checkpoint_steps=n)


QUICK = CLOSP_NB.change(text_encoder='tiny', epochs=3, batch_size=4, patience=3, location_encoder='tiny')


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    p = tmp_path_factory.mktemp('resume') / 'world'
    build_world(p, 60, train_frac=0.6, geotiffs=0, progress=False).save(p.parent / 'cat.parquet')
    return p.parent / 'cat.parquet'


@pytest.fixture(scope='module')
def whole(world, tmp_path_factory):
    "An undisturbed run."
    out = tmp_path_factory.mktemp('whole') / 'run'
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield out, train(Catalog.load(world), QUICK, progress=False, folder=out, options=every(2))
    torch.set_num_threads(threads)


CHILD = """
import os, signal, sys
import torch
from fastai.callback.core import Callback
from closp_nb.models.config import CLOSP_NB
from closp_nb.data.catalog import Catalog
from closp_nb.training.train import RunOptions, train
torch.set_num_threads(1)
class Kill(Callback):
    order, n = 95, int(sys.argv[3])
    def after_batch(self):
        self.n -= 1
        if not self.n: os.kill(os.getpid(), signal.SIGKILL)
recipe = CLOSP_NB.change(text_encoder='tiny', epochs=3, batch_size=4, patience=3, location_encoder='tiny')
options = RunOptions(checkpoint_steps=int(sys.argv[4]), workers=int(sys.argv[5]))
cat = Catalog.load(sys.argv[1])
train(cat, recipe, progress=False, folder=sys.argv[2], resume=True, callbacks=[Kill()], options=options)
"""


def child(*args):
    return subprocess.Popen(
        [sys.executable, '-c', CHILD, *map(str, args)],
        env=os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        stderr=subprocess.PIPE,
        text=True,
    )


def same(a, b):
    assert (a / 'log.csv').read_bytes() == (b / 'log.csv').read_bytes()
    assert fingerprint(load_model(a / 'model')) == fingerprint(load_model(b / 'model'))


def test_killed_at_a_random_step(world, whole, tmp_path):
    "Killed twice, at random steps, with and without checkpoints inside epochs: log and weights are equal to the byte."
    out, rng = tmp_path / 'run', random.Random(os.environ.get('KILL_SEED', time.time_ns()))
    steps = [rng.randint(1, 7), rng.randint(1, 9)]
    print('killed after batches', steps)
    for n, checkpoint_steps, workers in zip(steps, (2, 1), (0, 1)):
        p = child(world, out, n, checkpoint_steps, workers)
        _, err = p.communicate(timeout=200)
        assert p.returncode in (-signal.SIGKILL, 0), err
    train(Catalog.load(world), QUICK, progress=False, folder=out, resume=True)
    same(out, whole[0])


class Halt(Callback):
    order = 95

    def __init__(self, n):
        self.left = n

    def after_batch(self):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize('n', [1, 2, 3, 4, 5, 7, 9])
def test_broken_off_anywhere(world, whole, tmp_path, n):
    "After batch n, training and validation counted; in the same process, whose random numbers have moved on."
    cat = Catalog.load(world)
    with pytest.raises(KeyboardInterrupt):
        train(cat, QUICK, progress=False, folder=tmp_path / 'run', options=every(1), callbacks=[Halt(n)])
    torch.rand(7)
    random.random()
    train(cat, QUICK, progress=False, folder=tmp_path / 'run', options=every(3), resume=True)
    same(tmp_path / 'run', whole[0])


def test_checkpoints_change_nothing(world, whole, tmp_path):
    "A run without checkpoints has the same losses."
    _, table = train(Catalog.load(world), QUICK, progress=False)
    assert table.equals(whole[1][1])


def installed():
    try:
        return bool(find_minilm())
    except ClospError:
        return False


@pytest.mark.skipif(not installed(), reason='the text model is not installed')
def test_what_was_read_is_not_read_again(world, tmp_path):
    "Padding makes a sentence depend on its company in the seventh digit."
    cat, recipe = Catalog.load(world), QUICK.change(text_encoder='minilm', epochs=2)
    model, table = train(cat, recipe, progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(cat, recipe, progress=False, folder=tmp_path / 'run', options=every(1), callbacks=[Halt(2)])
    again, now = train(cat, recipe, progress=False, folder=tmp_path / 'run', resume=True)
    assert now.equals(table) and fingerprint(again) == fingerprint(model)


# ---- damage


def copied(whole, tmp_path):
    return Path(shutil.copytree(whole[0], tmp_path / 'run'))


@pytest.mark.parametrize('harm', ['cut', 'flip', 'json', 'gone', 'number'])
def test_damaged_falls_back(world, whole, tmp_path, harm, capsys):
    out = copied(whole, tmp_path)
    f = checkpoints(out / 'checkpoints')[-1]
    data = (f / 'state.safetensors').read_bytes()
    if harm == 'cut':
        (f / 'state.safetensors').write_bytes(data[:1000])
    if harm == 'flip':
        (f / 'state.safetensors').write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    if harm == 'json':
        (f / 'state.json').write_text((f / 'state.json').read_text()[:-5])
    if harm == 'gone':
        (f / 'state.safetensors').unlink()
    if harm == 'number':
        (f / 'state.json').write_text((f / 'state.json').read_text().replace('"steps": 9', '"steps": 8'))
    with pytest.raises(DamagedError, match='damaged') as e:
        read_checkpoint(f)
    assert '\n' not in str(e.value)
    train(Catalog.load(world), QUICK, folder=out, resume=True)
    assert 'damaged; going on from the one before' in capsys.readouterr().out.replace('\n', ' ')
    same(out, whole[0])


def test_all_damaged_starts_again(world, whole, tmp_path):
    out = copied(whole, tmp_path)
    for f in checkpoints(out / 'checkpoints'):
        (f / 'state.json').write_text('null')
    train(Catalog.load(world), QUICK, progress=False, folder=out, resume=True)
    same(out, whole[0])


def test_a_pickle_is_not_opened(world, whole, tmp_path):
    out = copied(whole, tmp_path)
    f = checkpoints(out / 'checkpoints')[-1] / 'state.safetensors'
    torch.save(Bomb(), f)
    with pytest.raises(DamagedError, match='damaged'):
        read_checkpoint(f.parent)


class Bomb:
    def __reduce__(self):
        return (os.abort, ())


# ---- other runs


def test_foreign_checkpoints(world, whole, tmp_path):
    cat = Catalog.load(world)
    f = cat.frame.copy()
    f['caption'] = [c if i else 'water' for i, c in enumerate(f.caption)]
    f = f.assign(split=['train'] * len(f))
    for c, recipe, say in [
        (cat, QUICK.change(lr=1e-3), 'lr=0.002'),
        (cat, QUICK.change(epochs=4), 'epochs=3'),
        (Catalog(f), QUICK, 'other tiles'),
        (cat, QUICK.change(text_encoder='tiny', location_encoder=''), 'location_encoder'),
    ]:
        with pytest.raises(IncompatibleError, match=say) as e:
            train(c, recipe, progress=False, folder=whole[0], resume=True)
        assert '\n' not in str(e.value) and 'or choose another folder' in str(e.value)
    with pytest.raises(InputError, match='resume=True'):
        train(cat, QUICK, progress=False, folder=whole[0])
    with pytest.raises(InputError, match='folder'):
        train(cat, QUICK, progress=False, resume=True)


@pytest.mark.parametrize('name', ['json.loads', 'load'])
def test_a_bug_is_no_damage(whole, monkeypatch, name):
    def bug(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(f'closp_nb.training.checkpoint.{name}', bug)
    with pytest.raises(ZeroDivisionError):
        read_checkpoint(checkpoints(whole[0] / 'checkpoints')[-1])


def test_older_versions_are_refused(world, whole, tmp_path):
    "A sound checkpoint without the format's number, with other names inside."
    out = copied(whole, tmp_path)
    for f in checkpoints(out / 'checkpoints'):
        body = {k: v for k, v in json.loads((f / 'state.json').read_text()).items() if k not in ('hash', 'format')}
        body['who'] = body.pop('run')
        (f / 'state.json').write_text(json.dumps(dict(hash=_hash(_packed(body).encode()), **body)))
    with pytest.raises(IncompatibleError, match='another version') as e:
        train(Catalog.load(world), QUICK, progress=False, folder=out, resume=True)
    assert '\n' not in str(e.value)


def test_two_stay(whole):
    assert [p.name for p in checkpoints(whole[0] / 'checkpoints')] == ['0002-0000002', '0003-0000000']
    assert {p.name for p in whole[0].rglob('.*')} == {MARK}
