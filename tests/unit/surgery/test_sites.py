"""Normalization layers are found by type, each once."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from normlab.errors import SpecError, UnknownName
from normlab.layers import (
    NORMS,
    BatchLayer,
    BatchNorm,
    FilterResponseNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    MetaNorm,
    SwitchNorm,
)
from normlab.study.models import import_timm
from normlab.surgery import affine_params, is_norm, norm_sites, norm_type, register_norm_type
from normlab.surgery.sites import overrides_forward


class OwnBatchNorm(nn.BatchNorm2d):
    pass


KNOWN = [
    (BatchNorm(4), "batch"),
    (InstanceNorm(4), "instance"),
    (GroupNorm(4, 2), "group"),
    (LayerNorm(4), "layer"),
    (SwitchNorm(4), "batch"),
    (FilterResponseNorm(4), "other"),
    (MetaNorm(4), "other"),
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


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_of_normlab_is_known(name):
    layer = NORMS.create(name, num_features=64)
    kind = norm_type(layer).kind
    own = {"instance", "group", "layer"}
    assert kind == (name if name in own else "batch" if isinstance(layer, BatchLayer) else "other")
    assert not overrides_forward(layer)
    weight, bias = affine_params(layer)
    assert weight is None or weight.shape == (64,)  # not BNET's kernel
    assert bias is None or bias.shape == (64,)


COUNTS = {"mobilenetv2_100": 52, "repvgg_a0": 61, "densenet121": 121, "efficientnet_b0": 49, "regnety_002": 44}


@pytest.mark.parametrize("name", COUNTS)
def test_norms_with_an_activation_inside_are_found_in_networks_of_timm(name):
    with torch.device("meta"):
        sites = norm_sites(import_timm().create_model(name))
    assert {(type(site.module).__name__, site.kind) for site in sites} == {("BatchNormAct2d", "batch")}
    assert len(sites) == COUNTS[name]


def test_frozen_batch_norm_has_nothing_to_train():
    layers = import_timm().layers
    torchvision = importlib.import_module("torchvision")
    for layer in (torchvision.ops.FrozenBatchNorm2d(4), layers.norm_act.FrozenBatchNormAct2d(4)):
        (site,) = norm_sites(layer)
        assert (site.kind, site.frozen) == ("batch", True)
        assert affine_params(layer) == (None, None)
    assert not norm_sites(layers.BatchNormAct2d(4))[0].frozen


def test_rms_norms_of_transformers_are_told_apart():
    pytest.importorskip("transformers")
    import_timm()  # transformers imports torchvision, too
    models = "transformers.models."
    known = {"llama.modeling_llama.LlamaRMSNorm": "rms", "t5.modeling_t5.T5LayerNorm": "rms"}
    known |= {"qwen3.modeling_qwen3.Qwen3RMSNorm": "rms", "detr.modeling_detr.DetrFrozenBatchNorm2d": "batch"}
    known |= {"gemma.modeling_gemma.GemmaRMSNorm": None}  # multiplies by 1 + weight
    for name, kind in known.items():
        module, _, cls = (models + name).rpartition(".")
        found = norm_type(getattr(importlib.import_module(module), cls)(8))
        assert (None if found is None else found.kind) == kind, name
        assert found is None or found.features == ("first" if kind == "batch" else "last")


def test_layer_norm_2d_of_torchvision_has_its_features_first():
    import_timm()
    layer = importlib.import_module("torchvision.models.convnext").LayerNorm2d(4)
    assert norm_type(layer).features == "first"
    assert norm_type(nn.LayerNorm(4)).features == "last"


def test_a_subclass_may_do_more_than_what_is_known():
    class More(nn.BatchNorm2d):
        def forward(self, input):
            return super().forward(input) + 1

    assert not overrides_forward(OwnBatchNorm(4))
    assert overrides_forward(More(4))
    register_norm_type(More, kind="batch")
    assert not overrides_forward(More(4))


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
    with pytest.raises(UnknownName, match="unknown features 'lest'; did you mean 'last'"):
        register_norm_type(Own, kind="batch", features="lest")
