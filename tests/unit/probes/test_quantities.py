"""Each quantity against NumPy in float64, on inputs of every shape and of awkward values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from normlab import probes as P
from tests.conftest import TOLERANCE

SHAPES = [(5, 7), (4, 3, 6), (6, 4, 5, 3), (3, 2, 2, 3, 2), (1, 3, 4), (4, 3, 1, 1)]


def by_channel(x):
    return np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)


def cosines(x):
    rows = x.reshape(len(x), -1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return rows @ rows.T


def mean_cosine(x):
    k = cosines(x)
    return k[~np.eye(len(k), dtype=bool)].mean() if len(k) > 1 else math.nan


def stable_rank(x):
    k = cosines(x)
    return np.trace(k) / np.linalg.norm(k, 2) if k.any() else 0.0


def spread(x):
    values = by_channel(x)
    return values.var(1, ddof=1) if values.shape[1] > 1 else np.full(len(values), math.nan)


ORACLES = {
    P.activation_variance: lambda x: spread(x).mean(),
    P.conv_std: lambda x: np.sqrt(spread(x)).mean(),
    P.mean_cosine: mean_cosine,
    P.stable_rank: stable_rank,
    P.gradient_norm: lambda x: math.sqrt((x**2).sum()),
}
quantities = pytest.mark.parametrize("quantity", ORACLES, ids=lambda function: function.__name__)


@quantities
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("mean", [0.0, 50.0])
def test_matches_numpy(quantity, shape, dtype, mean):
    x = (torch.randn(shape) + mean).to(dtype)
    expected = ORACLES[quantity](x.double().numpy())
    found = quantity(x)
    assert found.shape == ()
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wide = TOLERANCE[found.dtype] * max(1.0, mean)  # bfloat16 is widened first
    np.testing.assert_allclose(found.item(), expected, rtol=wide, atol=wide)


@quantities
@pytest.mark.parametrize("shape", [(6, 4, 5, 3), (3, 2, 2, 3, 2)], ids=str)
def test_memory_formats_are_the_same(quantity, shape):
    x = torch.randn(shape, dtype=torch.float64)
    last = x.to(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    torch.testing.assert_close(quantity(last), quantity(x))
    torch.testing.assert_close(quantity(x.expand_as(x)[::1]), quantity(x))


def test_channels_last_is_not_copied_to_flatten_examples():
    x = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    order = sorted(range(1, 4), key=lambda dim: -x.stride(dim))
    assert x.permute(0, *order).reshape(4, -1).data_ptr() == x.data_ptr()


@quantities
def test_nan_is_reported(quantity):
    x = torch.randn(4, 3, 5)
    x[1, 2, 3] = math.nan
    assert quantity(x).isnan()


@quantities
@pytest.mark.parametrize("scale", [1e-30, 1e18])
def test_small_and_large_values(quantity, scale):
    x = torch.randn(4, 3, 5)
    x, expected = x * scale, ORACLES[quantity](x.double().numpy())
    power = {P.activation_variance: 2, P.conv_std: 1, P.gradient_norm: 1}.get(quantity, 0)
    if power and scale < 1:
        return  # squares of single precision end there, and what is left is 0
    np.testing.assert_allclose(quantity(x).double().item() / scale**power, expected, rtol=1e-5)


def test_zero_samples_are_guarded():
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    x[1] = x[3] = 0
    for quantity in (P.mean_cosine, P.stable_rank):
        np.testing.assert_allclose(quantity(x).item(), ORACLES[quantity](x.numpy()), rtol=1e-12)
        assert quantity(torch.zeros(3, 4)) == 0


def test_cosines_of_known_directions():
    same = torch.randn(1, 6).expand(4, 6)
    torch.testing.assert_close(P.mean_cosine(same), torch.tensor(1.0))
    torch.testing.assert_close(P.stable_rank(same), torch.tensor(1.0))
    orthogonal = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0][:4] * torch.tensor([[1.0], [2], [3], [9]])
    torch.testing.assert_close(P.stable_rank(orthogonal), torch.tensor(4.0, dtype=torch.float64))
    assert P.mean_cosine(orthogonal).abs() < 1e-12
    assert P.stable_rank(orthogonal, normalize_rows=False) < 2  # one row is far longer than the others
    opposite = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    torch.testing.assert_close(P.mean_cosine(opposite), torch.tensor(-1.0))


def test_nothing_is_differentiated():
    x = torch.randn(4, 3, 5, requires_grad=True)
    for quantity in ORACLES:
        assert not quantity(x).requires_grad


def test_large_values_are_counted():
    xhat = torch.tensor([[[6.0, -6.0, 6.1], [0.0, -7.0, 1.0]]])
    torch.testing.assert_close(P.large_values(xhat), torch.tensor(2 / 6))
    torch.testing.assert_close(P.large_values(xhat, per_channel=True), torch.tensor([1 / 3, 1 / 3]))
    torch.testing.assert_close(P.large_values(xhat, 0.5), torch.tensor(5 / 6))
    xhat[0, 1, 0] = math.nan
    assert P.large_values(xhat).isnan()
    assert P.large_values(xhat, per_channel=True).isnan().tolist() == [False, True]


def test_gradient_factor_and_sigma():
    var, weight = torch.tensor([4.0, 9.0]), torch.tensor([-1.0, 6.0])
    torch.testing.assert_close(P.gradient_factor(var, weight, 0.0), torch.tensor((0.5 + 2) / 2))
    torch.testing.assert_close(P.gradient_factor(var, None, 7.0), torch.tensor((11**-0.5 + 0.25) / 2))
    torch.testing.assert_close(P.sigma(var), torch.tensor(2.5))


def test_drift():
    found = P.drift(torch.tensor([1.0, 0.5, 3.0]), torch.tensor([1.0, 1.0, 0.0]))
    off = np.array([0.0, -0.5, 3.0])
    expected = {"mean": off.mean(), "std": off.std(), "max": 3.0, "ratio": (1 + 0.5) / 2}  # one did start at 0
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert math.isclose(found[name].item(), value, rel_tol=1e-6)
    assert "ratio" not in P.drift(torch.ones(2), 0.0)
