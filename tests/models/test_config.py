"Recipes are checked where they are made, and folders written by the first version still open."

import hashlib, json
from dataclasses import asdict, fields

import pytest
import torch
from safetensors.torch import load_file, save_file

from closp_nb.models.config import CHOICES, CLOSP_NB, LIMITS, PAPER, RECIPES, Recipe, read_recipe
from closp_nb.models.folder import fingerprint, load_model, save_model
from closp_nb.models.closp import new_model
from closp_nb.core import InputError
from closp_nb.models.geoclosp import GeoCLOSP

SMALL = CLOSP_NB.change(text_encoder='tiny')


def test_defaults_are_what_they_were():
    "The table in README was made with these."
    assert RECIPES == {'closp_nb': Recipe(), 'paper': PAPER}
    first = dict(
        towers='tiny',
        text='minilm',
        pooling='mean',
        place='',
        dim=384,
        scale=1 / 0.07,
        learn_scale=True,
        targets='coverage',
        joint=True,
        caption_augmentation=0.5,
        lr=2e-3,
        epochs=25,
        batch_size=32,
        wd=0.05,
        valid=0.1,
        seed=0,
    )
    assert {k: v for k, v in asdict(CLOSP_NB).items() if k in first} == first
    still = dict(
        place_weight=1.0,
        place_text=0.0,
        place_noise=0.0,
        place_drop=0.0,
        head=0,
        reader='head',
        loss='softmax',
        flips='dihedral',
        speckle=8.0,
        radiometric_jitter=0.0,
        body_lr=1.0,
        freeze=0,
        accumulate=1,
        patience=0,
        precision='float32',
    )
    assert asdict(CLOSP_NB) == dict(name='closp_nb') | first | still


@pytest.mark.parametrize('field', sorted(CHOICES))
def test_choices(field):
    for v in CHOICES[field]:
        assert getattr(CLOSP_NB.change(**{field: v}), field) == v
    for v in ('wrong', None, 3):
        with pytest.raises(InputError, match=', '.join(CHOICES[field])) as e:
            CLOSP_NB.change(**{field: v})
        assert '\n' not in str(e.value)


@pytest.mark.parametrize('field', [f.name for f in fields(Recipe) if f.type in (int, float)])
def test_limits(field):
    lo, hi = LIMITS.get(field, (0, float('inf')))
    kind = next(f.type for f in fields(Recipe) if f.name == field)
    assert getattr(CLOSP_NB.change(**{field: kind(lo)}), field) == lo
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
    assert CLOSP_NB.change(lr=1, logit_scale=1).scale == 1


@pytest.mark.parametrize('recipe', RECIPES.values(), ids=RECIPES)
def test_there_and_back(recipe):
    assert read_recipe(json.loads(json.dumps(asdict(recipe)))) == recipe


@pytest.mark.parametrize(
    'd,mend',
    [
        (dict(moon=1), "no field 'moon'; its fields are name"),
        (['lr'], 'table of names'),
        (None, 'table'),
        (dict(loss='triplet'), 'softmax, sigmoid'),
        (dict(batch_size=0), 'bs'),
    ],
)
def test_refuses(d, mend):
    with pytest.raises(InputError, match=mend):
        read_recipe(d)


# ---- folders of the first version: a recipe with text_head and without the fields that came later

LATER = {
    'head',
    'reader',
    'loss',
    'flips',
    'speckle',
    'weather',
    'body_lr',
    'freeze',
    'accumulate',
    'patience',
    'precision',
}


def write_first(model, folder, text_head):
    "A model folder as the first version wrote it; returns the fingerprint it gave."
    folder.mkdir()
    save_model(model, folder / 'now')
    d = json.loads((folder / 'now' / 'model.json').read_text())
    r = {k: v for k, v in d['recipe'].items() if k not in LATER}
    names = list(r)
    d['recipe'] = (
        {k: r[k] for k in names[: names.index('pooling') + 1]}
        | dict(text_head=text_head)
        | {k: r[k] for k in names[names.index('pooling') + 1 :]}
    )
    del d['fingerprint']
    w = {k: v.contiguous() for k, v in model.state_dict().items() if not k.startswith('text.')}
    h = hashlib.sha256(json.dumps(d, sort_keys=True).encode())
    for k, v in sorted(w.items()):
        h.update(k.encode() + v.numpy().tobytes())
    save_file(w, folder / 'weights.safetensors')
    (folder / 'model.json').write_text(json.dumps(d | dict(fingerprint=h.hexdigest()[:12])))
    return h.hexdigest()[:12]


