"""What is measured of the layers of a whole model, against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from normlab import probes as P
from normlab.layers import (
    ConvNorm,
    WeightNormConv2d,
)
from tests.unit.probes.models import Block, batch, network


class Reader(nn.Module):
    """Sums over each channel of a map, behind norm and ReLU in place."""

    def __init__(self):
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.norm(x)).sum((2, 3))


@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_channels_are_clamped_behind_the_activation(fill):
    model = Reader().eval()
    x = torch.randn(6, 4, 3, 3)
    intact = model(x).detach()
    per_channel = intact.sum(0)
    curve = P.ablation_curve(model, lambda: model(x).sum().item(), "norm", orders=[[2, 0, 3, 1]], fill=fill)
    assert curve.place == "act"
    assert curve.ablated == (0, 1, 2, 3, 4)
    lost = 0 if fill == "mean" else per_channel[[2, 0, 3, 1]].cumsum(0)
    expected = per_channel.sum() - torch.cat([torch.zeros(1), lost * torch.ones(4)])
    torch.testing.assert_close(curve.accuracy[0], expected.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(curve.areas, torch.trapezoid(curve.accuracy, dx=0.25))
    one = P.channel_reliance(model, lambda: model(x).sum().item(), "norm", fill=fill, channels=[3, 1])
    expected = torch.zeros(2) if fill == "mean" else per_channel[[3, 1]]
    torch.testing.assert_close(one.drops, expected.double(), rtol=1e-4, atol=1e-3)
    assert one.channels == (3, 1)
    assert (one.max, one.mean) == (one.drops.max(), one.drops.mean())


def test_only_the_call_behind_the_layer_is_clamped():
    block = Block(4).eval()  # whose ReLU is used twice
    x = torch.randn(3, 4, 5, 5)
    with torch.no_grad():
        inner = block.bn1(block.conv1(x)).relu()
        inner[:, 1] = 0
        expected = (block.bn2(block.conv2(inner)) + x).relu().sum()
    found = P.channel_reliance(block, lambda: block(x).sum().item(), "bn1", channels=[1])
    assert found.place == "relu"
    assert math.isclose(found.accuracy - found.drops[0].item(), expected.item(), rel_tol=1e-5)
    plain = P.channel_reliance(block, lambda: block(x).sum().item(), "bn2", channels=[1])
    assert plain.place == "bn2"  # the sum comes between


def test_orders_and_points():
    model = network()
    x, t = batch()

    def accuracy():
        return (model(x).argmax(1) == t).double().mean().item()

    curve = P.ablation_curve(model, accuracy, "1", orders=3, points=4)
    assert curve.ablated == (0, 2, 4, 6)
    assert curve.accuracy.shape == (3, 4)
    assert len({tuple(order) for order in curve.orders.tolist()}) == 3
    again = P.ablation_curve(model, accuracy, "1", orders=2, points=4)
    assert torch.equal(again.orders, curve.orders[:2])
    assert not torch.equal(P.ablation_curve(model, accuracy, "1", orders=2, points=4, seed=1).orders, again.orders)


@pytest.mark.parametrize("shape", [(7, 3), (4, 3, 2, 5)], ids=str)
@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_lipschitz_identity(shape, eps):
    x, dy = torch.randn(2, *shape, dtype=torch.float64)
    weight = torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64)
    found = P.lipschitz_identity(x, dy, weight, eps=eps)
    leaf = x.clone().requires_grad_()
    y = nn.functional.batch_norm(leaf, None, None, weight, training=True, eps=max(eps, 1e-300))
    (dx,) = torch.autograd.grad(y, leaf, dy)
    dims = [dim for dim in range(x.dim()) if dim != 1]
    torch.testing.assert_close(found.by_backward, dx.square().sum(dims))
    assert found.error < 1e-12
    values, delta = (np.moveaxis(v.numpy(), 1, 0).reshape(3, -1) for v in (x, dy))
    if eps == 0:  # the theorem as it is printed
        xhat = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
        m = values.shape[1]
        inside = (delta**2).sum(1) - delta.sum(1) ** 2 / m - (delta * xhat).sum(1) ** 2 / m
        np.testing.assert_allclose(found.by_identity, weight.numpy() ** 2 / values.var(1) * inside)


def test_lipschitz_ratios_are_of_the_path_through_the_layer():
    torch.manual_seed(0)

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.norm = nn.Linear(5, 5), nn.BatchNorm1d(5)

        def forward(self, x):
            y = self.inner(x)
            return 10 * y + self.norm(y)  # a gradient that goes around the norm

    model = Residual().double()
    x = torch.randn(6, 5, dtype=torch.float64)
    weights = torch.randn(6, 5, dtype=torch.float64)

    def loss():
        return (model(x) * weights).sum()

    (found,) = P.lipschitz_ratios(model, loss)
    y = model.inner(x).detach()
    identity = P.lipschitz_identity(y, weights, eps=1e-5)
    assert found.name == "norm"
    assert math.isclose(found.before, identity.by_identity.sum().sqrt().item(), rel_tol=1e-9)
    assert math.isclose(found.after, weights.norm().item(), rel_tol=1e-9)
    assert math.isclose(found.ratio, found.before / found.after)


def dense(layer, shape):
    """The matrix of a linear map, column by column."""
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    columns = torch.eye(zero.numel(), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        return torch.cat([(layer(column[None]) - layer(zero)).reshape(1, -1) for column in columns])


LINEAR = {
    "linear": (nn.Linear(7, 3), (7,)),
    "large": (nn.Linear(90, 80), (90,)),
    "conv": (nn.Conv2d(3, 4, 3, padding=1), (3, 6, 7)),
    "strided": (nn.Conv2d(4, 6, 3, stride=2, groups=2), (4, 9, 9)),
    "dilated": (nn.Conv1d(2, 3, 3, dilation=2, padding=2, padding_mode="circular"), (2, 40)),
    "transposed": (nn.ConvTranspose2d(3, 2, 3, stride=2), (3, 5, 5)),
    "one output": (nn.Conv2d(3, 2, 3), (3, 3, 3)),
    "weight norm": (WeightNormConv2d(3, 4, 3, padding=1), (3, 6, 6)),
    "conv norm": (ConvNorm(3, 4, 3, padding=1, bn=False), (3, 6, 6)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_spectral_norms_are_those_of_the_dense_matrix(name):
    layer, shape = LINEAR[name]
    found = P.spectral_norm(layer, shape)
    expected = torch.linalg.matrix_norm(dense(layer.double().eval(), shape), 2).item()
    assert math.isclose(found, expected, rel_tol=1e-6)


def test_a_conv_norm_is_taken_without_its_batch_norm():
    layer = ConvNorm(3, 4, 3, padding=1).double()
    expected = P.spectral_norm(layer, (3, 6, 6))
    layer.batch_norm.weight.data.fill_(100)
    assert P.spectral_norm(layer, (3, 6, 6)) == expected
    assert layer.batch_norm is not None


def test_conv_norm_bounds_the_spectral_norm():
    """Each output channel's operator has a flat spectrum of 1, so that C of them together have at most √C."""
    torch.manual_seed(0)
    plain, normed = nn.Conv2d(3, 4, 3, padding=1), ConvNorm(3, 4, 3, padding=1, affine=False, bn=False)
    nn.init.normal_(plain.weight)
    normed.weight.data.copy_(plain.weight.data)
    assert P.spectral_norm(normed, (3, 8, 8)) <= 2 + 1e-9 < P.spectral_norm(plain, (3, 8, 8))


