"""Frozen norms stay as they are, whatever is done to the model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.layers import NORMS
from normlab.surgery import freeze, unfreeze
from normlab.surgery.freeze import is_frozen
from tests.unit.surgery.models import SPECS, assert_state, norm, state


def network():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4))


def x(channels=2):
    return torch.randn(4, channels, 6, 6) + 5


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def compiled(model):
    torch._dynamo.reset()  # it gives nn.Sequential up after so many compilations, by whatever tests
    return torch.compile(model, backend="eager", fullgraph=True)


@pytest.mark.parametrize("copied", [lambda model: model, copy.deepcopy, through_pickle, compiled])
def test_a_frozen_backbone_has_no_moving_statistics(copied):
    model = network()
    model(x())
    assert freeze(model) == ["1", "4"]
    before = state(model[1])
    model = copied(model)
    for _ in range(2):
        model.train()
        model(x())
    parts, y = getattr(model, "_orig_mod", model), x(4)
    assert_state(parts[1], before)
    assert [part.training for part in parts] == [True, False, True, True, True]
    torch.testing.assert_close(parts[1](y), copy.deepcopy(parts[1]).eval()(y), rtol=0, atol=0)


@pytest.mark.parametrize("spec", SPECS)
def test_every_norm_can_be_frozen(spec):
    layer = norm(spec)
    layer(x(4).double())
    freeze(layer)
    before = state(layer)
    y = layer.train()(x(4).double())
    assert not y.requires_grad
    assert_state(layer, before)
    assert unfreeze(layer.train())
    assert layer.train()(x(4).double()).requires_grad
    with pytest.raises(AssertionError):
        assert_state(layer, before)


def test_weights_or_statistics_alone():
    model = network()
    assert freeze(model, affine=False) == ["1"]
    assert all(p.requires_grad for p in model.parameters())
    unfreeze(model)
    assert freeze(model, stats=False) == ["1", "4"]
    assert model.train()[1].training
    assert [p.requires_grad for p in model.parameters()] == [True] * 2 + [False] * 2 + [True] * 2 + [False] * 2


def test_an_optimizer_does_not_move_frozen_weights_by_old_gradients():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model(x()).sum().backward()
    optimizer.step()
    freeze(model)
    before = state(model[1])
    optimizer.zero_grad(set_to_none=False)
    model(x()).sum().backward()
    optimizer.step()
    assert_state(model[1], before)


def test_unfreeze_trains_what_was_trained_before():
    model = network()
    model[1].bias.requires_grad_(False)
    model.train()
    freeze(model)
    freeze(model)
    assert unfreeze(model) == ["1", "4"]
    assert model[1].training
    assert model[1].weight.requires_grad
    assert not model[1].bias.requires_grad
    assert vars(model[1]).keys() == vars(nn.BatchNorm2d(4)).keys()
    model.eval()
    assert not model[1].training


def test_the_dropout_in_a_frozen_norm_follows_the_model():
    layer = nn.BatchNorm2d(4)
    layer.drop = nn.Dropout(0.5)
    freeze(layer)
    assert layer.train().drop.training
    assert not layer.training
    assert not layer.eval().drop.training
    assert is_frozen(layer)


def test_the_state_dict_shows_nothing():
    model = network()
    before = model.state_dict()
    freeze(model)
    assert model.state_dict().keys() == before.keys()
    network().load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.ReLU(), {}, "no normalization layer has running statistics or trained parameters"),
        (nn.GroupNorm(2, 4), {"affine": False}, "no normalization layer has running statistics$"),
        (nn.BatchNorm2d(4, affine=False), {"stats": False}, "no normalization layer has trained parameters"),
        (nn.BatchNorm2d(4), {"stats": False, "affine": False}, "freezes nothing"),
    ],
    ids=["none", "group", "affine", "neither"],
)
def test_nothing_to_freeze_is_an_error(model, options, message):
    with pytest.raises(SpecError, match=message):
        freeze(model, **options)
    with pytest.raises(SpecError, match="there is nothing to unfreeze"):
        unfreeze(model)


def test_parts_of_a_norm_are_frozen_with_it():
    layer = NORMS.create("attentive(num_affine=2)", num_features=4)
    freeze(layer)
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    before = state(layer)
    layer.train()(x(4))
    assert_state(layer, before)
