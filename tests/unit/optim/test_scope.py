"""Which parameters SAM perturbs, and whose size ASAM follows, is decided by type and role."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import normlab
from normlab.errors import SpecError, Unavailable
from normlab.optim import SAM
from normlab.optim.scope import find_targets
from normlab.study.models import create_model, import_timm
from normlab.surgery import norm_sites, register_norm_type


def names(model: nn.Module, scope: str, *, weights: bool = False) -> set[str]:
    found = {
        id(t.parameter) for t in find_targets(model, list(model.parameters()), scope) if t.is_weight or not weights
    }
    return {name for name, p in model.named_parameters() if id(p) in found}


def test_pitfall_2_norms_are_found_by_type_not_by_name():
    model = create_model("resnet8(width=4)", in_channels=1, num_classes=3)
    expected = {f"{site.name}.{which}" for site in norm_sites(model) for which in ("weight", "bias")}
    assert names(model, "norm") == expected
    assert {"layer2.0.downsample.1.weight", "layer2.0.downsample.1.bias"} <= expected
    assert names(model, "not_norm") == {name for name, _ in model.named_parameters()} - expected
    assert names(model, "all") == {name for name, _ in model.named_parameters()}


def test_a_name_that_sounds_like_a_norm_is_none():
    model = nn.ModuleDict({"norm": nn.Linear(3, 3), "bn": nn.PReLU(), "layer": nn.LayerNorm(3)})
    assert names(model, "norm") == {"layer.weight", "layer.bias"}


@pytest.mark.parametrize(
    ("layer", "affine"),
    [
        (nn.BatchNorm2d(4), {"weight", "bias"}),
        (nn.InstanceNorm2d(4, affine=True), {"weight", "bias"}),
        (nn.GroupNorm(2, 4), {"weight", "bias"}),
        (nn.RMSNorm(4), {"weight"}),
        (normlab.create("switch", num_features=4), {"weight", "bias"}),
        (normlab.create("rbn", num_features=4), {"weight", "bias"}),
        (normlab.create("frn", num_features=4), {"weight", "bias"}),
        (normlab.create("mean_only", num_features=4), {"bias"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_weight_and_bias_of_a_norm_are_norm(layer, affine):
    model = nn.Sequential(layer, nn.Conv2d(4, 4, 1))
    assert names(model, "norm") == {f"0.{name}" for name in affine}
    assert names(model, "norm") | names(model, "not_norm") == names(model, "all")


def test_the_activation_of_a_fused_layer_is_no_norm():
    try:
        layers = import_timm().layers
    except Unavailable as error:
        pytest.skip(str(error))
    model = nn.Sequential(
        layers.BatchNormAct2d(4, act_layer=nn.PReLU), layers.LayerNorm2d(4), layers.GroupNormAct(4, 2)
    )
    affine = {f"{i}.{name}" for i in range(3) for name in ("weight", "bias")}
    assert names(model, "norm") == affine
    assert names(model, "not_norm") == {"0.act.weight"}


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain, self.weight_offset = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))


def test_registered_types_count_with_the_names_they_told():
    model = nn.Sequential(Mine(), nn.Linear(3, 3))
    with pytest.raises(SpecError, match="has none that normlab knows: register_norm_type adds yours"):
        names(model, "norm")
    register_norm_type(Mine, kind="batch", weight="gain", bias="weight_offset")
    assert names(model, "norm") == {"0.gain", "0.weight_offset"}
    assert names(model, "all", weights=True) == {"0.gain", "1.weight"}


def test_weights_are_known_by_their_role():
    model = nn.ModuleDict(
        {
            "norm_weight": nn.Linear(4, 4),
            "attention": nn.MultiheadAttention(4, 2),
            "rnn": nn.GRU(4, 4),
            "spectral": parametrizations.weight_norm(nn.Linear(4, 4)),
            "bn": nn.BatchNorm1d(4),
            "rbn": normlab.create("rbn", num_features=4),
        }
    )
    model.token = nn.Parameter(torch.zeros(4))
    assert names(model, "all", weights=True) == {
        "norm_weight.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "rnn.weight_ih_l0",
        "rnn.weight_hh_l0",
        "spectral.parametrizations.weight.original0",
        "spectral.parametrizations.weight.original1",
        "bn.weight",
        "rbn.weight",
        "rbn.center_weight",
        "rbn.gate_weight",
    }


def test_a_parameter_held_twice_is_perturbed_once():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.BatchNorm1d(3), shared)
    assert len(find_targets(model, list(model.parameters()), "all")) == 4


def test_a_norm_whose_weight_is_computed_is_refused_where_it_matters():
    model = nn.Sequential(nn.Linear(3, 3), parametrizations.weight_norm(nn.LayerNorm((3, 3))))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SpecError, match=r"weight of .* is computed"):
        SAM(optimizer, model, scope="norm")
    SAM(optimizer, model, scope="all")


def test_wrapped_models_have_the_same_scope():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        targets = find_targets(wrapped, list(model.parameters()), "norm")
        assert [t.parameter is p for t, p in zip(targets, model[1].parameters(), strict=True)] == [True, True]
