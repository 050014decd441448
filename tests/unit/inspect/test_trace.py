"""`inspect` leaves a model and all random numbers as they were, also where something raises."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.inspect import inspect
from normlab.layers import NORMS
from tests.unit.inspect.nets import images, small


def state(model):
    """All that could have changed."""
    values = {key: value.clone() for key, value in model.state_dict().items()}
    gradients = {key: value.grad for key, value in model.named_parameters()}
    flags = [module.training for module in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    names = [sorted(vars(module)) for module in model.modules()]
    identities = [id(value) for value in (*model.parameters(), *model.buffers())]
    numbers = torch.get_rng_state(), random.getstate(), np.random.get_state()
    return values, gradients, flags, hooks, names, identities, *numbers


def assert_same(before, after):
    for one, other in zip(before[0].items(), after[0].items(), strict=True):
        assert one[0] == other[0]
        torch.testing.assert_close(one[1], other[1], rtol=0, atol=0, equal_nan=True)
    assert all(before[1][key] is after[1][key] for key in before[1])
    assert before[2:6] == after[2:6]
    assert torch.equal(before[6], after[6])
    assert before[7] == after[7]
    assert all(np.array_equal(a, b) for a, b in zip(before[8], after[8], strict=True))


def with_norm(name):
    torch.manual_seed(0)
    norm = NORMS.create(name, num_features=32)
    return nn.Sequential(nn.Conv2d(3, 32, 3), norm, nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(32, 4, 3))


@pytest.mark.parametrize("name", NORMS)
def test_no_trace(name):
    model = with_norm(name)
    model(images()).sum().backward()
    model.eval()
    model[0].weight.grad = None
    before = state(model)
    x = images()
    report = inspect(model, x)
    str(report)
    assert_same(before, state(model))
    assert torch.equal(x, images())
    assert report.rows[0].name == "1"


def test_training_goes_on_bit_for_bit():
    def train(look):
        torch.manual_seed(0)
        model = with_norm("batch")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            model(images()).square().mean().backward()
            if look:
                inspect(model, images())
            optimizer.step()
        return model.state_dict()

    with_it, without = train(True), train(False)
    assert all(torch.equal(with_it[key], without[key]) for key in without)


def test_no_trace_where_the_model_raises():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            self.net(x)
            torch.rand(3)
            raise RuntimeError("no way")

    model = Breaks()
    before = state(model)
    with pytest.raises(SpecError, match="no way"):
        inspect(model, images())
    assert_same(before, state(model))
    assert model.calls == 0


class Noisy(nn.Module):
    """Draws from generators of its own."""

    def __init__(self):
        super().__init__()
        self.net = small()
        self.torch = torch.Generator().manual_seed(3)
        self.numpy = np.random.default_rng(3)
        self.old = np.random.RandomState(3)
        self.calls = 0

    def draw(self):
        return float(torch.rand([], generator=self.torch)), float(self.numpy.random()), float(self.old.rand())

    def forward(self, x):
        self.calls += 1
        return self.net(x + sum(self.draw()))


def test_generators_that_a_model_owns_are_put_back():
    model = Noisy()
    first = inspect(model, images()).as_json()
    assert inspect(model, images()).as_json() == first
    assert model.draw() == Noisy().draw()
    assert model.calls == 0


def test_twice_gives_the_same():
    model = with_norm("batch")
    assert inspect(model, images()).as_json() == inspect(model, images()).as_json()
