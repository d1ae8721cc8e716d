"Recipes are checked where they are made; folders of other versions are refused in one line."

import json
import os
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from closp_nb.core import ClospError, DamagedError, IncompatibleError, InputError, NotFoundError
from closp_nb.models import folder as room
from closp_nb.models.closp import new_model
from closp_nb.models.config import CHOICES, CLOSP_NB, GROUP_OF, GROUPS, LIMITS, PAPER, RECIPES, Recipe, read_recipe
from closp_nb.models.folder import fingerprint, load_model, save_model
from closp_nb.models.geoclosp import GeoCLOSP

SMALL = CLOSP_NB.change(text_encoder='tiny')
TYPES = {f.name: f.type for c in GROUPS.values() for f in fields(c)} | {'seed': int}


def test_defaults_are_what_they_were():
    "The table in README was made with these."
    assert RECIPES == {'closp_nb': Recipe(), 'paper': PAPER}
    assert asdict(CLOSP_NB) == dict(
        name='closp_nb',
        model=dict(
            image_encoder='tiny',
            head=0,
            text_encoder='minilm',
            text_pooling='mean',
            text_finetune='adapter',
            location_encoder='',
            dim=384,
            logit_scale=1 / 0.07,
            learn_logit_scale=True,
        ),
        data=dict(
            caption_augmentation=0.5,
            flips='dihedral',
            speckle=8.0,
            radiometric_jitter=0.0,
            location_jitter=0.0,
            location_drop=0.0,
            valid_frac=0.1,
        ),
        loss=dict(objective='softmax', targets='coverage', joint=True, location_weight=1.0, location_text_weight=0.0),
        optim=dict(
            lr=2e-3,
            pretrained_lr_scale=1.0,
            freeze_epochs=0,
            epochs=25,
            batch_size=32,
            grad_cache_chunks=1,
            weight_decay=0.05,
            patience=0,
            precision='float32',
        ),
        seed=0,
    )


def test_fields_have_one_group_each():
    names = [f.name for c in GROUPS.values() for f in fields(c)]
    assert len(names) == len(set(names)) == len(GROUP_OF) and set(CHOICES) <= set(names)
    assert set(LIMITS) <= {*names, 'seed'} and list(CLOSP_NB.flat()) == ['name', *names, 'seed']
    for name, group in GROUP_OF.items():
        assert CLOSP_NB.flat()[name] == getattr(getattr(CLOSP_NB, group), name)


def test_change_leaves_the_old_recipe_alone():
    new = CLOSP_NB.change(lr=1e-3, epochs=5, name='mine', seed=3)
    assert (new.optim.lr, new.optim.epochs, new.name, new.seed) == (1e-3, 5, 'mine', 3)
    assert CLOSP_NB == Recipe() and new.change(lr=2e-3, epochs=25, name='closp_nb', seed=0) == CLOSP_NB
    with pytest.raises(InputError, match="no field 'moon'; its fields are name, image_encoder, "):
        CLOSP_NB.change(moon=1)


@pytest.mark.parametrize('field', sorted(CHOICES))
def test_choices(field):
    for v in CHOICES[field]:
        assert CLOSP_NB.change(**{field: v}).flat()[field] == v
    for v in ('wrong', None, 3):
        with pytest.raises(InputError, match=', '.join(CHOICES[field])) as e:
            CLOSP_NB.change(**{field: v})
        assert '\n' not in str(e.value)


@pytest.mark.parametrize('field', [n for n, t in TYPES.items() if t in (int, float)])
def test_limits(field):
    lo, hi = LIMITS.get(field, (0, float('inf')))
    kind = TYPES[field]
    assert CLOSP_NB.change(**{field: kind(lo)}).flat()[field] == lo
    for v in (
        lo - 1,
        *([hi + 1] if hi < float('inf') else []),
        float('nan'),
        'x',
        None,
        True,
        *([1.5] if kind is int else []),
    ):
        with pytest.raises(InputError, match=f"recipe's {field} is"):
            CLOSP_NB.change(**{field: v})


def test_whole_numbers_are_numbers():
    assert CLOSP_NB.change(lr=1, logit_scale=1).model.logit_scale == 1


@pytest.mark.parametrize('recipe', RECIPES.values(), ids=RECIPES)
def test_there_and_back(recipe):
    assert read_recipe(json.loads(json.dumps(asdict(recipe)))) == recipe


@pytest.mark.parametrize(
    'd,mend',
    [
        (dict(moon=1), "no group 'moon'; it has name, seed, model, data, loss, optim"),
        (dict(optim=dict(moon=1)), "optim has no field 'moon'; its fields are lr"),
        (dict(model=dict(lr=1e-3)), "model has no field 'lr'"),
        (dict(towers='tiny', scale=1.0), "no group 'towers'"),
        (dict(optim=1e-3), 'optim is a table of names'),
        (['lr'], 'table of names'),
        (None, 'table'),
        (dict(loss=dict(objective='triplet')), 'softmax, sigmoid'),
        (dict(optim=dict(batch_size=0)), "batch_size is a whole number, 2 or more"),
        (dict(seed=-1), 'seed'),
    ],
)
def test_refuses(d, mend):
    with pytest.raises(InputError, match=mend):
        read_recipe(d)


