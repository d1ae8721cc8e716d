"""What must also hold on a GPU: `pytest tests/training/test_gpu.py`, on its own.

A run of all tests hides the GPUs (see conftest.py): the others compare runs of the processor to the bit.
"""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback

from closp_nb.models.config import CLOSP_NB
from closp_nb.models.inference import on_device, encode_numpy
from closp_nb.models.closp import closp_losses, new_model
from closp_nb.models.folder import save_model
from closp_nb.core import ClospError, DivergedError, InputError
from closp_nb.models.encoders import find_minilm
from closp_nb.training.feature_cache import encoder_features
from closp_nb.models.geoclosp import GeoCLOSP, spherical_harmonics
from closp_nb.search.index import Index
from closp_nb.models.inference import embed
from closp_nb.training.learner import grad_cache_forward
from closp_nb.models.losses import TARGETS, joint_loss, pair_loss
from closp_nb.training.distributed import launch
from closp_nb.search.searcher import Searcher
from closp_nb.training.train import RunOptions, train
from closp_nb.synthetic.world import build_world

GPU = 'cuda'
pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason='no NVIDIA GPU, or it is hidden from a run of all tests: run pytest tests/training/test_gpu.py on its own',
)
QUICK = CLOSP_NB.change(text_encoder='tiny', epochs=3, batch_size=8)


@pytest.fixture(scope='module')
def cat(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp('gpu') / 'world', 120, train_frac=0.5, geotiffs=0, progress=False)


@pytest.fixture
def on_processor(monkeypatch):
    "Run a function as if there were no GPU."

    def f(g, *args, **kw):
        with monkeypatch.context() as m:
            m.setattr('closp_nb.models.inference.best_device', lambda: torch.device('cpu'))
            m.setattr('closp_nb.training.learner.best_device', lambda: torch.device('cpu'))
            return g(*args, **kw)

    return f


def home(model):
    return {p.device.type for p in model.parameters()}


def installed():
    try:
        return bool(find_minilm())
    except ClospError:
        return False


def one_line(e, *words):
    assert '\n' not in str(e.value)
    for w in words:
        assert w in str(e.value), str(e.value)


# ---- training


class Spy(Callback):
    "Where steps happen."

    order = 50

    def __init__(self):
        self.seen = set()

    def before_batch(self):
        self.seen |= (
            {v.device.type for b in self.xb[0].values() for v in b.values() if torch.is_tensor(v)}
            | {v.device.type for v in self.yb[0].values()}
            | home(self.model)
        )


@pytest.mark.parametrize('encoder', ['tiny', 'resnet18'])
@pytest.mark.parametrize('precision', ['float32', 'bf16'])
def test_trains(cat, on_processor, precision, encoder):
    spy, recipe = Spy(), QUICK.change(precision=precision, image_encoder=encoder, epochs=12 if encoder == 'tiny' else 1)
    model, table = train(cat, recipe, progress=False, callbacks=[spy])
    assert spy.seen == {GPU} and home(model) == {'cpu'}
    if encoder == 'tiny':
        assert table.train_loss.iloc[-1] < table.train_loss.iloc[0]
    _, same = on_processor(train, cat, recipe, progress=False)
    assert abs(table.train_loss[0] - same.train_loss[0]) < (0.02 if precision == 'float32' else 0.1), (table, same)


@pytest.mark.parametrize(
    'change',
    [
        dict(objective='sigmoid', targets='jaccard'),
        dict(location_encoder='tiny', location_drop=0.3, location_jitter=5000.0, location_text_weight=0.5),
        dict(batch_size=4, grad_cache_chunks=2, location_encoder='tiny', location_drop=0.3),
        dict(text_finetune='full'),
        dict(patience=1),
    ],
    ids=str,
)
def test_every_kind_of_training(cat, change):
    spy = Spy()
    model, table = train(cat, QUICK.change(**change), progress=False, callbacks=[spy])
    assert spy.seen == {GPU} and home(model) == {'cpu'} and np.isfinite(table.to_numpy()).all()


