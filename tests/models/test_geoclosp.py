"Places: harmonics beside SciPy and SymPy, quadrature, gradients, wrong coordinates, weights, GeoCLOSP beside CLOSP."

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import sph_harm_y

from closp_nb.models.config import CLOSP_NB, PAPER
from closp_nb.models.closp import closp_losses, new_model
from closp_nb.models.folder import fingerprint, load_model, save_model
from closp_nb.core import DamagedError, IncompatibleError, InputError, NotFoundError
from closp_nb.models.geoclosp import (
    GeoCLOSP,
    LOCATION_ENCODERS,
    LocationEncoder,
    Siren,
    _checked_lonlat,
    geoclosp_losses,
    location_encoder,
    spherical_harmonics,
)


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    "Small tensors: on a busy machine a second thread is only waited for."
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def somewhere(n, seed=0):
    "Places, even over the ball."
    rng = np.random.default_rng(seed)
    return torch.tensor(np.c_[rng.uniform(-180, 180, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))])


def judge(lonlat, degree):
    "SciPy's complex harmonics, made real."
    phi, theta = np.radians(lonlat.numpy().T + [[180], [90]])

    def one(n, m):
        y = sph_harm_y(n, abs(m), theta, phi)
        return y.real if m == 0 else 2**0.5 * (-1) ** m * (y.imag if m < 0 else y.real)

    return torch.tensor(np.stack([one(n, m) for n in range(degree) for m in range(-n, n + 1)], 1))


# ---- harmonics

EDGES = torch.tensor(
    [[0.0, 0], [180, 0], [-180, 0], [0, 90], [77, 90], [0, -90], [-33, -90], [179.999999, 89.999999], [-120, -89.9999]]
).double()


@pytest.mark.parametrize('degree', [1, 2, 3, 11, 41])
def test_harmonics_are_scipys(degree):
    x = torch.cat([EDGES, somewhere(100)])
    y = spherical_harmonics(x, degree)
    assert y.shape == (len(x), degree**2)
    torch.testing.assert_close(y, judge(x, degree), rtol=0, atol=1e-10)


def test_harmonics_are_satclips_formula():
    "The generator of SatCLIP's closed forms, evaluated by SymPy: equal but for pi on m = 0."
    sp = pytest.importorskip('sympy')
    lonlat = somewhere(4, 3)
    ours = spherical_harmonics(lonlat, 6)
    for (phi, theta), row in zip(torch.deg2rad(lonlat + torch.tensor([180.0, 90.0])).tolist(), ours.tolist()):
        for n in range(6):
            for m in range(-n, n + 1):
                p, a = float(sp.assoc_legendre(n, abs(m), sp.Float(math.cos(theta), 30))), abs(m)
                norm = math.sqrt((2 * n + 1) / (4 * math.pi) * math.factorial(n - a) / math.factorial(n + a))
                theirs = (
                    math.sqrt((2 * n + 1) / 4 * math.pi) * p
                    if m == 0
                    else (-1) ** m * 2**0.5 * norm * p * (math.sin(a * phi) if m < 0 else math.cos(a * phi))
                )
                assert theirs == pytest.approx(row[n * n + n + m] * (math.pi if m == 0 else 1), abs=1e-12)


@pytest.mark.parametrize('degree', [4, 10])
def test_orthonormal(degree):
    nodes, w = np.polynomial.legendre.leggauss(degree)
    n = 2 * degree
    lon, lat = np.meshgrid(np.arange(n) * 360 / n - 180, np.degrees(np.arcsin(nodes)))
    y = spherical_harmonics(torch.tensor(np.c_[lon.ravel(), lat.ravel()]), degree)
    gram = y.T @ (y * torch.tensor(np.repeat(w, n) * 2 * math.pi / n)[:, None])
    torch.testing.assert_close(gram, torch.eye(degree**2, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize('degree', [40, 90])
def test_length_is_the_same_everywhere(degree):
    y = spherical_harmonics(torch.cat([EDGES, somewhere(50)]), degree)
    torch.testing.assert_close(y.norm(dim=1), torch.full((len(y),), degree / (4 * math.pi) ** 0.5, dtype=torch.float64))


def test_poles_and_date_line():
    y = spherical_harmonics(EDGES, 41)
    for i, j in ((1, 2), (3, 4), (5, 6)):
        torch.testing.assert_close(y[i], y[j], rtol=0, atol=1e-10)
    step = torch.tensor([[180 - 1e-7, 12], [-180 + 1e-7, 12]]).double()
    a, b = spherical_harmonics(step, 41)
    assert (a - b).abs().max() < 1e-5  # no jump


def test_single_precision_goes_in_but_not_inside():
    x = somewhere(200).float()
    y = spherical_harmonics(x, 40)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), spherical_harmonics(x.double(), 40), rtol=0, atol=1e-6)