# ---- model folders


def rewrite(folder, change, sign=True):
    "Change the description of a model folder, and sign it anew as another version would."
    d = json.loads((folder / 'model.json').read_text())
    change(d)
    if sign:
        del d['fingerprint']
        d['fingerprint'] = room._hash(d, load_file(folder / 'weights.safetensors'))
    (folder / 'model.json').write_text(json.dumps(d))


def refused(folder, kind, match):
    "A folder is refused in one line, by an error of exactly this kind."
    with pytest.raises(ClospError, match=match) as e:
        load_model(folder)
    assert type(e.value) is kind and '\n' not in str(e.value) and str(folder) in str(e.value)


@pytest.fixture
def saved(tmp_path):
    return save_model(new_model(SMALL), tmp_path / 'm')


def flat_recipe(d):
    "What the first version wrote: a recipe without groups, and no number of the format."
    del d['format']
    d['kind'] = d.pop('model_type')
    d['recipe'] = dict(name='closp_nb', towers='tiny', text='tiny', pooling='mean', text_head=True, scale=1 / 0.07)


@pytest.mark.parametrize('sign', [True, False])
def test_older_folders_are_refused(saved, sign):
    rewrite(saved, flat_recipe, sign)
    refused(saved, IncompatibleError, 'written by an older version; train the model again')


@pytest.mark.parametrize('made', [1, None, 'two'])
def test_other_formats_are_older(saved, made):
    rewrite(saved, lambda d: d.update(format=made))
    refused(saved, IncompatibleError, 'written by an older version; train the model again')


def test_newer_folders_are_refused(saved):
    rewrite(saved, lambda d: d.update(format=room.FORMAT + 1))
    refused(saved, IncompatibleError, 'written by a newer version; update closp_nb')


@pytest.mark.parametrize('location', [False, True])
@pytest.mark.parametrize('change', [dict(), dict(text_finetune='none'), dict(objective='sigmoid'), dict(lr=1)])
def test_saved_and_loaded(tmp_path, change, location):
    model = new_model(SMALL.change(**change)).eval()
    if location:
        model = GeoCLOSP.around(model).eval()
    save_model(model, tmp_path / 'm')
    again, x = load_model(tmp_path / 'm'), torch.randn(2, 2, 40, 40, generator=torch.Generator().manual_seed(0))
    assert again.recipe == model.recipe and fingerprint(again) == fingerprint(model)
    with torch.no_grad():
        assert torch.equal(again.encode_image('s1', x), model.encode_image('s1', x))
    save_model(again, tmp_path / 'again')
    for file in ('model.json', 'weights.safetensors'):
        assert (tmp_path / 'again' / file).read_bytes() == (tmp_path / 'm' / file).read_bytes()
    with torch.no_grad():
        again.image_projections['s1'].bias += 1
    assert fingerprint(again) != fingerprint(model)


def test_loading_draws_no_random_numbers(saved):
    state = torch.get_rng_state()
    load_model(saved)
    assert torch.equal(torch.get_rng_state(), state)


def test_geoclosp_folders_open_by_themselves(tmp_path):
    "In a process that has imported no more than `load_model`."
    geo = GeoCLOSP.around(new_model(SMALL).eval())
    save_model(geo, tmp_path / 'm')
    code = (
        'import sys; from closp_nb.models.folder import fingerprint, load_model; m = load_model(sys.argv[1]); '
        'print(type(m).__name__, fingerprint(m), tuple(m.encode_location((12.5, 41.9)).shape))'
    )
    env = {**os.environ, 'PYTHONPATH': str(Path(__file__).resolve().parents[2])}
    p = subprocess.run([sys.executable, '-c', code, tmp_path / 'm'], env=env, capture_output=True, text=True)
    assert p.stdout.strip() == f'GeoCLOSP {fingerprint(geo)} (1, 384)', p.stderr


def set_lr(d):
    d['recipe']['optim']['lr'] = 0.5


@pytest.mark.parametrize('change', [set_lr, lambda d: d['sensors']['s1'].update(mean=[0.0, 0.0])])
def test_changed_after_it_was_saved(saved, change):
    rewrite(saved, change, sign=False)
    refused(saved, DamagedError, 'changed after it was saved')


def test_changed_weights(saved):
    w = load_file(saved / 'weights.safetensors')
    w['log_logit_scale'] = w['log_logit_scale'] + 1
    save_file(w, saved / 'weights.safetensors')
    refused(saved, DamagedError, 'changed after it was saved')


