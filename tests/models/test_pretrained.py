"Encoders beside their originals; published weights written, damaged, refused and read."

import argparse
import hashlib
import json
import math
import pickle
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from closp_nb.models.loaders import normalize
from closp_nb.models.closp import CLOSP
from closp_nb.models.config import PAPER
from closp_nb.core import ClospError, DamagedError, IncompatibleError, InputError, NotFoundError
from closp_nb.sensors import S1, S2, S2L1C, S2RGB, SENSORS
from closp_nb.models.encoders import SCALINGS, image_encoder, image_encoders, scaling_map, text_encoder
from closp_nb.models.geoclosp import GeoCLOSP, location_encoder, spherical_harmonics
from closp_nb.models import pretrained as room
from closp_nb.models.pretrained import (
    WEIGHTS,
    fetch_weights,
    load_encoder,
    read_weights,
    weights_record,
    write_published_checkpoint,
)
from closp_nb.models.published import load_published, published_recipe, published_state, write_published_model

pytestmark = [pytest.mark.slow]


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    "On a busy machine a second thread is only waited for."
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def tiles(s, n=2, size=64, seed=0):
    "Believable pixels in the sensor's unit."
    g = torch.Generator().manual_seed(seed)
    return torch.as_tensor(s.mean)[:, None, None] + torch.as_tensor(s.std)[:, None, None] * torch.randn(
        n, len(s.bands), size, size, generator=g
    )


# ---- image encoders


@pytest.mark.parametrize('s,channels', [(S1, 2), (S2, 13), (S2L1C, 13), (S2RGB, 3)], ids=lambda o: getattr(o, 'key', o))
def test_channels_and_the_hole(s, channels):
    t = image_encoder('resnet18', s).eval()
    assert t.net.conv1.in_channels == channels and (t.hole == 10) == (s == S2)
    if s != S2:
        return
    t.net.conv1.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    seen, x = [], torch.randn(2, 12, 32, 32)
    for memory in (torch.contiguous_format, torch.channels_last):
        t(x.to(memory_format=memory))
        assert not seen[-1][:, 10].any() and torch.equal(
            seen[-1][:, [*range(10), 11, 12]], x
        )  # the sensor's scaling changes no bit
        assert seen[-1].is_contiguous(memory_format=memory)


@pytest.mark.parametrize('s', [S1, S2], ids=lambda s: s.key)
@pytest.mark.parametrize('name', SCALINGS)
def test_scalings_undo_ours(name, s):
    x, (gain, shift) = tiles(s).double(), scaling_map(s, name)
    got = normalize(x, s) * gain + shift
    mean, std = {
        'sensor': (s.mean, s.std),
        'paper': (0.0, 1.0),
        'ssl4eo': ((-12.59, -20.26), (5.26, 5.91)) if s == S1 else (0.0, 1.0),
    }[name]
    want = (x - torch.as_tensor(mean).double().expand(len(s.bands))[:, None, None]) / torch.as_tensor(
        std
    ).double().expand(len(s.bands))[:, None, None]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_an_encoder_remembers_its_scaling():
    a, b = image_encoder('resnet18', S2, scaling='paper').eval(), image_encoder('resnet18', S2).eval()
    b.load_state_dict(a.state_dict())
    x = torch.randn(2, 12, 32, 32)
    assert torch.equal(a(x), b(x)) and not torch.equal(b(x), b.rescale('sensor')(x))
    with pytest.raises(InputError, match='knows s1, s2, s2l1c, not s2rgb'):
        image_encoder('resnet18', S2RGB, scaling='paper')


@pytest.mark.parametrize(
    'name,dims',
    [
        ('resnet50:1000', (1000, 1000)),
        ('vit_small+vit_small:1000', (384, 1000)),
        ('vit_large', (1024, 1024)),
        ('mix', (2048, 384)),
        ('tiny:7', (7, 7)),
        ('tiny+resnet18', (192, 512)),
    ],
)
def test_dims_of_pairs(name, dims):
    with torch.device('meta'):
        t = image_encoders(name)
    assert list(t) == ['s1', 's2'] and tuple(o.dim for o in t.values()) == dims
    with torch.device('meta'):
        assert image_encoders(name, [S2])['s2'].dim == dims[1]