def test_no_places():
    assert spherical_harmonics(torch.zeros(0, 2), 5).shape == (0, 25)


def test_gradients():
    x = torch.cat([EDGES[1:7:2], somewhere(1)]).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: spherical_harmonics(v, 6), x)
    x = torch.cat([EDGES, somewhere(3)]).requires_grad_()
    y = spherical_harmonics(x, 40)
    torch.testing.assert_close(
        y.detach(), spherical_harmonics(x.detach(), 40), rtol=0, atol=1e-13
    )  # both ways through the code
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_checked_coordinates_stay_the_tensor_they_were():
    x = torch.tensor([[math.nan, math.nan], [1, 2]])
    assert _checked_lonlat(x, missing=True) is x


# ---- location encoders


def test_siren_starts_as_it_should():
    torch.manual_seed(0)
    net = Siren(50, 7, capacity=64, layers=3)
    for layer, r in zip([*net.layers, net.last_layer], (1 / 50, (6 / 64) ** 0.5, (6 / 64) ** 0.5, (6 / 64) ** 0.5)):
        assert 0.9 * r < layer.weight.abs().max() <= r and layer.bias.abs().max() <= r
    x = torch.randn(5, 50)
    by_hand = x
    for i, layer in enumerate(net.layers):
        by_hand = torch.sin((30 if i == 0 else 1) * F.linear(by_hand, layer.weight, layer.bias))
    torch.testing.assert_close(net(x), F.linear(by_hand, net.last_layer.weight, net.last_layer.bias))


@pytest.mark.parametrize('name,degree,dim', [('satclip_l10', 10, 256), ('satclip_l40', 40, 256), ('tiny', 10, 64)])
def test_location_encoders(name, degree, dim):
    t = location_encoder(name).eval()
    assert (t.degree, t.dim) == (degree, dim) and t(EDGES).shape == (len(EDGES), dim) and t(EDGES).isfinite().all()
    torch.testing.assert_close(t(EDGES.float()), t(EDGES.float().double()))
    assert (
        t.gain[[0, 2, 6]].tolist() == pytest.approx([math.pi if 'satclip' in name else 1] * 3)
        and t.gain[[1, 3, 4]].tolist() == [1] * 3
    )


def test_dropout_only_in_training():
    t = LocationEncoder(4, 32, dropout=0.5)
    assert not torch.equal(t(EDGES), t(EDGES))
    t.eval()
    assert torch.equal(t(EDGES), t(EDGES))


def test_unknown_location_encoder():
    with pytest.raises(InputError, match=', '.join(LOCATION_ENCODERS)):
        location_encoder('satclip')


@pytest.mark.parametrize('prefix,wrapped', [('model.location.', True), ('location_encoder.', True), ('', False)])
def test_reads_satclip(tmp_path, prefix, wrapped):
    theirs = LocationEncoder(10, 48, 3, 20, zonal=math.pi).eval()
    w = {prefix + k: v.double() for k, v in theirs.state_dict().items() if k != 'gain'} | {
        'model.visual.conv.weight': torch.zeros(3)
    }
    torch.save({'state_dict': w, 'hyper_parameters': {'legendre_polys': 10}} if wrapped else w, tmp_path / 'c.ckpt')
    mine = location_encoder('satclip_l10', tmp_path / 'c.ckpt').eval()
    assert torch.equal(mine(EDGES), theirs(EDGES)) and mine.nnet.layers[0].dropout == 0.5


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('foreign code ran')",))


@pytest.mark.parametrize(
    'content,error,mend',
    [
        ({'state_dict': {'fc.weight': torch.zeros(2)}}, IncompatibleError, 'holds no location encoder'),
        (torch.zeros(3), IncompatibleError, 'not weights by name'),
        (Trap(), IncompatibleError, 'cannot be read as plain weights'),
        (LocationEncoder(5, 8).state_dict(), IncompatibleError, 'has 5 degrees, satclip_l10 has 10'),
    ],
)
def test_refuses_other_files(tmp_path, content, error, mend):
    torch.save(content, tmp_path / 'c.ckpt')
    with pytest.raises(error, match=mend):
        location_encoder('satclip_l10', tmp_path / 'c.ckpt')
    (tmp_path / 'c.ckpt').write_bytes(b'junk')
    with pytest.raises(DamagedError, match='plain weights'):
        location_encoder('satclip_l10', tmp_path / 'c.ckpt')
    for path in (tmp_path, tmp_path / 'none'):
        with pytest.raises(NotFoundError, match='cannot be opened'):
            location_encoder('satclip_l10', path)


# ---- GeoCLOSP

SMALL = CLOSP_NB.change(text_encoder='tiny')


