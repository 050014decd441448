"""Normalization layers are found by type, each once."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from normlab.errors import SpecError, UnknownName
from normlab.layers import BatchNorm
from normlab.surgery import affine_params, is_norm, norm_sites, register_norm_type


class OwnBatchNorm(nn.BatchNorm2d):
    pass


KNOWN = [
    (BatchNorm(4), "batch"),
    (nn.BatchNorm1d(4), "batch"),
    (nn.BatchNorm2d(4, affine=False), "batch"),
    (nn.BatchNorm3d(4), "batch"),
    (nn.SyncBatchNorm(4), "batch"),
    (nn.LazyBatchNorm2d(), "batch"),
    (OwnBatchNorm(4), "batch"),
    (nn.InstanceNorm1d(4), "instance"),
    (nn.InstanceNorm2d(4, affine=True), "instance"),
    (nn.InstanceNorm3d(4), "instance"),
    (nn.GroupNorm(2, 4), "group"),
    (nn.LayerNorm(4), "layer"),
    (nn.RMSNorm(4), "rms"),
]


@pytest.mark.parametrize(("module", "kind"), KNOWN, ids=lambda value: type(value).__name__)
def test_kind_by_type_also_at_the_root(module, kind):
    (site,) = norm_sites(module)
    assert (site.name, site.module, site.kind) == ("", module, kind)
    assert is_norm(module)


@pytest.mark.parametrize("module", [nn.Linear(4, 4), nn.PReLU(), nn.Embedding(2, 4), nn.Sequential(), nn.Identity()])
def test_what_does_not_normalize(module):
    assert not is_norm(module)
    assert norm_sites(module) == []
    with pytest.raises(SpecError, match=f"{type(module).__name__} is no known normalization layer"):
        affine_params(module)


def test_names_in_order_and_shared_layers_once():
    shared = nn.BatchNorm2d(4)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(nn.Conv2d(4, 4, 1), shared, nn.GroupNorm(2, 4))})
    assert [site.name for site in norm_sites(model)] == ["a", "b.2"]


def test_affine_params():
    layer = nn.LayerNorm(4)
    assert affine_params(layer).weight is layer.weight
    assert affine_params(layer).bias is layer.bias
    assert affine_params(nn.RMSNorm(4)).bias is None
    assert affine_params(nn.BatchNorm2d(4, affine=False)) == (None, None)


def test_a_weight_that_is_computed_is_refused():
    layer = parametrizations.weight_norm(nn.BatchNorm1d(4), dim=None)
    with pytest.raises(SpecError, match="weight of ParametrizedBatchNorm1d is computed"):
        affine_params(layer)


def test_own_types_can_be_registered():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(4))

    assert not is_norm(Own())
    register_norm_type(Own, kind="batch", weight="gain", bias="none")
    layer = Own()
    assert affine_params(layer).weight is layer.gain
    assert norm_sites(nn.Sequential(layer))[0].weight == "gain"
    with pytest.raises(UnknownName, match="unknown kind of norm 'bach'; did you mean 'batch'"):
        register_norm_type(Own, kind="bach")