def test_head_argument():
    with torch.device('meta'):
        assert [o.dim for o in image_encoders('mix', head=1000).values()] == [1000, 1000]
        assert [o.dim for o in image_encoders('mix', head=0).values()] == [2048, 384]
        assert [o.dim for o in image_encoders('tiny:3+tiny', head=5).values()] == [3, 5]


@pytest.mark.parametrize('name', ['resnet51', 'resnet50+', '+', '', 'tiny+tiny+tiny', 'tiny,tiny', 'mix:1000'])
def test_wrong_names_list_the_right_ones(name):
    with pytest.raises(
        InputError, match=r'tiny, resnet18, resnet50, vit_small, vit_large, mix, or two names joined by \+'
    ) as e:
        image_encoders(name)
    assert '\n' not in str(e.value)


def test_odd_heads():
    for name in ('tiny:', 'tiny:x', 'tiny:-3', 'tiny:1:2'):
        with pytest.raises(InputError, match='write tiny:1000'):
            image_encoders(name)


@pytest.mark.parametrize('name', ['resnet50', 'vit_small'])
@pytest.mark.parametrize('s', [S1, S2], ids=lambda s: s.key)
def test_torchgeos_encoder_says_the_same(name, s):
    models = pytest.importorskip('torchgeo.models', reason='torchgeo is not installed; it would be the judge here')
    kind = models.ResNet50_Weights if name == 'resnet50' else models.ViTSmall16_Weights
    w = kind.SENTINEL1_GRD_CLOSP if s == S1 else kind.SENTINEL2_ALL_CLOSP
    torch.manual_seed(0)
    theirs = getattr(models, 'resnet50' if name == 'resnet50' else 'vit_small_patch16_224')(
        in_chans=w.meta['in_chans']
    ).eval()
    encoder = image_encoder(name, s, head=1000, scaling='paper').eval()
    encoder.net.load_state_dict(theirs.state_dict())  # strict: the same names and shapes
    x = tiles(s, size=120)
    raw = x if s == S1 else torch.cat([x[:, :10], torch.zeros(2, 1, 120, 120), x[:, 10:]], 1) * 10_000
    with torch.inference_mode():
        torch.testing.assert_close(encoder(normalize(x, s)), theirs(w.transforms(raw.clone())), rtol=1e-4, atol=1e-4)


# ---- text encoders


def minilm(**kw):
    try:
        return text_encoder('minilm', **kw)
    except ClospError as e:
        pytest.skip(str(e))


TEXTS = ['trees. water', 'crops', 'crops', 'built. crops']


@pytest.mark.parametrize('pooling', ['mean', 'cls'])
def test_text_encoders_agree_when_frozen(pooling):
    frozen, adapter, learner = (minilm(pooling=pooling, finetune=f) for f in ('none', 'adapter', 'full'))
    want = frozen(TEXTS)
    assert torch.equal(adapter(TEXTS), want) and torch.equal(learner.eval()(TEXTS), want)
    assert not any(p.requires_grad for o in (frozen, adapter) for p in o.parameters()) and not want.requires_grad


def test_full_finetuning_learns():
    t, before = minilm(finetune='full').train(), minilm()(TEXTS)
    opt = torch.optim.SGD([p for p in t.parameters() if p.requires_grad], 0.1)
    t(TEXTS).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in t.parameters() if p.requires_grad)
    opt.step()
    assert (t.eval()(TEXTS) - before).abs().max() > 1e-3  # and nothing was remembered


def test_loading_weights_clears_the_memory():
    t = minilm()
    before = t(TEXTS)
    t.load_state_dict({k: v * 1.01 if v.is_floating_point() else v for k, v in t.state_dict().items()})
    assert not torch.allclose(t(TEXTS), before, atol=1e-4)


def test_order_and_repeats_do_not_matter():
    t = minilm(finetune='full').eval()
    a, b = t(TEXTS), t(TEXTS[::-1]).flip(0)
    assert torch.equal(a, b) and torch.equal(a[1], a[2])