@pytest.fixture(scope='module')
def batch():
    g = torch.Generator().manual_seed(0)
    nan = math.nan
    return {
        's1': dict(
            pixels=torch.randn(4, 2, 32, 32, generator=g),
            captions=['crops', 'trees', 'crops', 'water'],
            lonlat=torch.tensor([[12.0, 42.0], [90, 24], [-4, 40], [12, 43]]),
        ),
        's2': dict(
            pixels=torch.randn(4, 12, 32, 32, generator=g),
            captions=['built', 'bare', 'crops', 'trees'],
            lonlat=torch.tensor([[2.0, 49.0], [nan, nan], [31, 30], [nan, 3]]),
        ),
    }


@pytest.fixture(scope='module')
def y():
    return {k: torch.eye(12)[torch.tensor(i)] for k, i in {'s1': [1, 0, 1, 3], 's2': [5, 6, 1, 0]}.items()}


@pytest.fixture
def pair():
    plain = new_model(SMALL).eval()
    return plain, GeoCLOSP.around(plain)


def test_without_its_place_it_is_closp(pair, batch, y):
    plain, geo = pair
    with torch.no_grad():
        a, b, c = plain(batch), geo(batch), geo.closp()(batch)
    for k in batch:
        for part in ('image', 'text'):
            assert torch.equal(a[k][part], b[k][part]) and torch.equal(a[k][part], c[k][part])
    assert fingerprint(geo.closp()) == fingerprint(plain) != fingerprint(geo)
    assert {
        k: v.item() for k, v in geoclosp_losses(b, y, SMALL.change(location_weight=0.0)).items() if 'location' not in k
    } == {k: v.item() for k, v in closp_losses(a, y).items()}


def test_missing_places(pair, batch, y):
    geo = pair[1].train()
    out = geo(batch)
    assert out['s2']['has_location'].tolist() == [True, False, True, False]
    torch.testing.assert_close(out['s2']['location'].norm(dim=1), torch.tensor([1.0, 0, 1, 0]))
    parts = geoclosp_losses(out, y)
    assert set(parts) == {'s1_loss', 's2_loss', 's1_location_loss', 's2_location_loss'}
    sum(parts.values()).backward()
    grads = [p.grad for p in geo.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in grads)
    gone = {k: b | dict(lonlat=torch.full((4, 2), math.nan)) for k, b in batch.items()}
    out = geo(gone)
    parts, bridge = geoclosp_losses(out, y), closp_losses(out, y)
    assert all(
        parts[k].item() == bridge[k].item() and parts[k.replace('loss', 'location_loss')].item() == 0 for k in bridge
    )
    sum(parts.values()).backward()
    assert all(p.grad.isfinite().all() for p in geo.parameters() if p.requires_grad)


@pytest.mark.parametrize('recipe', [SMALL, PAPER.change(text_encoder='tiny', dim=384)], ids=lambda r: r.name)
def test_mean_of_four(recipe, batch, y):
    geo = GeoCLOSP.around(new_model(recipe).eval())
    with torch.no_grad():
        out = geo(batch)
    im, tx, pl = (out['s1'][o] for o in ('image', 'text', 'location'))
    four = (
        sum(
            F.cross_entropy(out['logit_scale'] * a @ b.T, torch.arange(4))
            for a, b in ((im, tx), (tx, im), (im, pl), (pl, im))
        )
        / 4
    )
    parts = geoclosp_losses(out, y, PAPER)
    torch.testing.assert_close(parts['s1_loss'] + parts['s1_location_loss'], four)


def test_wrong_places_are_told(pair, batch):
    geo = pair[1]
    with pytest.raises(InputError, match='swap'):
        geo.encode_location((41.9, 112.0))
    with pytest.raises(InputError, match='look up'):
        geo.encode_location((math.nan, 2.0))
    with pytest.raises(InputError, match='row 2 .*swap'):
        geo(
            {
                's1': batch['s1']
                | dict(
                    lonlat=batch['s1']['lonlat']
                    + torch.tensor([0, 51.0]).where(torch.arange(4)[:, None] == 2, torch.zeros(2))
                )
            }
        )


@pytest.mark.parametrize('name', [None, 'satclip_l40'])
def test_model_folder(tmp_path, name, batch):
    torch.manual_seed(3)
    geo = GeoCLOSP.around(new_model(SMALL).eval(), name and location_encoder(name).eval())
    save_model(geo, tmp_path / 'm')
    again = load_model(tmp_path / 'm')
    assert (
        type(again) is GeoCLOSP
        and again.location_encoder.degree == geo.location_encoder.degree
        and fingerprint(again) == fingerprint(geo)
    )
    with torch.no_grad():
        assert torch.equal(again.encode_location(EDGES), geo.encode_location(EDGES))
        for k, b in batch.items():
            assert torch.equal(again.encode_image(k, b['pixels']), geo.encode_image(k, b['pixels']))
