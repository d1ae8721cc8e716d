"Training: refused catalogs, chunks that make a whole batch, callbacks that guard."

import json
import math

import pytest
import torch
from fastai.callback.core import Callback, CancelFitException

from closp_nb.models.loaders import PairedBatchSampler
from closp_nb.models.config import CLOSP_NB
from closp_nb.models.closp import closp_losses, new_model
from closp_nb.models.folder import fingerprint
from closp_nb.training.callbacks import EarlyStopping, recipe_callbacks, trainable_state
from closp_nb.data.catalog import Catalog
from closp_nb.core import DivergedError, IncompatibleError, InputError
from closp_nb.training.learner import closp_learner, fit, param_groups, grad_cache_forward
from closp_nb.training.checkpoint import Checkpoint
from closp_nb.training.distributed import DistributedContrastive
from closp_nb.training.train import LossLog, ProgressBar, RunOptions, train
from closp_nb.synthetic.world import build_world

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('plain')]
QUICK = CLOSP_NB.change(text_encoder='tiny', epochs=2, batch_size=4)


@pytest.fixture(scope='module')
def cat(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp('train') / 'world', 60, train_frac=0.6, geotiffs=0, progress=False)


def run(cat, recipe, **kw):
    return train(cat, recipe, progress=False, **kw)


# ---- chunks and whole batches


def test_chunks_are_the_whole(cat):
    "Two chunks of 4 are one batch of 8, in weights after two epochs."
    whole, a = run(cat, QUICK.change(image_encoder='plain', batch_size=8))
    parts, b = run(cat, QUICK.change(image_encoder='plain', batch_size=4, grad_cache_chunks=2))
    torch.testing.assert_close(torch.tensor(a.train_loss), torch.tensor(b.train_loss), rtol=1e-5, atol=1e-6)
    for (n, p), q in zip(whole.named_parameters(), parts.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4, msg=lambda m: f'{n}: {m}')


@pytest.mark.parametrize('size', [3, 5, 8, 16])
def test_chunks_of_any_size(size):
    model = new_model(QUICK.change(image_encoder='plain'))
    x = {k: dict(pixels=torch.randn(8, c, 40, 40), captions=['water', 'bare'] * 4) for k, c in (('s1', 2), ('s2', 12))}
    y = {k: torch.eye(12)[torch.arange(8) % 2] for k in x}
    grads = []
    for f in (model, lambda b: grad_cache_forward(model, b, size)):
        model.zero_grad()
        sum(closp_losses(f(x), y).values()).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


def test_sides_share_and_begin_anywhere():
    def side(**kw):
        s = PairedBatchSampler({'s1': 7, 's2': 20}, 6, augmentation=torch.Generator().manual_seed(3))
        for k, v in kw.items():
            setattr(s, k, v)
        return list(s)

    whole = side()
    for n in (1, 2, 3, 5):
        assert [sum(b, []) for b in zip(*(side(share=(r, n)) for r in range(n)))] == whole
    for f in range(len(whole) + 1):
        assert side(first=f) == whole[f:]
    assert side(epoch=1) != whole


# ---- guards


def test_groups_learn_at_their_pace(cat):
    recipe = QUICK.change(epochs=1, pretrained_lr_scale=0.0)
    model = new_model(recipe)
    model.image_encoders['s1'].loaded = True
    before = trainable_state(model)
    after = trainable_state(run(cat, recipe, model=model)[0])
    moved = {
        k for k, v in before.items() if v.is_floating_point() and 'running' not in k and not torch.equal(v, after[k])
    }
    assert (
        not [k for k in moved if k.startswith('image_encoders.s1')]
        and [k for k in moved if k.startswith('image_encoders.s2')]
        and 'image_projections.s1.weight' in moved
    )


@pytest.mark.parametrize('freeze', [-1, 2])
def test_frozen_stays(cat, freeze):
    recipe = QUICK.change(freeze_epochs=freeze)
    model = new_model(recipe)
    model.image_encoders['s1'].loaded = model.image_encoders['s2'].loaded = True
    before = trainable_state(model)
    model, _ = run(cat, recipe, model=model)
    assert {k for k, v in before.items() if not torch.equal(v, trainable_state(model)[k])} == {
        'image_projections.s1.weight',
        'image_projections.s1.bias',
        'image_projections.s2.weight',
        'image_projections.s2.bias',
        'text_adapter.weight',
        'text_adapter.bias',
        'log_logit_scale',
    }
    assert all(p.requires_grad for p in model.image_encoders.parameters())


def test_what_never_learned_stays_so_after_thawing(cat):
    model = new_model(QUICK)
    model.image_encoders['s1'].loaded = True
    p = next(model.image_encoders['s1'].parameters()).requires_grad_(False)
    kept = p.clone()
    run(cat, QUICK.change(freeze_epochs=1), model=model)
    assert torch.equal(p, kept) and not p.requires_grad


def test_best_comes_back(cat):
    recipe = QUICK.change(epochs=12, lr=2e-2, patience=1)
    model, table = run(cat, recipe)
    assert len(table) < 12
    same, _ = run(cat, recipe.change(patience=0), callbacks=[Stop(int(table.valid_loss.idxmin()))])
    assert fingerprint(replace_recipe(same, recipe)) == fingerprint(model)


def replace_recipe(model, recipe):
    model.recipe = recipe
    return model


