"""Swapping a layer loses nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normlab.errors import SpecError, UnknownName
from normlab.layers import BatchNorm
from normlab.surgery import reformulate, replace


class OwnBatchNorm(nn.BatchNorm2d):
    pass


def test_a_shared_layer_is_replaced_everywhere():
    shared = nn.ReLU()
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.Identity(), shared)})
    new = nn.Tanh()
    replace(model, "b.2", new)
    assert model["a"] is new
    assert [type(module) for module in model["b"]] == [nn.Tanh, nn.Identity, nn.Tanh]


def test_what_cannot_be_replaced():
    model = nn.Sequential(nn.ReLU())
    with pytest.raises(SpecError, match="the model itself, Sequential, cannot be swapped"):
        replace(model, "", nn.ReLU())
    with pytest.raises(UnknownName, match="unknown submodule 'relu'"):
        replace(model, "relu", nn.ReLU())


@pytest.mark.parametrize("formulation", ["a1", "a2", "standard"])
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"track_running_stats": False}, {"eps": 1e-3}], ids=str)
@pytest.mark.parametrize("cls", [nn.BatchNorm2d, BatchNorm])
def test_reformulated_layer_holds_the_same_tensors(cls, options, formulation):
    old = cls(3, dtype=torch.float64, **options)
    old(torch.randn(4, 3, 2, 2, dtype=torch.float64))
    nn.init.uniform_(old.weight)
    old.weight.requires_grad_(False)
    old.eval()
    new = reformulate(old, formulation)
    assert new.weight is old.weight
    assert new.bias is old.bias
    assert dict(new.named_buffers()).keys() == dict(old.named_buffers()).keys()
    assert all(buffer is new.get_buffer(name) for name, buffer in old.named_buffers())
    assert (new.eps, new.momentum, new.training, new.formulation) == (old.eps, old.momentum, False, formulation)
    assert all(parameter.dtype == torch.float64 for parameter in new.parameters())
    if new.inner_weight is not None:
        assert not new.inner_weight.requires_grad
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(new(x), old(x), rtol=0, atol=1e-15)  # β is 0


@pytest.mark.parametrize("cls", [OwnBatchNorm, nn.SyncBatchNorm, nn.GroupNorm])
def test_other_types_are_refused_by_name(cls):
    module = cls(1, 3) if cls is nn.GroupNorm else cls(3)
    with pytest.raises(SpecError, match=f"'a1' cannot stand in for {cls.__name__}"):
        reformulate(module, "a1")


def test_hooks_and_missing_weights_are_refused():
    hooked = nn.BatchNorm2d(3)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(SpecError, match="this BatchNorm2d has hooks"):
        reformulate(hooked, "a1")
    with pytest.raises(SpecError, match="formulation 'a1' needs a weight"):
        reformulate(nn.BatchNorm2d(3, affine=False), "a1")