def test_layerwise_spectral_norms_take_the_sizes_that_a_run_has():
    model = network()
    found = P.layerwise_spectral_norms(model, lambda: model(batch()[0]))
    assert set(found) == {"0", "3.conv1", "3.conv2", "6"}
    assert found["3.conv1"] == P.spectral_norm(model[3].conv1, (6, 8, 8))
    assert math.isclose(found["6"], torch.linalg.matrix_norm(model[6].weight.detach(), 2).item(), rel_tol=1e-5)


def test_strength_of_a_layer():
    torch.manual_seed(0)
    n, layer = 16, nn.BatchNorm1d(3).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0])), layer.bias.copy_(torch.tensor([0.1, 0.0, -0.3]))
    x, weights = torch.randn(n, 3, dtype=torch.float64) ** 3, torch.randn(n, 3, dtype=torch.float64)

    def loss():
        return (layer(x).relu() * weights).sum(1).mean()

    (found,) = P.layer_strengths(layer, loss)
    x_, w = x.numpy(), weights.numpy()
    xhat = (x_ - x_.mean(0)) / np.sqrt(x_.var(0) + 1e-5)
    h = xhat * layer.weight.detach().numpy() + layer.bias.detach().numpy()
    fisher = ((w * (h > 0) * xhat) ** 2).mean(0)
    kurtosis = (xhat**4).mean(0) / (xhat**2).mean(0) ** 2 - 3
    zeta = (kurtosis + 2) * fisher / (8 * n) + (1 / (1 + np.exp(-h))).mean(0) / (2 * n)
    np.testing.assert_allclose(found.strength.zeta, zeta)
    assert math.isclose(found.penalty, (zeta * layer.weight.detach().numpy() ** 2).sum())
    (half,) = P.layer_strengths(layer, loss, batch_size=2 * n)
    torch.testing.assert_close(2 * half.strength.zeta, found.strength.zeta)


def test_strength_falls_as_the_batch_grows_and_tells_its_parts():
    h = torch.randn(100, dtype=torch.float64)
    small, large = (P.regularisation_strength(h, batch_size=m, excess_kurtosis=0.5, fisher=0.3) for m in (8, 80))
    assert math.isclose(small.zeta, 10 * large.zeta)
    assert small.zeta == small.from_sigma + small.from_mean
    assert math.isclose(small.from_mean, h.sigmoid().mean() / 16)


def test_dependence_on_the_batch():
    x = batch()[0]
    found = P.batch_dependence(network(), x)
    assert found.by_example.shape == (8,)
    assert 0.1 < found.mean <= found.max
    assert P.batch_dependence(network(lambda c: nn.GroupNorm(2, c)), x).max < 1e-5
    dropout = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 3))
    assert P.batch_dependence(dropout, x).max < 1e-5


def test_dependence_on_the_batch_has_a_known_size():
    """Two halves with means -1 and 1, a norm that only subtracts: in its half each value is 1 off."""
    from normlab.layers import MeanOnlyNorm

    x = torch.cat([torch.randn(50, 1) - 1, torch.randn(50, 1) + 1]).double()
    found = P.batch_dependence(MeanOnlyNorm(1, dtype=torch.float64), x)
    means = x[:50].mean() - x.mean(), x[50:].mean() - x.mean()
    expected = torch.cat([means[0].abs().expand(50), means[1].abs().expand(50)]) / x.std(correction=0)
    torch.testing.assert_close(found.by_example, expected)