class Stop(Callback):
    "End the fit after an epoch."

    order = 99

    def __init__(self, last):
        self.last_one = last

    def before_epoch(self):
        if self.epoch > self.last_one:
            raise CancelFitException


def test_bf16_is_near(cat):
    a, b = (run(cat, QUICK.change(precision=p))[1] for p in ('float32', 'bf16'))
    assert (a.train_loss - b.train_loss).abs().max() < 0.1 and not a.equals(b)


def test_freezing_needs_pretrained_layers():
    with pytest.raises(InputError, match='load weights'):
        recipe_callbacks(QUICK.change(freeze_epochs=-1))


# ---- refused


def test_refused(cat):
    f = cat.frame
    for frame, say in [
        (f.assign(split='gallery'), 'too few'),
        (f.assign(split=['gallery' if s == 's2' else 'train' for s in f.sensor]), 'Sentinel-2'),
        (f.assign(split='train', caption='water', labels=[['water']] * len(f)), 'one caption'),
    ]:
        with pytest.raises(InputError, match=say) as e:
            run(Catalog(frame), QUICK)
        assert '\n' not in str(e.value)
    with pytest.raises(IncompatibleError, match="no image encoder for 's2'"):
        run(cat, QUICK, model=new_model(QUICK, ('s1',)))


def test_nan_names_its_tiles(cat, tmp_path):
    learn = closp_learner(cat, QUICK, callbacks=[Poison()])
    learn.folder = tmp_path
    with pytest.raises(DivergedError, match='epoch 1, step 1') as e:
        fit(learn, QUICK)
    told = json.loads((tmp_path / 'not_a_number.json').read_text())
    assert '\n' not in str(e.value) and str(tmp_path / 'not_a_number.json') in str(e.value)
    assert told['ids']['s2'] == learn.xb[0]['s2']['ids']
    assert (told['epoch'], told['step'], told['training']) == (1, 1, True)
    assert all(p.isfinite().all() for p in learn.model.parameters())  # the bad step never reached the weights


class Poison(Callback):
    def before_batch(self):
        if self.epoch == 1 and self.iter == 1 and self.training:
            self.xb[0]['s1']['pixels'][0, 0, 0, 0] = math.nan


def test_some_came_with_weights(cat):
    "Only names in `pretrained` freeze; BatchNorm whose numbers all came stands still."
    model = new_model(QUICK)
    tower = model.image_encoders['s2']
    tower.pretrained = [n for n, _ in tower.named_parameters() if n.startswith('body.0')]
    assert len(param_groups(model)[0]) == len(tower.pretrained) == 3
    before = trainable_state(model)
    after = trainable_state(run(cat, QUICK.change(freeze_epochs=-1), model=model)[0])
    still = {k for k, v in before.items() if torch.equal(v, after[k])}
    assert {k for k in before if k.startswith('image_encoders.s2.body.0.')} == {
        k for k in still if k.startswith('image_encoders.s2.')
    }


def test_augmentation_follows_the_recipe(cat):
    learn = closp_learner(cat, QUICK.change(flips='none', speckle=0.0, radiometric_jitter=0.0))
    d = learn.dls.train.dataset.sets['s1']
    assert torch.equal(d[0, 1]['pixels'], d[0, 2]['pixels'])
    d = closp_learner(cat, QUICK).dls.train.dataset.sets['s1']
    assert not torch.equal(d[0, 1]['pixels'], d[0, 2]['pixels'])


def test_errors_keep_their_kind_and_bugs_stay_bugs(cat):
    "fastai puts a line before the message of a callback; errors of this package lose it, others are not caught."

    class Fails(Callback):
        def __init__(self, error):
            self.error = error

        def before_epoch(self):
            raise self.error

    for error in (InputError('a'), DivergedError('b'), IncompatibleError('c')):
        with pytest.raises(type(error)) as e:
            run(cat, QUICK, callbacks=[Fails(error)])
        assert type(e.value) is type(error) and str(e.value) in 'abc'
    with pytest.raises(ZeroDivisionError):
        run(cat, QUICK, callbacks=[Fails(ZeroDivisionError('bug'))])


def test_last_epoch_may_stay(cat):
    recipe = QUICK.change(epochs=4, lr=2e-2)
    states = []
    for restore in (True, False):
        stop = EarlyStopping(1, restore_best=restore)
        model, table = run(cat, recipe, callbacks=[stop])
        states.append(fingerprint(model))
        assert stop.best_loss == table.valid_loss.min()
    assert (states[0] == states[1]) == (table.valid_loss.idxmin() == len(table) - 1)


def test_callbacks_are_reached_by_name(cat):
    "fastai hides its own methods behind a callback of the same name; none of ours has one."
    recipe = QUICK.change(freeze_epochs=1, precision='bf16', patience=1)
    learn = closp_learner(cat, recipe)
    callbacks = [
        *recipe_callbacks(recipe),
        DistributedContrastive(),
        Checkpoint('x', recipe),
        LossLog('x'),
        ProgressBar(),
    ]
    for c in callbacks:
        assert not hasattr(learn, c.name), c.name
        learn.add_cb(c)
        assert getattr(learn, c.name) is c
    assert learn.loss_table.table is not None and learn.early_stopping.patience == 1


@pytest.mark.parametrize('bad', [dict(workers=-1), dict(processes=0), dict(checkpoint_steps=1.5)])
def test_options_are_checked(bad):
    with pytest.raises(InputError, match='whole number') as e:
        RunOptions(**bad)
    assert '\n' not in str(e.value)
