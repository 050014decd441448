"""`explain` says who learns how fast, and measures what the scales do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import normlab
from normlab.recipes.measure import gradient_factors
from normlab.seeding import Streams
from normlab.study.models import create_model
from normlab.surgery import norm_sites
from tests.unit.recipes.models import SmallGPT, SmallViT, conv_net

STREAMS = Streams(1)


def test_the_whole_report():
    r = normlab.recipe("revisited(scale=0.5, input_norm=False)")
    model = r.prepare(conv_net(depth=1), streams=STREAMS)
    text = str(r.explain(model, lr=0.1, weight_decay=1e-4)).splitlines()
    assert text[1:15] == [
        "BatchNorm scales: 1 set",
        "",
        "no_decay: learning rate 0.1, decay no (3 tensors, 13 values)",
        "    conv0.bias",
        "    bn0.bias",
        "    head.bias",
        "norm_scale: learning rate 0.001, decay no (1 tensors, 4 values)",
        "    bn0.weight",
        "weight: learning rate 0.1, decay 0.0001 (2 tensors, 128 values)",
        "    conv0.weight",
        "    head.weight",
        "",
        "- Eq. 15: after a scale of γ₀ = 0.5, the activation and Kaiming's weights, the variance is scaled by γ₀² to "
        "0.17; eps = 1e-05 is 0.0059 % of the variance",
        text[14],
    ]
    assert "is not the same with Adam and AdamW as with SGD" in text[14]


def test_every_parameter_is_told_once_alike_ones_together():
    r = normlab.recipe("frozen_scale")
    model = r.prepare(create_model("resnet8(width=4)", in_channels=1, num_classes=3))
    report = r.explain(model)
    told = [name for group in report.groups for name in group.parameters]
    assert sorted(told) == sorted(name for name, _ in model.named_parameters())
    assert report.groups[-1].name == "not trained"
    assert "    1.layer*.*.bn*.weight  x6" in str(report).splitlines()
    assert report.groups[0].rate == "lr"
    assert repr(report) == str(report)


@pytest.mark.parametrize(("scale", "share"), [(0.01, 15), (0.1, 0.15)])
def test_eps_is_told_next_to_the_variance_and_in_words_where_it_counts(scale, share):
    r = normlab.recipe(f"revisited(scale={scale})")
    text = str(r.explain(r.prepare(conv_net())))
    assert f"eps = 1e-05 is {share} % of the variance" in text
    assert ("standard deviation of 0.93 instead of 1, which compounds with depth" in text) == (scale == 0.01)


def test_measured_eps_is_told_in_words():
    r = normlab.recipe("revisited(scale=0.01)")
    model = r.prepare(create_model("resnet8(width=4)", in_channels=1, num_classes=3), streams=STREAMS)
    report = r.explain(model, torch.randn(16, 1, 8, 8))
    worst = max(layer.eps / layer.var for layer in report.layers)
    assert worst > 0.1
    assert f"% of the variance or more in {len(report.layers) - 1} layers" in report.notes[1]  # all but the input's


@pytest.mark.parametrize("train", [True, False])
def test_the_factors_are_those_of_eq_12_and_leave_no_trace(train):
    r = normlab.recipe("revisited")
    model = r.prepare(nn.Sequential(conv_net(depth=3), nn.Dropout(0.5)), streams=STREAMS).train(train)
    x = torch.randn(8, 3, 5, 5)
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    state = torch.get_rng_state()
    report = r.explain(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())

    found: list[float] = []
    for site in norm_sites(model):
        site.module.register_forward_pre_hook(
            lambda bn, args: found.append(
                (bn.weight / (args[0].var((0, 2, 3), correction=0) + bn.eps).sqrt()).mean().item()
            )
        )
    model.train()(x)
    assert [layer.factor for layer in report.layers] == pytest.approx(found, rel=1e-4)
    assert [layer.name for layer in report.layers] == [site.name for site in norm_sites(model)]


KINDS = {
    "group": (nn.GroupNorm(2, 6), (4, 6, 5, 5)),
    "instance": (nn.InstanceNorm2d(6, affine=True), (4, 6, 5, 5)),
    "layer": (nn.LayerNorm(6), (4, 5, 6)),
    "layer_of_two": (nn.LayerNorm((5, 6)), (4, 5, 6)),
    "layer_of_maps": (normlab.create("layer", num_features=6), (4, 6, 5, 5)),
    "rms": (nn.RMSNorm(6), (4, 5, 6)),
    "batch": (nn.BatchNorm1d(6), (8, 6)),
    "batch_own": (normlab.create("batch(scale=0.3)", num_features=6), (4, 6, 5)),
}


@pytest.mark.parametrize(("layer", "shape"), KINDS.values(), ids=KINDS)
def test_each_kind_is_measured_over_what_it_normalizes(layer, shape):
    layer = copy.deepcopy(layer).double()
    nn.init.constant_(layer.weight, 0.5)
    x = torch.randn(*shape, dtype=torch.float64) * 3 + 1
    (found,), missing = gradient_factors(nn.Sequential(layer), x)
    assert missing == []
    y = layer(x)
    # y = factor · (x - mean) while β is 0
    ratios = y.detach() / (x - (0 if isinstance(layer, nn.RMSNorm) else _mean(layer, x)))
    assert found.factor == pytest.approx(float(ratios.mean()), rel=0.02)
    assert found.scale == 0.5


def _mean(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    match layer:
        case nn.LayerNorm():
            return x.mean(list(range(x.dim() - len(layer.normalized_shape), x.dim())), keepdim=True)
        case nn.GroupNorm():
            parts = x.reshape(len(x), 2, -1)
            return parts.mean(2, keepdim=True).expand_as(parts).reshape(x.shape)
        case nn.InstanceNorm2d():
            return x.mean((2, 3), keepdim=True)
        case normlab.layers.LayerNorm():
            return x.mean((1, 2, 3), keepdim=True)
    return x.mean([d for d in range(x.dim()) if d != 1], keepdim=True)


@pytest.mark.parametrize(("build", "batch"), [(SmallViT, torch.randn(2, 3, 8, 8)), (SmallGPT, torch.arange(8)[None])])
def test_transformers_are_measured_too(build, batch):
    r = normlab.recipe("revisited(norms='all', input_norm=False)")
    report = r.explain(r.prepare(build()), batch)
    assert len(report.layers) == 5
    assert all(layer.scale == pytest.approx(0.1) and layer.factor > 0 for layer in report.layers)


def test_what_is_not_measured_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), normlab.create("frn", num_features=4))
    notes = normlab.recipe("baseline").explain(model, torch.randn(2, 3, 4, 4)).notes
    assert notes[-1] == "1 layers are not in the table, not reached by this batch or of another kind: 2"


def test_an_unprepared_model_is_told():
    r = normlab.recipe("revisited")
    assert (
        "2 of 2 scales are not at γ₀ = 0.1: trained since, or prepare(model) is to come" in r.explain(conv_net()).notes
    )
    assert not any("are not at" in note for note in r.explain(r.prepare(conv_net())).notes)


def test_training_rules_are_told():
    r = normlab.recipe("norm(to='sparse_switch')")
    report = r.explain(r.prepare(conv_net()))
    assert "mix_logits: learning rate lr / 10, gradient clipped to 1, decay no (4 tensors, 12 values)" in str(report)
    assert "some layers have training rules: call recipes.attach_rules(optimizer, model) once" in report.notes