@pytest.mark.parametrize('reader,place', [('head', False), ('frozen', False), ('head', True)])
def test_first_folders_open(tmp_path, reader, place):
    model = new_model(SMALL.change(text_finetune=reader)).eval()
    if place:
        model = GeoCLOSP.around(model)
    fp = write_first(model, tmp_path / 'old', reader == 'head')
    old = load_model(tmp_path / 'old')
    assert (
        old.recipe == SMALL.change(text_finetune=reader) and fingerprint(old) == fp
    )  # an index filled with it still knows it
    x = torch.randn(2, 2, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(old.encode_image('s1', x), model.encode_image('s1', x))
    save_model(old, tmp_path / 'again')
    assert fingerprint(load_model(tmp_path / 'again')) == fp
    with torch.no_grad():
        old.project['s1'].bias += 1
    assert fingerprint(old) != fp


def test_first_folder_that_was_changed(tmp_path):
    write_first(new_model(SMALL), tmp_path / 'old', True)
    d = json.loads((tmp_path / 'old' / 'model.json').read_text())
    d['recipe']['lr'] = 0.5
    (tmp_path / 'old' / 'model.json').write_text(json.dumps(d))
    with pytest.raises(InputError, match='changed after it was saved'):
        load_model(tmp_path / 'old')


@pytest.mark.parametrize('change', [dict(moon=1), dict(loss='triplet'), dict(targets='soft')])
def test_newer_recipe(tmp_path, change):
    save_model(new_model(SMALL), tmp_path / 'm')
    d = json.loads((tmp_path / 'm' / 'model.json').read_text())
    d['recipe'] |= change
    (tmp_path / 'm' / 'model.json').write_text(json.dumps(d))
    with pytest.raises(InputError, match='this version does not know .*; use the version that trained it') as e:
        load_model(tmp_path / 'm')
    assert '\n' not in str(e.value)


# ---- towers


def test_towers_by_sensor(tmp_path):
    m = new_model(SMALL.change(image_encoder='tiny+resnet18', head=10)).eval()
    assert {k: p.in_features for k, p in m.project.items()} == {'s1': 10, 's2': 10}
    save_model(m, tmp_path / 'm')
    assert fingerprint(load_model(tmp_path / 'm')) == fingerprint(m)
    x = torch.randn(1, 12, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / 'm').encode_image('s2', x), m.encode_image('s2', x))


@pytest.mark.parametrize('towers', ['tiny+tiny+tiny', 'tiny+none', '', 'resnet51'])
def test_wrong_towers(towers):
    with pytest.raises(InputError, match='use one of tiny') as e:
        new_model(SMALL.change(image_encoder=towers))
    assert '\n' not in str(e.value)


def test_a_reader_that_learned_is_stored(tmp_path):
    m = new_model(SMALL.change(text_finetune='full')).eval()
    assert m.text_head is None
    with torch.no_grad():
        m.text.mix += 0.01 * torch.randn_like(m.text.mix)
    save_model(m, tmp_path / 'm')
    again, blank = load_model(tmp_path / 'm'), new_model(m.recipe)
    with torch.no_grad():
        assert torch.equal(again.encode_text('crops'), m.encode_text('crops')) and not torch.equal(
            again.encode_text('crops'), blank.encode_text('crops')
        )
    assert fingerprint(again) == fingerprint(m) != fingerprint(blank)


def test_a_reader_that_learns_a_little_is_named(tmp_path):
    save_model(new_model(SMALL), tmp_path / 'm')
    assert not any(k.startswith('text.') for k in load_file(tmp_path / 'm' / 'weights.safetensors'))