def test_tiny_text_encoder_can_learn():
    t = text_encoder('tiny', finetune='full')
    t(TEXTS).sum().backward()
    assert t.mix.grad.any() and torch.equal(t(TEXTS).detach(), text_encoder('tiny')(TEXTS)) and 'mix' in t.state_dict()
    with pytest.raises(InputError, match='use none, adapter, full'):
        text_encoder('tiny', finetune='some')


# ---- published files: records


def test_records_are_complete():
    for name, p in WEIGHTS.items():
        assert p.repo.count('/') == 1 and p.licence and p.source and p.scaling in SCALINGS, name
        assert p.revision == '' or len(p.revision) == 40 and set(p.revision) <= set('0123456789abcdef'), name
        if p.sensor in SENSORS:
            with torch.device('meta'):
                image_encoder(p.encoder, SENSORS[p.sensor])
    with pytest.raises(InputError, match='moco-s1-resnet50, .*satclip_l40'):
        weights_record('moco')


def enums(models):
    "Our records beside torchgeo's."
    kinds = {
        'resnet18': models.ResNet18_Weights,
        'resnet50': models.ResNet50_Weights,
        'vit_small': models.ViTSmall16_Weights,
        'vit_large': models.ViTLarge16_Weights,
    }
    method = {'moco': 'MOCO', 'mae': 'MAE', 'closp': 'CLOSP', 'geoclosp': 'GEOCLOSP'}
    for name, p in WEIGHTS.items():
        if p.sensor not in SENSORS or p.inside:
            continue
        yield (
            name,
            p,
            getattr(
                kinds[p.encoder.partition(':')[0]],
                f"{'SENTINEL1_GRD' if p.sensor == 's1' else 'SENTINEL2_ALL'}_{method[name.partition('-')[0]]}",
            ),
        )


def test_torchgeo_knows_the_same_files():
    models = pytest.importorskip('torchgeo.models', reason='torchgeo is not installed; it would be the judge here')
    seen = 0
    for name, p, w in enums(models):
        repo, _, rest = w.url.split('/', 3)[3].partition('/resolve/')
        assert (repo, *rest.split('/')) == (p.repo, p.revision, p.file), name
        assert w.meta['in_chans'] == (2 if p.sensor == 's1' else 13), name
        raw, s = tiles(SENSORS[p.sensor], size=224), SENSORS[p.sensor]
        gain, shift = scaling_map(s, p.scaling)
        norm = [t for t in getattr(w.transforms, 'children', lambda: [])() if type(t).__name__ == 'Normalize']
        ours = normalize(raw, s) * gain + shift
        theirs = raw if s == S1 else torch.cat([raw[:, :10], torch.zeros_like(raw[:, :1]), raw[:, 10:]], 1) * 10_000
        for t in norm:
            theirs = t(theirs.clone())
        torch.testing.assert_close(ours, theirs if s == S1 else theirs[:, [*range(10), 11, 12]], rtol=1e-4, atol=1e-4)
        seen += 1
    assert seen == 16


# ---- round trips

ROUND = ['moco-s2-resnet18', 'moco-s1-resnet50', 'moco-s2-vit_small', 'mae-full-s1-vit_small', 'closp-vs-s2']