@pytest.mark.skipif(not installed(), reason='the text model is not installed')
@pytest.mark.parametrize('finetune', ['adapter', 'full'])
def test_sentences(cat, finetune):
    model, table = train(cat, QUICK.change(text_encoder='minilm', text_finetune=finetune, epochs=1), progress=False)
    assert np.isfinite(table.to_numpy()).all()
    texts = ['flooded area near water', 'crops', 'crops', 'a burned forest']
    here = encode_numpy(model.encode_text, texts)
    model.text_encoder.read = {}
    with on_device(model, GPU):
        np.testing.assert_allclose(encode_numpy(model.encode_text, texts), here, atol=1e-3)


class Halt(Callback):
    order = 95

    def __init__(self, n):
        self.left = n

    def after_batch(self):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize('precision', ['float32', 'bf16'])
@pytest.mark.parametrize('n', [2, 7])
def test_resumes(cat, tmp_path, n, precision):
    "Random numbers of the GPU (dropped and jittered locations) go on as well."
    recipe = QUICK.change(location_encoder='tiny', location_drop=0.5, location_jitter=1e6, precision=precision)
    _, whole = train(cat, recipe, progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(
            cat,
            recipe,
            progress=False,
            folder=tmp_path / 'run',
            options=RunOptions(checkpoint_steps=1),
            callbacks=[Halt(n)],
        )
    torch.rand(7, device=GPU)
    _, table = train(
        cat, recipe, progress=False, folder=tmp_path / 'run', options=RunOptions(checkpoint_steps=3), resume=True
    )
    print('largest difference after resuming:', (whole - table).abs().max().max())
    np.testing.assert_allclose(table.to_numpy(), whole.to_numpy(), rtol=1e-4)


def test_goes_on_without_a_gpu(cat, tmp_path, on_processor):
    with pytest.raises(KeyboardInterrupt):
        train(
            cat,
            QUICK,
            progress=False,
            folder=tmp_path / 'run',
            options=RunOptions(checkpoint_steps=1),
            callbacks=[Halt(5)],
        )
    _, table = on_processor(train, cat, QUICK, progress=False, folder=tmp_path / 'run', resume=True)
    assert len(table) == 3


class Poison(Callback):
    def before_batch(self):
        if self.epoch == 1 and self.training:
            self.xb[0]['s1']['pixels'][0, 0, 0, 0] = math.nan


def test_nan_names_its_tiles(cat, tmp_path):
    with pytest.raises(DivergedError) as e:
        train(cat, QUICK, progress=False, folder=tmp_path / 'run', callbacks=[Poison()])
    one_line(e, 'not_a_number.json')
    assert len(json.loads((tmp_path / 'run' / 'not_a_number.json').read_text())['ids']['s1']) == 8


@pytest.mark.skipif(torch.cuda.device_count() != 1, reason='asks what one GPU answers')
def test_more_processes_than_gpus():
    with pytest.raises(InputError) as e:
        launch('closp_nb.training.train.train', 2)
    one_line(e, 'this machine has 1', 'CUDA_VISIBLE_DEVICES')


# ---- embedding and search


@pytest.mark.parametrize('encoder', ['tiny', 'resnet50', 'vit_small'])
def test_embeds_as_the_processor_does(cat, encoder):
    model, some = new_model(QUICK.change(image_encoder=encoder)), cat.where(cat.frame.index < 24)
    here = embed(model, some, progress=False, device='cpu')
    there, half = (embed(model, some, progress=False, precision=p) for p in ('float32', 'bf16'))
    near, rough = (here * there).sum(1).min(), (here * half).sum(1).min()
    print(f'{encoder}: smallest cosine to the processor: float32 {near:.6f}, bf16 {rough:.6f}')
    assert home(model) == {'cpu'} and near > 0.9999 and rough > 0.99
    assert not np.array_equal(here, half)


def test_work_is_done_there(cat):
    model, seen = new_model(QUICK), set()
    model.image_projections['s1'].register_forward_hook(lambda m, i, o: seen.add(o.device.type))
    embed(model, cat.where(sensor='s1'), progress=False)
    assert seen == {GPU} and home(model) == {'cpu'}
    image_encoder = model.image_encoders['s2'].requires_grad_(False)
    image_encoder.register_forward_hook(lambda m, i, o: seen.add(f'image_encoder on {o.device.type}'))
    f = encoder_features(image_encoder, cat.where(sensor='s2'))
    assert seen == {GPU, f'image_encoder on {GPU}'} and np.isfinite(f).all()


def test_searches(cat, tmp_path):
    model, _ = train(cat, QUICK, progress=False)
    corpus = cat.where(split='gallery')
    save_model(model, tmp_path / 'model')
    Index.build(model, corpus, model_folder=tmp_path / 'model', progress=False).save(tmp_path / 'index')
    ask = Searcher.load(tmp_path / 'index')
    hits = ask.search_text('flooded area', k=5)
    plain = encode_numpy(ask.model.encode_text, ['flooded area']) @ embed(model, corpus, progress=False, device='cpu').T
    np.testing.assert_allclose(hits.frame.score, np.sort(plain[0])[::-1][:5], atol=2e-3)
    ask.model.to(GPU)  # a searcher whose model was moved
    assert (
        ask.search_text('flooded area', k=5).frame.id.tolist() == hits.frame.id.tolist()
        and len(ask.search_tile(hits[0], k=3)) == 3
    )


def test_locations():
    x = torch.rand(500, 2, dtype=torch.float64) * torch.tensor([360.0, 180.0]) - torch.tensor([180.0, 90.0])
    torch.testing.assert_close(spherical_harmonics(x.to(GPU), 40).cpu(), spherical_harmonics(x, 40), rtol=0, atol=1e-10)
    geo = GeoCLOSP.around(new_model(QUICK).eval().to(GPU))
    assert (
        home(geo) == {GPU}
        and encode_numpy(geo.encode_location, [12.5, 41.9]).shape == (1, 384)
        and home(geo.closp()) == {GPU}
    )


# ---- losses and mixed devices


def halves(device, n=6):
    g = torch.Generator().manual_seed(0)

    def unit():
        return [F.normalize(torch.randn(n, 16, generator=g), dim=1).to(device) for _ in range(2)]

    return unit(), unit(), [(torch.rand(n, 12, generator=g) < 0.3).float().to(device) for _ in range(2)]


@pytest.mark.parametrize('kind', TARGETS)
def test_losses_are_the_same(kind):
    def all_of(device):
        u, v, y = halves(device)
        return [
            pair_loss(u[0], v[0], y[0], kind, 14.3, bias).item() for bias in (None, torch.tensor(-3.0, device=device))
        ] + [loss.item() for loss in joint_loss(u, v, y, kind, 14.3)]

    np.testing.assert_allclose(all_of(GPU), all_of('cpu'), rtol=1e-4)


def test_mixed_devices():
    (u, w), (v, _), (y, z) = halves('cpu')
    for f in (
        lambda: pair_loss(u.to(GPU), v, y, 'coverage', 14.3),
        lambda: pair_loss(u.to(GPU), v.to(GPU), y, 'jaccard', 14.3),
        lambda: joint_loss([u.to(GPU), w], [v.to(GPU), v], [y, z]),
    ):
        with pytest.raises(InputError) as e:
            f()
        one_line(e, 'cpu, cuda:0', 'move all of them to one')
    model = new_model(QUICK).eval()
    x = torch.randn(2, 2, 48, 48)
    want = encode_numpy(model.encode_image, 's1', x)
    np.testing.assert_allclose(
        encode_numpy(model.encode_image, 's1', x.to(GPU)), want, atol=1e-5
    )  # tiles go to the model
    model.image_encoders['s1'].to(GPU)
    with pytest.raises(InputError) as e:
        encode_numpy(model.encode_image, 's1', x)
    one_line(e, 'cpu, cuda:0', "model.to('cpu')")
    np.testing.assert_allclose(encode_numpy(model.cpu().encode_image, 's1', x), want, atol=1e-6)


def test_mixed_model_trains(cat):
    "A learner moves all of a model."
    model = new_model(QUICK)
    model.image_encoders['s2'].to(GPU)
    after, _ = train(cat, QUICK.change(epochs=1), progress=False, model=model)
    assert home(after) == {'cpu'}


def test_parts_are_the_whole():
    model = new_model(QUICK.change(location_encoder='')).eval().to(GPU)
    x = {
        k: dict(pixels=torch.randn(8, c, 40, 40, device=GPU), captions=['water', 'bare'] * 4)
        for k, c in (('s1', 2), ('s2', 12))
    }
    y = {k: torch.eye(12, device=GPU)[torch.arange(8) % 2] for k in x}
    grads = []
    for f in (model, lambda b: grad_cache_forward(model, b, 3)):
        model.zero_grad()
        sum(closp_losses(f(x), y).values()).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*grads, rtol=1e-2, atol=1e-4)