@pytest.mark.parametrize(
    'group,change',
    [
        (None, dict(moon=1)),
        ('loss', dict(objective='triplet')),
        ('loss', dict(targets='soft')),
        ('optim', dict(moon=1)),
    ],
)
def test_unknown_recipes(saved, group, change):
    rewrite(saved, lambda d: (d['recipe'][group] if group else d['recipe']).update(change))
    refused(saved, IncompatibleError, 'this version does not know .*; use the version that trained it')


@pytest.mark.parametrize(
    'change,match',
    [
        (lambda d: d.update(model_type='clip'), "holds a 'clip'; this version knows closp, geoclosp"),
        (lambda d: d['sensors'].update(s3=d['sensors']['s2']), "trained on a sensor 's3'"),
        (
            lambda d: d['sensors']['s1']['bands'].reverse(),
            'trained on s1 bands VH, VV in dB; this version reads VV, VH',
        ),
        (lambda d: d['sensors']['s1'].update(unit='linear'), 'in linear; this version reads'),
        (lambda d: d['sensors']['s1'].update(mean=[0.0, 0.0]), 'has other labels or scaling than this version'),
        (lambda d: d['labels'].append('lava'), 'has other labels or scaling than this version'),
        (
            lambda d: d['recipe']['optim'].pop('lr'),
            'has a recipe that lacks fields of this version; train the model again',
        ),
    ],
)
def test_other_versions(saved, change, match):
    rewrite(saved, change)
    refused(saved, IncompatibleError, match)


def test_weights_that_do_not_fit(saved):
    w = load_file(saved / 'weights.safetensors')
    for wrong in ({k: v for k, v in w.items() if 'adapter' not in k}, w | {'more': torch.zeros(2)}):
        save_file(wrong, saved / 'weights.safetensors')
        rewrite(saved, lambda d: None)
        refused(saved, DamagedError, 'does not fit its own description')


def test_broken_folders(saved, tmp_path):
    refused(tmp_path / 'nowhere', NotFoundError, 'model.json is missing')
    text, raw = (saved / 'model.json').read_text(), (saved / 'weights.safetensors').read_bytes()
    for bad in ('', text[:100], '[]', 'null', '{}', '\0'):
        (saved / 'model.json').write_text(bad)
        refused(saved, DamagedError, 'damaged|incomplete')
    (saved / 'model.json').write_text(text)
    for n in (0, 5, 5000):
        (saved / 'weights.safetensors').write_bytes(raw[:n])
        refused(saved, DamagedError, 'damaged')
    (saved / 'weights.safetensors').unlink()
    refused(saved, DamagedError, 'damaged')


def test_a_bug_is_no_damage(saved, monkeypatch):
    monkeypatch.setattr(room, 'load_file', lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_model(saved)


def test_a_taken_name(saved):
    with pytest.raises(InputError, match='overwrite=True'):
        save_model(new_model(SMALL), saved)
    save_model(new_model(SMALL.change(seed=1)), saved, overwrite=True)
    assert load_model(saved).recipe.seed == 1


# ---- encoders


def test_encoders_by_sensor(tmp_path):
    m = new_model(SMALL.change(image_encoder='tiny+resnet18', head=10)).eval()
    assert {k: p.in_features for k, p in m.image_projections.items()} == {'s1': 10, 's2': 10}
    save_model(m, tmp_path / 'm')
    assert fingerprint(load_model(tmp_path / 'm')) == fingerprint(m)
    x = torch.randn(1, 12, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / 'm').encode_image('s2', x), m.encode_image('s2', x))


@pytest.mark.parametrize('name', ['tiny+tiny+tiny', 'tiny+none', '', 'resnet51'])
def test_wrong_encoders(name):
    with pytest.raises(InputError, match='use one of tiny') as e:
        new_model(SMALL.change(image_encoder=name))
    assert '\n' not in str(e.value)


def test_a_text_encoder_that_learned_is_stored(tmp_path):
    m = new_model(SMALL.change(text_finetune='full')).eval()
    assert m.text_adapter is None
    with torch.no_grad():
        m.text_encoder.mix += 0.01 * torch.randn_like(m.text_encoder.mix)
    save_model(m, tmp_path / 'm')
    again, blank = load_model(tmp_path / 'm'), new_model(m.recipe)
    with torch.no_grad():
        assert torch.equal(again.encode_text('crops'), m.encode_text('crops')) and not torch.equal(
            again.encode_text('crops'), blank.encode_text('crops')
        )
    assert fingerprint(again) == fingerprint(m) != fingerprint(blank)


def test_a_frozen_text_encoder_is_named(tmp_path):
    save_model(new_model(SMALL), tmp_path / 'm')
    assert not any(k.startswith('text_encoder.') for k in load_file(tmp_path / 'm' / 'weights.safetensors'))