@pytest.mark.parametrize('name', ROUND)
def test_round_trip(name, tmp_path):
    p, said = weights_record(name), []
    s, file = SENSORS[p.sensor], write_published_checkpoint(name, tmp_path)
    encoder, judge = image_encoder(p.encoder, s), image_encoder(p.encoder, s).net.eval()
    r = load_encoder(encoder, file, record=name, log=said.append)
    w = torch.load(file, weights_only=not p.inside)
    w = w[p.inside] if p.inside else w
    judge.load_state_dict({k: v for k, v in w.items() if not p.extra or not k.startswith(p.extra)})
    assert (
        len(r.loaded) == len(judge.state_dict())
        and not r.missing
        and not r.reshaped
        and bool(r.unexpected) == bool(p.extra)
    )
    assert (
        encoder.pretrained == [f'net.{k}' for k in judge.state_dict()]
        and p.licence in str(said[0])
        and ('not the published bytes' in str(said[0])) == bool(p.sha)
    )
    x = tiles(s, size=224)
    raw = x if s == S1 else torch.cat([x[:, :10], torch.zeros_like(x[:, :1]), x[:, 10:]], 1)
    if s == S1 and p.scaling == 'ssl4eo':
        raw = (raw - torch.tensor([-12.59, -20.26])[:, None, None]) / torch.tensor([5.26, 5.91])[:, None, None]
    with torch.inference_mode():
        want, got = judge(raw), encoder.eval()(normalize(x, s))
        assert (got - want).norm() <= 1e-5 * want.norm()
        encoder.load_state_dict(
            encoder.state_dict() | {'gain': torch.ones_like(encoder.gain), 'shift': torch.zeros_like(encoder.shift)}
        )
        assert torch.equal(
            encoder(x), judge(torch.cat([x[:, :10], torch.zeros_like(x[:, :1]), x[:, 10:]], 1) if s == S2 else x)
        )  # the weights themselves, to the bit


def test_seeds(tmp_path):
    a, b, c = (
        torch.load(write_published_checkpoint('moco-s2-resnet18', tmp_path / str(i), seed=s), weights_only=True)
        for i, s in enumerate((0, 0, 1))
    )
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(a['conv1.weight'], c['conv1.weight'])
    assert a['bn1.running_var'].min() > 0 and a['bn1.running_mean'].any()


def test_a_scaling_can_be_chosen(tmp_path):
    file, t = write_published_checkpoint('moco-s2-resnet18', tmp_path), image_encoder('resnet18', S2)
    load_encoder(t, file, record='moco-s2-resnet18', scaling='sensor', log=None)
    assert torch.equal(t.gain, torch.ones(12, 1, 1))
    t = image_encoder('resnet18', S2L1C)  # level 1C has a real B10
    load_encoder(t, file, record='moco-s2-resnet18', log=None)
    torch.testing.assert_close(normalize(tiles(S2L1C), S2L1C) * t.gain + t.shift, tiles(S2L1C), rtol=1e-5, atol=1e-5)


# ---- refusals


@pytest.fixture(scope='module')
def moco(tmp_path_factory):
    return write_published_checkpoint('moco-s2-resnet18', tmp_path_factory.mktemp('moco'))


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('foreign code ran')",))


def no(error, match, *args, **kw):
    with pytest.raises(ClospError, match=match) as e:
        load_encoder(*args, log=None, **kw)
    assert '\n' not in str(e.value) and type(e.value) is error


def test_refusals_leave_the_encoder_alone(moco, tmp_path):
    w, kind, t = torch.load(moco, weights_only=True), 'moco-s2-resnet18', image_encoder('resnet18', S2)
    before = {k: v.clone() for k, v in t.state_dict().items()}
    f = tmp_path / 'x.pth'

    def put(d):
        torch.save(d, f)
        return f

    no(
        IncompatibleError,
        '1 reshaped .conv1.weight .64, 12, 7, 7. for .64, 13, 7, 7.',
        t,
        put(w | {'conv1.weight': w['conv1.weight'][:, :12]}),
        record=kind,
    )
    no(IncompatibleError, '1 missing .bn1.bias', t, put({k: v for k, v in w.items() if k != 'bn1.bias'}), record=kind)
    no(IncompatibleError, '1 unexpected .neck.bias.*accept=', t, put(w | {'neck.bias': torch.zeros(2)}), record=kind)
    no(
        IncompatibleError,
        'nothing in it fits',
        t,
        put({f'module.{k}': v for k, v in w.items()}),
        record=kind,
        accept=['missing', 'unexpected'],
    )
    no(DamagedError, 'NaN or infinite', t, put(w | {'bn1.bias': torch.full((64,), torch.inf)}), record=kind)
    no(IncompatibleError, 'holds a Python object', t, put(w | {'trap': Trap()}), record=kind)
    no(IncompatibleError, 'holds no weights', t, put({'model': w}), record=kind)
    no(IncompatibleError, 'holds no weights', t, put(w | {'epoch': 3}), record=kind)
    no(IncompatibleError, 'holds no weights', t, put({}), record=kind)
    no(IncompatibleError, 'holds a list', t, put([w]), record=kind)
    f.write_bytes(moco.read_bytes()[:100_000])
    no(DamagedError, 'damaged', t, f, record=kind)
    f.write_bytes(b'')
    no(DamagedError, 'damaged', t, f, record=kind)
    no(NotFoundError, 'cannot be opened', t, tmp_path / 'none.pth', record=kind)
    no(NotFoundError, 'cannot be opened', t, tmp_path, record=kind)
    no(InputError, "Give record='...', one of moco", t, moco)
    no(InputError, "no published weights 'moco'", t, moco, record='moco')
    no(IncompatibleError, 'for s2, this encoder is for s1', image_encoder('resnet18', S1), moco, record=kind)
    no(IncompatibleError, 'does not fit this resnet50', image_encoder('resnet50', S2), moco, record=kind)
    no(InputError, "no scaling 'mine'", t, moco, record=kind, scaling='mine')
    no(IncompatibleError, 'no published weights fit a TinyImageEncoder', image_encoder('tiny', S2), moco, record=kind)
    assert all(torch.equal(v, before[k]) for k, v in t.state_dict().items()) and not t.pretrained


