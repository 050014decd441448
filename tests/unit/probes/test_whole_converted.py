"""Measurements of a whole model around layers that `convert` put there, and of the order and places of what comes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import normlab
from normlab import probes as P
from normlab.surgery import norm_sites
from tests.unit.probes.models import batch, network


def closure(model):
    x, t = batch()
    return lambda: nn.functional.cross_entropy(model(x), t)


def exchanged(spec):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)).double()
    normlab.convert(model, spec)
    x = torch.randn(4, 8, 6, dtype=torch.float64)
    return model, x, lambda: model(x).square().sum(2).tanh().mean()


def test_lipschitz_ratio_of_an_exchanged_layer_norm():
    """convert moves its dimensions in hooks: without them the ratio was wrong, or an error."""
    model, x, loss = exchanged("group(num_groups=2)")
    h = model[0](x).detach().requires_grad_()
    y = model[1](h)
    y.retain_grad()
    model[2](y).square().sum(2).tanh().mean().backward()
    found = P.lipschitz_ratios(model, loss)[0]
    assert math.isclose(found.before, h.grad.norm().item(), rel_tol=1e-9)
    assert math.isclose(found.after, y.grad.norm().item(), rel_tol=1e-9)


def test_channels_of_an_exchanged_layer_norm_are_its_last_dimension():
    model, x, _ = exchanged("batch")
    x = x[:, :5]  # as many places as channels would hide which is which
    found = P.channel_reliance(model, lambda: float(model(x).sum()), "1")
    model.eval()
    with torch.no_grad():
        h = model[1](model[0](x))
        whole = model[2](h).sum()
        held = h.clone()
        held[..., 3] = 0
        expected = float(whole - model[2](held).sum())
    assert len(found.drops) == 8
    assert math.isclose(float(found.drops[3]), expected, rel_tol=1e-9)


def test_strength_of_an_exchanged_layer_norm():
    model, x, loss = exchanged("batch")
    plain = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    plain[0].load_state_dict(model[0].state_dict())
    plain[2].load_state_dict(model[2].state_dict())

    def plain_loss():
        h = plain[1](plain[0](x).movedim(-1, 1)).movedim(1, -1)
        return plain[2](h).square().sum(2).tanh().mean()

    (found,), (expected,) = P.layer_strengths(model, loss), P.layer_strengths(plain, plain_loss)
    torch.testing.assert_close(found.strength.zeta, expected.strength.zeta)


def test_lipschitz_ratios_come_in_the_order_of_norm_sites():
    model = network()
    names = [row.name for row in P.lipschitz_ratios(model, closure(model))]
    assert names == [site.name for site in norm_sites(model)]


@pytest.mark.parametrize("points", [3, 11, 21, 51])
@pytest.mark.parametrize("radius", [1.0, 0.3])
def test_the_middle_of_a_slice_is_the_weights_themselves(points, radius):
    model = network()
    found = P.loss_slice(model, closure(model), points=points, radius=radius, training=True)
    assert found.at[points // 2] == 0.0
    assert found.losses[points // 2].item() == closure(model)().item()
