"""Measurements of a whole model: known answers, and everything put back."""

from __future__ import annotations

import copy
import math
import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

from normlab import probes as P
from normlab.layers import SparseSwitchNorm
from normlab.optim import SAM
from normlab.surgery import frozen_stats
from tests.unit.probes.models import batch, network


def closure(model, dtype=torch.float32):
    x, t = batch()
    return lambda: nn.functional.cross_entropy(model(x.to(dtype)), t)


def gradients(model, loss):
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dict(zip(named, torch.autograd.grad(loss(), named.values()), strict=True))


def length(values):
    return math.sqrt(sum(float(v.double().square().sum()) for v in values))


def moved(model, direction, scale):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in twin.named_parameters():
            if name in direction:
                p.add_(direction[name], alpha=scale)
    return twin


MEASURES = {
    "landscape": lambda model, loss: P.landscape(model, loss, step_sizes=[0.1, 0.5]),
    "covariate_shift": lambda model, loss: P.internal_covariate_shift(model, loss, lr=0.5),
    "sharpness": lambda model, loss: P.sharpness(model, loss, rho=0.5),
    "lipschitz_ratios": P.lipschitz_ratios,
    "layer_strengths": P.layer_strengths,
    "loss_slice": lambda model, loss: P.loss_slice(model, loss, points=3, dimensions=2),
    "ablation_curve": lambda model, loss: P.ablation_curve(model, loss, "1", orders=2, points=3),
    "channel_reliance": lambda model, loss: P.channel_reliance(model, loss, "3.bn1", fill="mean"),
    "spectral_norms": P.layerwise_spectral_norms,
    "batch_dependence": lambda model, loss: P.batch_dependence(model, batch()[0]),
}


def everything(model):
    """All that a measurement could leave a trace in."""
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    held = [(name, id(p), p.detach().clone()) for name, p in (*model.named_parameters(), *model.named_buffers())]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    states = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    return [m.training for m in model.modules()], hooks, held, grads, states, torch.is_grad_enabled()


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def build(training=True):
    model = nn.Sequential(*network(), nn.Dropout(0.5))
    closure(model)().backward()  # there are gradients, and statistics
    model.train(training)
    model[3].bn2.eval()
    return model


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MEASURES)
def test_everything_is_put_back(name, training):
    model = build(training)
    before = everything(model)
    first = MEASURES[name](model, closure(model))
    assert same(everything(model), before)
    again = MEASURES[name](model, closure(model))
    assert repr(first) == repr(again)  # dropout is the same each time


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "batch_dependence"])
def test_everything_is_put_back_when_the_loss_raises(name):
    model = build()
    before = everything(model)
    for survives in (0, 1, 2):
        calls, loss = [], closure(model)

        def fails(calls=calls, loss=loss, survives=survives):
            calls.append(1)
            value = loss()
            if len(calls) > survives:
                raise MemoryError
            return value

        with suppress(MemoryError):
            MEASURES[name](model, fails)
        assert len(calls) <= survives + 1
        assert same(everything(model), before), survives


def test_a_layer_that_writes_to_its_parameters_is_put_back():
    layer = SparseSwitchNorm(6)
    layer.set_progress(0.9)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = everything(model)
    P.landscape(model, closure(model), step_sizes=[0.1])
    assert same(everything(model), before)


def test_landscape():
    model = network().double()
    loss = closure(model, torch.float64)
    found = P.landscape(model, loss, step_sizes=[0.2, 1.0])
    g = gradients(model, loss)
    for place, eta in enumerate([0.2, 1.0]):
        twin = moved(model, g, -eta)
        there = gradients(twin, closure(twin, torch.float64))
        off = length(there[name] - g[name] for name in g)
        assert math.isclose(found.losses[place], closure(twin, torch.float64)().item(), rel_tol=1e-9)
        assert math.isclose(found.gradient_differences[place], off, rel_tol=1e-9)
        assert math.isclose(found.betas[place], off / (eta * length(g.values())), rel_tol=1e-9)
    assert found.loss_variation == (min(found.losses), max(found.losses))
    steepest = max(
        abs(v - found.loss) / (e * found.gradient_norm) for v, e in zip(found.losses, [0.2, 1.0], strict=True)
    )
    assert math.isclose(found.lipschitz, steepest)