def test_accepted_differences_load_the_rest(moco, tmp_path):
    w, kind = torch.load(moco, weights_only=True), 'moco-s2-resnet18'
    w = {k: v for k, v in w.items() if k != 'bn1.bias'} | {
        'neck.bias': torch.zeros(2),
        'conv1.weight': torch.zeros(64, 3, 7, 7),
    }
    torch.save(w, tmp_path / 'x.pth')
    t = image_encoder('resnet18', S2)
    stem = t.net.conv1.weight.detach().clone()
    no(IncompatibleError, '1 reshaped', t, tmp_path / 'x.pth', record=kind, accept=['bn1.', 'unexpected'])
    r = load_encoder(t, tmp_path / 'x.pth', record=kind, accept=['bn1.', 'unexpected', 'reshaped'], log=None)
    assert (r.missing, r.unexpected, r.reshaped) == (['bn1.bias'], ['neck.bias'], ['conv1.weight']) and torch.equal(
        t.net.conv1.weight, stem
    )
    assert torch.equal(t.net.bn1.running_mean, w['bn1.running_mean']) and 'net.conv1.weight' not in t.pretrained


def test_other_number_types_are_reported(moco, tmp_path):
    torch.save(
        {k: v.half() if v.is_floating_point() else v for k, v in torch.load(moco, weights_only=True).items()},
        tmp_path / 'x.pth',
    )
    r = load_encoder(t := image_encoder('resnet18', S2), tmp_path / 'x.pth', record='moco-s2-resnet18', log=None)
    assert any('torch.float16' in n for n in r.notes) and t.net.conv1.weight.dtype == torch.float32


def test_a_command_line_is_the_only_guest(tmp_path):
    torch.save({'model': {'a': torch.ones(1)}, 'args': argparse.Namespace(lr=1)}, tmp_path / 'a.pth')
    assert read_weights(tmp_path / 'a.pth')['args'].lr == 1
    torch.save({'model': {'a': torch.ones(1)}, 'args': argparse.Namespace(lr=Trap())}, tmp_path / 'b.pth')
    with pytest.raises(IncompatibleError, match='holds a Python object'):
        read_weights(tmp_path / 'b.pth')
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'a.pth', weights_only=True)  # the permission ended with the call


# ---- the cache


def cached(cache, p, file):
    spot = cache / f"models--{p.repo.replace('/', '--')}" / 'snapshots' / p.revision / p.file
    spot.parent.mkdir(parents=True)
    shutil.copy(file, spot)
    return spot


