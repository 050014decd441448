"""The backward pass is a projection (slides of W. Shao); γ₀ cancels behind a norm (Davis and Frank, Eq. 12 to 16)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normlab.layers import create
from tests.conformance.registry import on
from tests.conftest import TOLERANCE

SHAPE = (3, 4, 2, 3)
POOLS = {
    "batch": lambda t: t.movedim(1, 0).reshape(4, -1),
    "instance(affine=True)": lambda t: t.reshape(12, -1),
    "layer": lambda t: t.reshape(3, -1),
    "group(num_groups=2)": lambda t: t.reshape(6, -1),
}
"""Each norm's sets of values as rows."""


def near(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE[torch.float64])


def backward(layer, x, delta):
    x = x.clone().requires_grad_()
    layer(x).backward(delta)
    return x.grad


@pytest.mark.parametrize("backend", ["eager", "numba"])
@pytest.mark.parametrize("spec", POOLS)
def test_backward_projects_away_from_ones_and_from_the_output(spec, backend):
    rows = POOLS[spec]
    layer = create(spec, num_features=4, dtype=torch.float64)
    layer.eps = 0.0
    nn.init.uniform_(layer.weight, 0.5, 1.5)
    x, delta = torch.randn(SHAPE).double() * 2 + 1, torch.randn(SHAPE).double()
    with on(backend):
        found = rows(backward(layer, x, delta))
    sigma = rows(x).std(1, correction=0, keepdim=True)
    xhat = (rows(x) - rows(x).mean(1, keepdim=True)) / sigma
    m, one = xhat.shape[1], torch.ones_like(xhat)
    p = (torch.einsum("ki,kj->kij", one, one) + torch.einsum("ki,kj->kij", xhat, xhat)) / m
    rest = torch.eye(m).double() - p
    near(p @ p, p)
    near(p.mT, p)
    near(rest @ rest, rest)
    for removed in (one, xhat):
        near(rest @ removed[..., None], torch.zeros_like(removed[..., None]))
        near((found * removed).sum(1), torch.zeros(len(found)).double())
    d = rows(delta * layer.weight.detach().view(-1, 1, 1))
    near(found, (rest @ d[..., None])[..., 0] / sigma)


@pytest.mark.parametrize("spec", POOLS)
def test_jacobian_of_a_set_has_rank_two_less_than_its_size(spec):
    layer = create(spec, num_features=4, dtype=torch.float64)
    layer.eps = 0.0
    with on("eager"):
        jacobian = torch.autograd.functional.jacobian(layer, torch.randn(SHAPE).double()).reshape(72, 72)
    sets, m = POOLS[spec](torch.empty(SHAPE)).shape
    near(jacobian, jacobian.T)
    assert torch.linalg.matrix_rank(jacobian, atol=1e-9) == sets * (m - 2)


@pytest.mark.parametrize("eps", [1e-5, 0.1, 1.0])
@pytest.mark.parametrize("backend", ["eager", "numba", None])
def test_reduced_gradient_equation_12(backend, eps):
    layer = create(f"batch(eps={eps})", num_features=4, dtype=torch.float64)
    nn.init.uniform_(layer.weight, 0.5, 1.5)
    x, delta, gamma = torch.randn(SHAPE).double() + 1, torch.randn(SHAPE).double(), layer.weight.detach().view(-1, 1, 1)
    with on(backend):
        dx = backward(layer, x, delta)
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    xhat = (x - mean) / (var + eps).sqrt()
    f = delta - delta.mean((0, 2, 3), keepdim=True) - xhat * (delta * xhat).mean((0, 2, 3), keepdim=True)
    near(dx, gamma / (var + eps).sqrt() * f)
    near(f.sum((0, 2, 3)), torch.zeros(4).double())
    near((f * xhat).sum((0, 2, 3)), (eps / (var + eps)).flatten() * (delta * xhat).sum((0, 2, 3)))


def test_norm_of_the_gradient_is_that_of_santurkar_et_al():
    layer = create("batch", num_features=4, dtype=torch.float64)
    layer.eps = 0.0
    x, delta = torch.randn(SHAPE).double(), torch.randn(SHAPE).double()
    with on("eager"):
        dx, xhat = (POOLS["batch"](t) for t in (backward(layer, x, delta), layer(x).detach()))
    d, var, m = POOLS["batch"](delta), POOLS["batch"](x).var(1, correction=0), dx.shape[1]
    near(dx.square().sum(1), (d.square().sum(1) - d.sum(1) ** 2 / m - (d * xhat).sum(1) ** 2 / m) / var)


def factors(gamma0, input_norm):
    """γ₀ / σ of each channel of the four norms of a new convolutional net, for one batch of images."""
    torch.manual_seed(1)
    x, found = torch.randn(8, 3, 12, 11).double() * 2 + 0.5, []
    if input_norm:
        x = batch_norm(3, 0.58 * gamma0)(x)
    for c_in, c_out in ((3, 8), (8, 8), (8, 6), (6, 5)):
        x = nn.Conv2d(c_in, c_out, 3, bias=False, dtype=torch.float64)(x)
        norm = batch_norm(c_out, gamma0)
        found.append(norm.weight.detach() / x.std((0, 2, 3), correction=0).detach())
        x = norm(x).relu()
    return found


def batch_norm(channels, scale):
    return create(f"batch(scale={scale}, eps=1e-30)", num_features=channels, dtype=torch.float64)


@pytest.mark.parametrize("input_norm", [False, True])
@pytest.mark.parametrize("gamma0", [0.01, 0.1, 0.5])
def test_initial_scale_cancels_behind_a_norm_equations_14_to_16(gamma0, input_norm):
    first, *others = zip(factors(gamma0, input_norm), factors(1.0, input_norm), strict=True)
    assert len(others) == 3
    for scaled, plain in others:
        torch.testing.assert_close(scaled, plain, rtol=1e-10, atol=0)
    torch.testing.assert_close(first[0], first[1] * (1.0 if input_norm else gamma0), rtol=1e-10, atol=0)
