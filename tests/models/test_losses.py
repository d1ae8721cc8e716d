"Losses beside loops over pairs, CLIP's formula, SigLIP's signs, SupCon's positives, and batches that are counted."

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from closp_nb.models.config import CLOSP_NB, PAPER
from closp_nb.models.closp import closp_losses, new_model
from closp_nb.models.folder import load_model, save_model
from closp_nb.core import IncompatibleError, InputError
from closp_nb.models.geoclosp import GeoCLOSP, geoclosp_losses
from closp_nb.labels import LABELS, multihot
from closp_nb.models.losses import (
    joint_loss,
    false_negative_rates,
    contrastive,
    init_bias,
    jaccard,
    matches,
    pair_loss,
    sigmoid_pairs,
    targets_for,
)

KINDS = ('diagonal', 'equal', 'jaccard')


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def a_batch(n, dim, seed, empty=0.2):
    "Unit rows and labels, some of them equal, some missing."
    g = torch.Generator().manual_seed(seed)
    u, v = (F.normalize(torch.randn(n, dim, generator=g, dtype=torch.float64), dim=1) for _ in range(2))
    y = (torch.rand(max(1, n // 2), 12, generator=g) < 0.2).double()[torch.randint(max(1, n // 2), (n,), generator=g)]
    return u, v, y * (torch.rand(n, 1, generator=g) > empty)


batches = st.builds(
    a_batch, st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 1.0])
)

# ---- targets


def degree(a, b, i, j, kind):
    "How right caption j is for tile i, from two sets of labels."
    if i == j:
        return 1.0
    if kind == 'diagonal':
        return 0.0
    if kind == 'equal':
        return float(a == b)
    return (len(a & b) / len(a | b)) ** 2 if a | b else 0.0


@given(batches, st.sampled_from(KINDS))
@settings(max_examples=60, deadline=None)
def test_targets_are_the_loops(b, kind):
    y = b[2]
    sets = [frozenset(r.nonzero().flatten().tolist()) for r in y]
    M = torch.tensor(
        [[degree(s, t, i, j, kind) for j, t in enumerate(sets)] for i, s in enumerate(sets)], dtype=torch.float64
    )
    torch.testing.assert_close(matches(y, kind), M, rtol=0, atol=1e-12)
    torch.testing.assert_close(targets_for(y, kind), M / M.sum(1, keepdim=True), rtol=0, atol=2e-6)
    assert torch.equal(matches(y, kind), matches(y, kind).T)


@given(batches)
@settings(max_examples=30, deadline=None)
def test_default_targets_are_those_of_before(b):
    "To the last bit: README's numbers were made with these lines."
    y = b[2].float()
    both = y @ y.T
    j = both / (y.sum(1)[:, None] + y.sum(1)[None] - both).clamp(min=1)
    t = j**2 + 1e-6 * torch.eye(len(y))
    assert (
        torch.equal(jaccard(y), j)
        and torch.equal(targets_for(y), t / t.sum(1, keepdim=True))
        and torch.equal(targets_for(y, 'diagonal'), torch.eye(len(y)))
    )


def test_graded_loss_is_that_of_before():
    torch.manual_seed(0)
    u, v, y = (x.float() for x in a_batch(32, 384, 5, 0.0))
    scale = torch.tensor(1 / 0.07).log().exp().clamp(max=100)
    logits, T = scale * u @ v.T, targets_for(y)
    before = (F.cross_entropy(logits, T) + F.cross_entropy(logits.T, T)) / 2
    assert torch.equal(pair_loss(u, v, y, scale=scale), before)
    out = {'s1': dict(image=u, text=v), 'logit_scale': scale}
    assert torch.equal(
        closp_losses(out, {'s1': y}, SMALL.change(targets='jaccard', joint=False))['s1_loss'], before
    ) and torch.equal(closp_losses(out, {'s1': y}, 'jaccard')['s1_loss'], before)


# ---- softmax


def by_hand(u, v, scale, T):
    total = 0
    for a, b in ((u, v), (v, u)):
        for i in range(len(a)):
            s = [scale * sum(float(p) * float(q) for p, q in zip(a[i], o)) for o in b]
            top = max(s)
            norm = top + math.log(sum(math.exp(x - top) for x in s))
            total -= sum(float(T[i, j]) * (s[j] - norm) for j in range(len(b)))
    return total / (2 * len(u))


@given(batches, st.sampled_from(KINDS), st.sampled_from([1.0, 1 / 0.07, 100.0]))
@settings(max_examples=40, deadline=None)
def test_softmax_is_the_loop(b, kind, scale):
    u, v, y = b
    T = targets_for(y, kind)
    assert contrastive(u, v, scale, T).item() == pytest.approx(by_hand(u, v, scale, T), abs=1e-6)


@given(batches, st.sampled_from([1.0, 14.0, 100.0]))
@settings(max_examples=40, deadline=None)
def test_diagonal_is_clip(b, scale):
    u, v, y = b
    rows = torch.arange(len(u))
    clip = (F.cross_entropy(scale * u @ v.T, rows) + F.cross_entropy(scale * v @ u.T, rows)) / 2
    torch.testing.assert_close(contrastive(u, v, scale, targets_for(y, 'diagonal')), clip)


def test_equal_is_supervised_contrastive():
    u, v, y = a_batch(12, 6, 1)
    same = (y[:, None] == y[None]).all(2)
    total = sum(
        -torch.stack([(scores - scores.logsumexp(0))[j] for j in positives.nonzero().flatten()]).mean()
        for a, b in ((u, v), (v, u))
        for scores, positives in zip(14.0 * a @ b.T, same)
    )
    torch.testing.assert_close(contrastive(u, v, 14.0, targets_for(y, 'equal')), total / 24)
    assert same.sum() > 12  # there was something to test


@pytest.mark.parametrize('n,scale', [(8, 1.0), (64, 1.0), (64, 5.0)])
def test_nothing_is_below_the_floor(n, scale):
    floor = math.log(1 + (n - 1) * math.exp(-scale * n / (n - 1)))
    corners = F.normalize(torch.eye(n, dtype=torch.float64) - 1 / n, dim=1)
    assert contrastive(corners, corners, scale, torch.eye(n).double()).item() == pytest.approx(floor, abs=1e-9)
    for seed in range(5):
        u, v, _ = a_batch(n, n, seed)
        near = F.normalize(corners + 0.1 * u, dim=1)
        assert (
            contrastive(near, near, scale, torch.eye(n).double())
            > floor
            < contrastive(u, v, scale, torch.eye(n).double())
        )
    if (n, scale) == (64, 1.0):
        assert floor == pytest.approx(3.17, abs=5e-4)


# ---- sigmoid


@given(batches, st.sampled_from(KINDS), st.sampled_from([1.0, 1 / 0.07, 100.0]), st.sampled_from([-10.0, -2.0, 0.5]))
@settings(max_examples=40, deadline=None)
def test_sigmoid_is_the_loop(b, kind, scale, bias):
    u, v, y = b
    M, total = matches(y, kind), 0.0

    def soft(x):
        return max(x, 0) + math.log1p(math.exp(-abs(x)))

    for i, j in itertools.product(range(len(u)), repeat=2):
        x = scale * float(u[i] @ v[j]) + bias
        total += float(M[i, j]) * soft(-x) + (1 - float(M[i, j])) * soft(x)
    assert sigmoid_pairs(u, v, scale, bias, M).item() == pytest.approx(total / len(u), abs=1e-6)


@pytest.mark.parametrize('kind', ['diagonal', 'equal'])
def test_sigmoid_is_as_published(kind):
    u, v, y = a_batch(9, 5, 2)
    M = matches(y, kind)
    theirs = -F.logsigmoid((2 * M - 1) * (10 * u @ v.T - 10)).sum() / 9  # Zhai et al. 2023, algorithm 1
    torch.testing.assert_close(sigmoid_pairs(u, v, 10.0, -10.0, M), theirs)


def test_first_bias():
    for n in (2, 32, 64):
        share = torch.eye(n).mean()
        assert init_bias(n) == pytest.approx(torch.logit(share).item(), abs=1e-5) if n > 2 else init_bias(n) == 0
    assert init_bias(1) == 0


# ---- what holds for all


@given(batches, st.sampled_from(KINDS), st.sampled_from([None, -3.0]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_order_of_tiles_is_nothing(b, kind, bias, seed):
    u, v, y = b
    p = torch.randperm(len(u), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(pair_loss(u, v, y, kind, 14.0, bias), pair_loss(u[p], v[p], y[p], kind, 14.0, bias))


@given(batches, st.sampled_from(['equal', 'jaccard']), st.sampled_from([None, -3.0]))
@settings(max_examples=40, deadline=None)
def test_equal_captions_can_swap_tiles(b, kind, bias):
    u, v, y = b
    y = torch.where(y.any(1, keepdim=True), y, torch.eye(12, dtype=y.dtype)[0])  # labelled tiles only
    of = (y @ 2.0 ** torch.arange(12).double()).long()
    v = torch.stack([v[int((of == o).nonzero()[0])] for o in of])  # one text, one vector
    i = torch.arange(len(u))
    for o in of.unique():
        i[of == o] = i[of == o].flip(0)
    torch.testing.assert_close(pair_loss(u, v, y, kind, 14.0, bias), pair_loss(u[i], v, y, kind, 14.0, bias))


@given(batches, st.sampled_from(KINDS), st.sampled_from([None, -3.0]), st.sampled_from([0.01, 100.0]))
@settings(max_examples=40, deadline=None)
def test_gradients_are_numbers(b, kind, bias, scale):
    u, v, y = b
    leaves = [u.float().requires_grad_(), v.float().requires_grad_(), torch.tensor(scale, requires_grad=True)]
    if bias is not None:
        leaves.append(torch.tensor(bias, requires_grad=True))
    loss = pair_loss(*leaves[:2], y.float(), kind, *leaves[2:])
    loss.backward()
    assert loss.isfinite() and all(x.grad.isfinite().all() for x in leaves)


def test_gradcheck():
    u, v, y = a_batch(5, 4, 3)
    for kind, bias in itertools.product(KINDS, (None, torch.tensor(-1.0).double().requires_grad_())):
        assert torch.autograd.gradcheck(
            lambda a, b, s: pair_loss(a, b, y, kind, s, bias),
            (u.requires_grad_(), v.requires_grad_(), torch.tensor(3.0).double().requires_grad_()),
        )


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('bias', [None, -50.0])
def test_no_gradient_at_perfect(kind, bias):
    y = torch.eye(12, dtype=torch.float64)[:6]  # six strangers
    z = torch.eye(6, dtype=torch.float64).requires_grad_()
    pair_loss(z, z.detach(), y, kind, 100.0, bias).backward()
    assert z.grad.abs().max() < 1e-4


def test_batch_of_one_teaches_nothing():
    u, v, y = a_batch(1, 5, 0)
    u.requires_grad_()
    for kind in KINDS:
        loss = pair_loss(u, v, y, kind, 14.0)
        loss.backward()
        assert loss == 0 and u.grad.abs().max() == 0
    pair_loss(u, v, y, bias=-3.0).backward()
    assert u.grad.abs().max() > 0  # a yes or no needs no rival


@pytest.mark.parametrize('kind', KINDS)
def test_all_captions_equal(kind):
    u, v, _ = a_batch(8, 5, 0)
    y, word = torch.eye(12, dtype=torch.float64)[[1] * 8], v[:1].expand(8, 5)
    u.requires_grad_()
    F.cross_entropy(14 * u @ word.T, targets_for(y, kind)).backward()
    assert u.grad.abs().max() < 1e-12  # tiles have no choice
    u.grad = None
    contrastive(u, word, 14.0, targets_for(y, kind)).backward()
    assert (
        u.grad @ v[0]
    ).sum().abs() < 1e-12  # captions only even the tiles out, which moves none of them nearer on the whole
    u.grad = None
    sigmoid_pairs(u, word, 14.0, -2.0, matches(y, 'equal')).backward()
    assert ((u.grad @ v[0]) < 0).all()  # all are drawn to their word


@pytest.mark.parametrize('bias', [None, -3.0])
def test_scores_keep_their_precision(bias):
    u, v, y = (x.float() for x in a_batch(16, 32, 0))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = pair_loss(u, v, y, scale=100.0, bias=bias)
    assert inside.dtype == torch.float32 and torch.equal(inside, pair_loss(u, v, y, scale=100.0, bias=bias))
    half = pair_loss(u.bfloat16(), v.bfloat16(), y, scale=100.0, bias=bias)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(
        pair_loss(u.bfloat16().float(), v.bfloat16().float(), y, scale=100.0, bias=bias).item()
    )


# ---- bad input


def test_wrong_shapes():
    u, v, y = a_batch(4, 5, 0)
    for a, b, T in (
        (u, v[:3], torch.eye(4)),
        (u, v[:, :4], torch.eye(4)),
        (u, v, torch.eye(3)),
        (u, v, torch.ones(4)),
        (u[:0], v[:0], torch.eye(0)),
        (u[0], v[0], torch.eye(4)),
        (u, v, targets_for(y)[:, :1]),
    ):
        for f in (lambda: contrastive(a, b, 1.0, T), lambda: sigmoid_pairs(a, b, 1.0, 0.0, T)):
            with pytest.raises(InputError, match='; give') as e:
                f()
            assert '\n' not in str(e.value)
    with pytest.raises(InputError, match='do not fit 4 pairs'):
        pair_loss(u, v, y[:3])
    with pytest.raises(InputError, match='zeros and ones'):
        matches(y[0])
    for f in (matches, targets_for):
        with pytest.raises(InputError, match='diagonal, equal, jaccard'):
            f(y, 'soft')


# ---- collisions


def counted(captions, y, bs):
    "All batches there are, one by one."
    met, equal, share, n = 0, 0, 0, 0
    for b in itertools.combinations(range(len(captions)), bs):
        n += 1
        pairs = [(i, j) for i in b for j in b if i != j]
        met += sum(any(captions[i] == captions[j] for j in b if j != i) for i in b) / bs
        equal += sum(captions[i] == captions[j] for i, j in pairs) / len(pairs)
        share += sum(bool((y[i] * y[j]).any()) for i, j in pairs) / len(pairs)
    return np.array([met, equal, share]) / n


@given(st.lists(st.lists(st.sampled_from(LABELS[:4]), max_size=3, unique=True), min_size=2, max_size=8), st.data())
@settings(max_examples=40, deadline=None)
def test_collisions_count_all_batches(labels, data):
    labels = [sorted(names) for names in labels]
    captions, bs = ['. '.join(names) for names in labels], data.draw(st.integers(2, len(labels)))
    r = false_negative_rates(captions, labels, bs, draws=0)
    assert r.index.tolist() == [bs]
    np.testing.assert_allclose(
        r.xs('exact', axis=1, level=1).to_numpy()[0], counted(captions, multihot(labels), bs), atol=1e-12
    )
    assert r.xs('drawn', axis=1, level=1).isna().all(axis=None)


def test_collisions_draws_agree():
    rng = np.random.default_rng(0)
    labels = [[LABELS[i] for i in sorted(rng.choice(6, rng.integers(1, 3), replace=False))] for _ in range(300)]
    captions = ['. '.join(names) for names in labels]
    r = false_negative_rates(captions, labels, (8, 64), draws=1000)
    np.testing.assert_allclose(r.xs('exact', axis=1, level=1), r.xs('drawn', axis=1, level=1), atol=0.01)
    assert r.equals(false_negative_rates(captions, multihot(labels), (8, 64), draws=1000)) and not r.equals(
        false_negative_rates(captions, labels, (8, 64), seed=1, draws=1000)
    )
    assert (r.loc[64] > r.loc[8] - 0.01).all()


def test_collisions_at_the_ends():
    assert false_negative_rates(['a'] * 5, [['crops']] * 5, 5).to_numpy().tolist() == [[1.0] * 6]
    assert false_negative_rates(list('abc'), [['crops'], ['trees'], []], 3).to_numpy().tolist() == [[0.0] * 6]
    big = false_negative_rates([f'{i % 5}' for i in range(100_000)], np.eye(12)[np.arange(100_000) % 5], 64, draws=3)
    assert (
        big.iloc[0, 0] == pytest.approx(1 - 0.8**63, abs=1e-4)
        and big.iloc[0, 2] == pytest.approx(0.2, abs=1e-4) == big.iloc[0, 4]
    )


@pytest.mark.parametrize(
    'args,mend',
    [
        ((['a'], [['crops']]), 'from 1 tiles'),
        ((['a', 'b'], [['crops']]), 'one of each'),
        ((['a', 'b'], [['crops']] * 2, 3), 'from 2 to 2'),
        ((['a', 'b'], [['crops']] * 2, 1), 'batches of 1'),
        (([], []), 'from 0 tiles'),
    ],
)
def test_collisions_refuse(args, mend):
    with pytest.raises(InputError, match=mend):
        false_negative_rates(*args)


# ---- in the model

SMALL = CLOSP_NB.change(text_encoder='tiny')


def some(n=4):
    g = torch.Generator().manual_seed(0)
    inputs = {
        k: dict(
            pixels=torch.randn(n, b, 32, 32, generator=g),
            captions=['crops', 'trees', 'crops', 'water'][:n],
            lonlat=torch.tensor([[12.0, 42.0], [90, 24], [-4, 40], [12, 43]])[:n],
        )
        for k, b in (('s1', 2), ('s2', 12))
    }
    return inputs, {k: torch.eye(12)[torch.tensor([1, 0, 1, 3])[:n]] for k in inputs}


@pytest.mark.parametrize('place', [False, True])
def test_bias_lives_in_the_model(tmp_path, place):
    r = SMALL.change(objective='sigmoid', batch_size=16)
    m = new_model(r)
    if place:
        m = GeoCLOSP.around(m)
    assert (
        m.bias.item() == pytest.approx(-math.log(15))
        and new_model(SMALL).bias is None
        and 'bias' not in new_model(SMALL)(some()[0])
    )
    x, y = some()
    parts = (geoclosp_losses if place else closp_losses)(m(x), y, r)
    sum(parts.values()).backward()
    assert m.bias.grad != 0 and m.log_logit_scale.grad != 0
    with torch.no_grad():
        m.bias += 1
    save_model(m, tmp_path / 'm')
    again = load_model(tmp_path / 'm')
    assert again.bias.item() == m.bias.item()
    if place:
        assert m.closp().bias is m.bias
    k = 's1'
    out = m(x)
    if not place:
        torch.testing.assert_close(
            closp_losses(out, y, r)['s1_loss'],
            sigmoid_pairs(out[k]['image'], out[k]['text'], out['logit_scale'], m.bias, matches(y[k])),
        )


def test_recipe_and_model_must_agree():
    x, y = some()
    for a, b in ((SMALL, SMALL.change(objective='sigmoid')), (SMALL.change(objective='sigmoid'), PAPER)):
        with pytest.raises(IncompatibleError, match='new_model') as e:
            closp_losses(new_model(a)(x), y, b)
        with pytest.raises(IncompatibleError, match='new_model'):
            geoclosp_losses(GeoCLOSP.around(new_model(a))(x), y, b)
        assert '\n' not in str(e.value)


@pytest.mark.parametrize('targets', KINDS)
@pytest.mark.parametrize('loss', ['softmax', 'sigmoid'])
def test_recipe_picks(loss, targets):
    r = SMALL.change(objective=loss, targets=targets, joint=False)
    x, y = some()
    out = new_model(r).eval()(x)
    want = {
        'softmax': lambda o, t: contrastive(o['image'], o['text'], out['logit_scale'], targets_for(t, targets)),
        'sigmoid': lambda o, t: sigmoid_pairs(
            o['image'], o['text'], out['logit_scale'], out.get('bias'), matches(t, targets)
        ),
    }[loss]
    for by in (r, targets):
        got = closp_losses(out, y, by)
        assert set(got) == {'s1_loss', 's2_loss'} and all(torch.equal(got[f'{k}_loss'], want(out[k], y[k])) for k in y)


@pytest.mark.parametrize('kind', ['diagonal', 'equal', 'jaccard', 'coverage'])
def test_joint_is_one_softmax_over_both_sensors(kind):
    torch.manual_seed(0)
    u, v = (F.normalize(torch.randn(10, 16, dtype=torch.float64), dim=1) for _ in range(2))
    y = (torch.rand(10, 12) < 0.3).double()
    parts = joint_loss([u[:4], u[4:]], [v[:4], v[4:]], [y[:4], y[4:]], kind, 9.0)
    there, back = targets_for(y, kind), targets_for(y, kind, back=True)
    rows = [
        -(
            sum(float(t) * float(p) for t, p in zip(there[i], (9 * v @ u[i]).log_softmax(0)))
            + sum(float(t) * float(p) for t, p in zip(back[i], (9 * u @ v[i]).log_softmax(0)))
        )
        / 2
        for i in range(10)
    ]
    assert [p.item() for p in parts] == pytest.approx([sum(rows[:4]) / 4, sum(rows[4:]) / 6], abs=1e-9)
    assert joint_loss([u], [v], [y], kind, 9.0)[0].item() == pytest.approx(
        contrastive(u, v, 9.0, there, back).item(), abs=1e-9
    )


def test_asked_targets_are_shares_of_what_is_named():
    y = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.float32)  # tiles down, captions across
    assert torch.allclose(
        matches(y, 'coverage'),
        torch.tensor([[1, 1, 0, 0], [0.25, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float32),
    )
    assert torch.allclose(targets_for(y, 'coverage', back=True)[0], torch.tensor([0.8, 0.2, 0, 0]))