def test_fetch_is_offline_until_told(moco, tmp_path, monkeypatch):
    import huggingface_hub

    asked, real = [], huggingface_hub.hf_hub_download

    def spy(*args, **kw):
        asked.append(kw)
        if kw.get('local_files_only'):
            return real(*args, **kw)
        raise ConnectionError('no route')

    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', spy)
    with pytest.raises(NotFoundError, match='not in the cache; say download=True'):
        fetch_weights('moco-s2-resnet18', cache=tmp_path)
    assert [k.get('local_files_only') for k in asked] == [True]
    with pytest.raises(NotFoundError, match='cannot be fetched .ConnectionError'):
        fetch_weights('moco-s2-resnet18', cache=tmp_path, download=True)
    for rev in ('', 'main', 'v1', 'abc123', 'g' * 40):
        with pytest.raises(InputError, match="give revision='...', 40"):
            fetch_weights('closp-rn', revision=rev, cache=tmp_path, download=True)
    p = weights_record('moco-s2-resnet18')
    spot = cached(tmp_path, p, moco)
    with pytest.raises(DamagedError, match='should begin with 59bfdff9; delete it|should begin with 59bfdff9'):
        fetch_weights('moco-s2-resnet18', cache=tmp_path)
    digits = hashlib.sha256(moco.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(WEIGHTS, 'mine', replace(p, file=f'mine-{digits}.pth'))
    spot.rename(spot.with_name(f'mine-{digits}.pth'))
    n, said = len(asked), []
    r = load_encoder(image_encoder('resnet18', S2), 'mine', cache=tmp_path, log=said.append)
    assert (
        len(r.loaded) == 120
        and len(r.notes) == 1
        and [k.get('local_files_only') for k in asked[n:]] == [True]
        and p.licence in str(said[-1])
    )


def test_location_encoder_from_the_cache(tmp_path, capsys):
    p = weights_record('satclip_l10')
    cached(tmp_path, p, write_published_checkpoint('satclip_l10', tmp_path / 'made'))
    t = location_encoder('satclip_l10', 'satclip_l10', cache=tmp_path).eval()
    w = torch.load(tmp_path / 'made' / p.file, weights_only=True)['state_dict']
    assert 'MIT' in capsys.readouterr().out and torch.equal(
        t.nnet.last_layer.weight, w['model.location.nnet.last_layer.weight'].float()
    )
    with pytest.raises(IncompatibleError, match='has 10 degrees, satclip_l40 has 40'):
        location_encoder('satclip_l40', 'satclip_l10', cache=tmp_path)
    with pytest.raises(NotFoundError, match='not in the cache'):
        location_encoder('satclip_l40', 'satclip_l40', cache=tmp_path)


# ---- whole models


@pytest.mark.parametrize('name,dims', [('closp-vs', (384, 1000)), ('geoclosp-rn', (1000, 1000))])
def test_a_whole_model_becomes_ours(name, dims, tmp_path, capsys):
    minilm()
    file = write_published_model(name, tmp_path)
    theirs, r = load_file(file), published_recipe(tmp_path)
    assert (r['location_encoder'] == 'satclip_l10') == ('geo' in name)
    recipe = PAPER.change(**r)
    model = CLOSP(
        image_encoders(r['image_encoder'], head=r['head']),
        text_encoder('minilm', pooling=r['text_pooling'], finetune=r['text_finetune']),
        recipe,
    )
    if 'geo' in name:
        model = GeoCLOSP.around(model, location_encoder(r['location_encoder']))
    assert tuple(t.dim for t in model.image_encoders.values()) == dims
    said = load_published(model, tmp_path)  # nothing is left over on either side
    assert all(len(t.pretrained) == len(t.net.state_dict()) for t in model.image_encoders.values())
    assert (
        not said.differences() and len(said.loaded) == len(model.state_dict()) and 'OpenRAIL' in capsys.readouterr().out
    )
    model.eval()
    assert model.logit_scale == 1
    with torch.inference_mode():
        for s in (S1, S2):  # their encode_image, with their names
            x, encoder = (
                tiles(s, size=224),
                image_encoder(weights_record(name).encoder.split('+')[0 if s == S1 else -1], s),
            )
            net = encoder.net.eval()
            net.load_state_dict(
                {k.removeprefix(f'{s.key}_encoder.'): v for k, v in theirs.items() if k.startswith(f'{s.key}_encoder.')}
            )
            dn = x if s == S1 else torch.cat([x[:, :10], torch.zeros_like(x[:, :1]), x[:, 10:]], 1)
            want = F.normalize(
                F.linear(net(dn), theirs[f'{s.key}_projection.weight'], theirs[f'{s.key}_projection.bias']), dim=1
            )
            torch.testing.assert_close(model.encode_image(s.key, normalize(x, s)), want, rtol=0, atol=2e-5)
        tok = model.text_encoder.tok(
            TEXTS, padding='max_length', truncation=True, max_length=64, return_tensors='pt'
        )  # as theirs pads
        bert = AutoModel.from_config(model.text_encoder.net.config).eval()
        bert.load_state_dict(
            {k.removeprefix('text_model.'): v for k, v in theirs.items() if k.startswith('text_model.')}
        )
        torch.testing.assert_close(
            model.encode_text(TEXTS), F.normalize(bert(**tok).last_hidden_state[:, 0], dim=1), rtol=0, atol=1e-5
        )
        if 'geo' in name:
            lonlat = torch.tensor([[12.5, 41.9], [-70.0, -33.0]])
            h = spherical_harmonics(lonlat.double(), 10)
            h[:, [n * n + n for n in range(10)]] *= math.pi
            n = {
                k.removeprefix('location_encoder.nnet.'): v.double()
                for k, v in theirs.items()
                if k.startswith('location_encoder')
            }
            h = (30 * F.linear(h, n['layers.0.weight'], n['layers.0.bias'])).sin()
            h = F.linear(
                F.linear(h, n['layers.1.weight'], n['layers.1.bias']).sin(),
                n['last_layer.weight'],
                n['last_layer.bias'],
            )
            want = F.normalize(
                F.linear(h.float(), theirs['location_projection.weight'], theirs['location_projection.bias']), dim=1
            )
            torch.testing.assert_close(model.encode_location(lonlat), want, rtol=0, atol=1e-4)


def test_a_whole_model_that_does_not_fit(tmp_path):
    minilm()
    file = write_published_model('geoclosp-rn', tmp_path)
    recipe = PAPER.change(**published_recipe(tmp_path)).change(location_encoder='')
    plain_closp = CLOSP(image_encoders('resnet50:1000'), text_encoder('minilm', pooling='cls'), recipe)
    before = plain_closp.image_projections['s1'].weight.detach().clone()
    with pytest.raises(
        IncompatibleError, match='does not fit this model: 9 unexpected .*make it after published_recipe, or load'
    ):
        load_published(plain_closp, tmp_path, log=None)
    assert torch.equal(plain_closp.image_projections['s1'].weight, before)
    assert (
        len(
            load_published(
                plain_closp, tmp_path, accept=['location_encoder.', 'location_projection.'], log=None
            ).unexpected
        )
        == 9
    )
    w = load_file(file)
    assert torch.equal(plain_closp.image_projections['s1'].weight, w['s1_projection.weight'])
    save_file({k: v for k, v in w.items() if k != 's2_projection.bias'}, file)
    with pytest.raises(IncompatibleError, match='1 missing .image_projections.s2.bias'):
        load_published(plain_closp, tmp_path, accept='unexpected', log=None)


def test_bad_whole_models(tmp_path):
    def no(error, match, folder):
        with pytest.raises(ClospError, match=match) as e:
            published_state(folder)
        assert '\n' not in str(e.value) and type(e.value) is error

    config = dict(
        vision_model_key='resnet50',
        s1_head_dim=0,
        s2_head_dim=0,
        projection_dim=384,
        use_location_encoder=False,
        logit_scale_init_value=1.0,
    )
    no(NotFoundError, 'config.json cannot be read', tmp_path)
    for c, error, message in [
        ('{', DamagedError, 'cannot be read'),
        ('[]', IncompatibleError, 'everything'),
        (
            json.dumps(config | {'vision_model_key': ['a']}),
            IncompatibleError,
            'vision_model_key.; known image encoders',
        ),
        (json.dumps({k: v for k, v in config.items() if k != 's1_head_dim'}), IncompatibleError, 's1_head_dim'),
    ]:
        (tmp_path / 'config.json').write_text(c)
        no(error, message, tmp_path)
    (tmp_path / 'config.json').write_text(json.dumps(config))
    no(NotFoundError, 'model.safetensors cannot be opened', tmp_path)
    (tmp_path / 'model.safetensors').write_bytes(b'junk')
    no(DamagedError, 'damaged', tmp_path)
    save_file({'logit_scale': torch.ones(1)}, tmp_path / 'model.safetensors')
    no(IncompatibleError, 'unknown names: logit_scale', tmp_path)
    no(InputError, 'whole models are closp-rn', 'moco-s2-resnet50')


def test_a_bug_is_no_damage(tmp_path, monkeypatch):
    (tmp_path / 'x.pth').write_bytes(b'x')
    monkeypatch.setattr(torch, 'load', lambda *args, **kw: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read_weights(tmp_path / 'x.pth')
    (tmp_path / 'x.safetensors').write_bytes(b'x')
    monkeypatch.setattr(room, 'load_file', lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read_weights(tmp_path / 'x.safetensors')


def test_broken_files_are_damaged_whatever_breaks(tmp_path):
    "Cuts and flipped bytes in both of torch's formats never show as anything else than an error of ours."
    g = torch.Generator().manual_seed(0)
    torch.save({'model': {'a': torch.ones(3)}, 'epoch': 3}, tmp_path / 'zip.pth')
    torch.save({'model': {'a': torch.ones(3)}}, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    for file in ('zip.pth', 'old.pth'):
        raw = (tmp_path / file).read_bytes()
        for i in range(150):
            at = int(torch.randint(len(raw), (1,), generator=g))
            new = raw[:at] + bytes([int(torch.randint(256, (1,), generator=g))]) + raw[at + 1 :] if i % 2 else raw[:at]
            (tmp_path / 'bad.pth').write_bytes(new)
            try:
                read_weights(tmp_path / 'bad.pth')
            except ClospError as e:
                assert isinstance(e, (DamagedError, IncompatibleError)) and '\n' not in str(e)


def test_writers_know_which_file_they_write(tmp_path):
    with pytest.raises(InputError, match='write it with write_published_model'):
        write_published_checkpoint('closp-rn', tmp_path)
    with pytest.raises(InputError, match='write it with write_published_checkpoint'):
        write_published_model('closp-rn-s1', tmp_path)


def test_what_was_loaded_is_what_learns_slowly_and_freezes(tmp_path):
    "The loader names tensors; the learner groups and freezes exactly those, and the random head stays fresh."
    from closp_nb.training.callbacks import FreezePretrained
    from closp_nb.training.learner import pretrained_params, param_groups

    model = CLOSP({'s2': image_encoder('resnet18:1000', S2)}, text_encoder('tiny'), PAPER.change(text_encoder='tiny'))
    assert not pretrained_params(model)
    load_encoder(
        model.image_encoders['s2'],
        write_published_checkpoint('moco-s2-resnet18', tmp_path),
        record='moco-s2-resnet18',
        log=None,
    )
    old, new = param_groups(model)
    names = {p: n for n, p in model.named_parameters()}
    assert len(old) == 60 and all(names[p].startswith('image_encoders.s2.net.') for p in old)
    assert {names[p] for p in new} == {
        'image_encoders.s2.net.fc.weight',
        'image_encoders.s2.net.fc.bias',
        'image_projections.s2.weight',
        'image_projections.s2.bias',
    }
    guard, model = FreezePretrained(-1), model.train()
    guard.learn = type('L', (), dict(model=model, epoch=0))()
    guard.before_fit()
    guard.before_train()
    assert not any(p.requires_grad for p in old) and all(p.requires_grad for p in new)
    norms = [m for m in model.image_encoders['s2'].modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(m.training for m in norms), 'BatchNorm stands still'
    guard.after_fit()
    assert all(p.requires_grad for p in old)
