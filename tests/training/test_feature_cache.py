"Frozen encoders see a tile once, and nothing else changes."

from hashlib import blake2b

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback

from closp_nb.models.config import CLOSP_NB
from closp_nb.models.folder import fingerprint, load_model
from closp_nb.models.closp import new_model
from closp_nb.training.callbacks import recipe_callbacks
from closp_nb.data.catalog import Catalog
from closp_nb.sensors import SENSORS
from closp_nb.core import IncompatibleError, InputError
from closp_nb.training.feature_cache import CachedEncoder, encoder_features, encoder_key
from closp_nb.training.learner import closp_learner, fit
from closp_nb.training.train import RunOptions, train
from closp_nb.synthetic.world import build_world

pytestmark = [pytest.mark.slow]

HEADS = CLOSP_NB.change(text_encoder='tiny', freeze_epochs=-1, epochs=3, batch_size=4)


@pytest.fixture(scope='module')
def cat(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp('features') / 'world', 60, train_frac=0.6, geotiffs=0, progress=False)


def loaded(**kw):
    model = new_model(HEADS.change(**kw))
    for t in model.image_encoders.values():
        t.loaded = True
    return model


@pytest.mark.parametrize(
    'kw', [{}, dict(grad_cache_chunks=2), dict(location_encoder='tiny'), dict(caption_augmentation=1.0)]
)
def test_equal_to_the_slow_way(cat, kw):
    from closp_nb.models.geoclosp import GeoCLOSP, location_encoder

    recipe, out = HEADS.change(**kw), []
    for features in (False, True):
        torch.manual_seed(0)
        model = loaded(**kw)
        if recipe.model.location_encoder:
            model = GeoCLOSP.around(model, location_encoder('tiny'))
        if features:
            model, table = train(cat, recipe, progress=False, model=model, options=RunOptions(features=True))
        else:
            learn = closp_learner(cat, recipe, model, augmentation=False, callbacks=recipe_callbacks(recipe, model))
            model, table = learn.model, fit(learn, recipe)
        out.append((table, model.eval()))
    np.testing.assert_allclose(out[0][0], out[1][0], atol=1e-5)
    for (k, v), w in zip(out[0][1].state_dict().items(), out[1][1].state_dict().values()):
        torch.testing.assert_close(v, w, atol=1e-4, rtol=1e-4, msg=lambda m: f'{k}: {m}')


class Counting:
    "A catalog that counts what is read."

    def __init__(self, cat):
        self.frame, self.cat, self.n = cat.frame, cat, 0

    def __len__(self):
        return len(self.frame)

    def pixels(self, i):
        self.n += 1
        return self.cat.pixels(i)


def test_keys(cat, tmp_path):
    encoder, part = loaded().image_encoders['s1'], cat.where(sensor='s1')
    a = encoder_features(encoder, part, tmp_path)
    hashed = Catalog(part.frame.assign(hash=[''] * len(part)))
    hashed.frame['hash'] = [
        blake2b(np.ascontiguousarray(part.pixels(i), '<f4').tobytes(), digest_size=8).hexdigest()
        for i in range(len(part))
    ]
    told = Counting(hashed)
    assert np.array_equal(encoder_features(encoder, told, tmp_path), a) and told.n == 0  # not even read
    changed = Counting(Catalog(part.frame.assign(hash=['x'] + list(hashed.frame['hash'][1:]))))
    encoder_features(encoder, changed, tmp_path)
    assert changed.n == 1  # other pixels under the same name
    b = encoder_features(loaded(seed=1).image_encoders['s1'], part, tmp_path)
    assert len(list(tmp_path.glob('s1-*'))) == 2 and not np.allclose(a, b)  # another encoder, another store


@pytest.mark.parametrize('harm', ['rows', 'empty', 'tiles', 'number', 'fewer'])
def test_a_damaged_store_is_made_anew(cat, tmp_path, harm):
    encoder, part = loaded().image_encoders['s1'], cat.where(sensor='s1')
    a = encoder_features(encoder, part, tmp_path)
    at = next(tmp_path.glob('s1-*'))
    if harm == 'rows':
        (at / 'rows.npy').write_bytes(b'no array')
    if harm == 'empty':
        (at / 'rows.npy').write_bytes(b'')
    if harm == 'number':
        (at / 'tiles.json').write_text('5')
    if harm == 'tiles':
        (at / 'tiles.json').write_text('[')
    if harm == 'fewer':
        np.save(at / 'rows.npy', a[:5])
    assert np.array_equal(encoder_features(encoder, part, tmp_path), a)
    assert not list(tmp_path.glob('.*'))


def test_an_object_array_is_not_opened(cat, tmp_path):
    encoder, part = loaded().image_encoders['s1'], cat.where(sensor='s1')
    a = encoder_features(encoder, part, tmp_path)
    np.save(next(tmp_path.glob('s1-*')) / 'rows.npy', np.array([print], object), allow_pickle=True)
    assert np.array_equal(encoder_features(encoder, part, tmp_path), a)


def test_a_bug_is_no_damage(cat, tmp_path, monkeypatch):
    encoder, part = loaded().image_encoders['s1'], cat.where(sensor='s1')
    encoder_features(encoder, part, tmp_path)

    def bug(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr('closp_nb.training.feature_cache.np.load', bug)
    with pytest.raises(ZeroDivisionError):
        encoder_features(encoder, part, tmp_path)


class Halt(Callback):
    order = 95

    def before_batch(self):
        if (self.epoch, self.iter) == (1, 1):
            raise KeyboardInterrupt


def test_resumes_and_returns_the_encoders(cat, tmp_path):
    model, before = loaded(), encoder_key(loaded().image_encoders['s2'], SENSORS['s2'])
    shared = RunOptions(features=tmp_path / 'shared', checkpoint_steps=1)
    _, table = train(cat, HEADS, progress=False, model=loaded(), options=shared)
    run = dict(progress=False, folder=tmp_path / 'run')
    with pytest.raises(KeyboardInterrupt):
        train(cat, HEADS, model=model, options=shared, callbacks=[Halt()], **run)
    assert not any(isinstance(t, CachedEncoder) for t in model.image_encoders.values())  # also after an accident
    own = RunOptions(features=True)
    with pytest.raises(IncompatibleError, match='other encoders'):
        train(cat, HEADS, model=loaded(seed=1), resume=True, options=own, **run)
    model, again = train(cat, HEADS, model=loaded(), resume=True, options=own, **run)
    assert again.equals(table) and encoder_key(model.image_encoders['s2'], SENSORS['s2']) == before
    assert fingerprint(load_model(tmp_path / 'run' / 'model')) == fingerprint(model)


def test_refused(cat):
    with pytest.raises(InputError, match='needs a model'):
        train(cat, HEADS, progress=False, options=RunOptions(features=True))
    with pytest.raises(InputError, match="'s1' learns"):
        train(cat, HEADS, progress=False, model=new_model(HEADS), options=RunOptions(features=True))
