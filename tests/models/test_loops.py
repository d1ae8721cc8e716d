"Losses against plain loops."

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from closp_nb.models.losses import contrastive, jaccard, targets_for


@given(st.integers(1, 9), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_losses_equal_loops(n, seed):
    g = torch.Generator().manual_seed(seed)
    a, b = (F.normalize(torch.randn(n, 6, generator=g, dtype=torch.float64), dim=1) for _ in range(2))
    y = (torch.rand(n, 12, generator=g) < 0.3).double()
    scale = 1 + 20 * torch.rand(1, generator=g).item()
    sets = [set(np.flatnonzero(r)) for r in y.numpy()]
    for i in range(n):
        for j in range(n):
            assert jaccard(y)[i, j].item() == pytest.approx(len(sets[i] & sets[j]) / max(1, len(sets[i] | sets[j])))
    for kind in ('diagonal', 'jaccard'):
        T, total = targets_for(y, kind).double(), 0.0
        assert torch.allclose(T.sum(1), torch.ones(n, dtype=torch.float64), atol=1e-5)
        for q, d in ((a, b), (b, a)):
            for i in range(n):
                s = [scale * float(q[i] @ d[j]) for j in range(n)]
                norm = max(s) + math.log(sum(math.exp(v - max(s)) for v in s))
                total -= sum(float(T[i, j]) * (s[j] - norm) for j in range(n)) / n
        assert contrastive(a, b, scale, T).item() == pytest.approx(total / 2, rel=1e-6)