def test_covariate_shift_goes_by_the_order_of_calls():
    class Reversed(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(3, 2), nn.Linear(4, 3)

        def forward(self, x):
            return self.last(self.first(x).tanh())

    model = Reversed().double()
    x = torch.randn(5, 4, dtype=torch.float64)

    def loss():
        return model(x).square().sum()

    found = P.internal_covariate_shift(model, loss, lr=0.1)
    assert found.layers == ("first", "last")
    assert found.shifts[0] == 0
    assert math.isclose(found.cosines[0], 1, rel_tol=1e-12)
    g = gradients(model, loss)
    twin = moved(model, {name: value for name, value in g.items() if name.startswith("first")}, -0.1)
    there = torch.autograd.grad(twin(x).square().sum(), list(twin.last.parameters()))
    own = [g["last.weight"], g["last.bias"]]
    assert math.isclose(found.shifts[1], length(a - b for a, b in zip(own, there, strict=True)), rel_tol=1e-9)
    assert math.isclose(found.norms[1], length(own), rel_tol=1e-12)


@pytest.mark.parametrize("scope", ["all", "norm", "not_norm"])
def test_sharpness_looks_where_sam_does(scope):
    model = network().double()
    loss = closure(model, torch.float64)
    found = P.sharpness(model, loss, rho=0.3, scope=scope)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model, rho=0.3, scope=scope)
    start = loss()
    start.backward()
    sam.first_step()
    assert math.isclose(found.perturbed, loss().item(), rel_tol=1e-9)
    assert math.isclose(found.loss, start.item(), rel_tol=1e-9)
    assert math.isclose(found.value, found.perturbed - found.loss)


def test_sharpness_of_a_quadratic():
    w = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    model = nn.Module()
    model.w = w
    h = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    found = P.sharpness(model, lambda: w @ h @ w / 2, rho=0.1)
    g = h @ w.detach()
    assert math.isclose(found.gradient_norm, g.norm().item())
    assert math.isclose(found.curvature, 0.1**2 * (g @ h @ g / (g @ g) / 2).item(), rel_tol=1e-9)


def test_loss_slices_are_filter_normalized():
    model = network().double()
    loss = closure(model, torch.float64)
    line = P.loss_slice(model, loss, points=5, training=True)
    assert line.at == (-1.0, -0.5, 0.0, 0.5, 1.0)
    assert math.isclose(line.losses[2].item(), loss().item(), rel_tol=1e-9)
    plane = P.loss_slice(model, loss, points=5, dimensions=2, training=True)
    torch.testing.assert_close(plane.losses[:, 2], line.losses)
    other = P.loss_slice(model, loss, points=5, seed=1, training=True)
    assert not torch.equal(other.losses, line.losses)
    single = nn.Linear(3, 1, bias=False).double()  # one filter: at a = 1 its length is |w + d|, and |d| = |w|
    x = torch.eye(3, dtype=torch.float64)
    quadratic = P.loss_slice(single, lambda: single(x).square().sum(), points=3)
    squares = quadratic.losses.tolist()
    assert math.isclose(squares[0] + squares[2], 4 * squares[1], rel_tol=1e-9)


HOOKED = sorted(MEASURES.keys() - {"landscape", "sharpness", "loss_slice", "batch_dependence"})


@pytest.mark.parametrize("name", HOOKED)
def test_a_compiled_model_is_measured_as_another(name):
    """Its hooks would not be called, so that layers would be missing, or come in the wrong order."""
    model = network()
    plain = MEASURES[name](model, closure(model))
    model.compile(backend="eager")
    with frozen_stats(model):
        model(batch()[0])
    assert repr(MEASURES[name](model, closure(model))) == repr(plain)
