"""The traps in the recipe itself, one test for each, named after what goes wrong; and decay of norms."""

from __future__ import annotations

import fnmatch

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as lrs

import normlab
from normlab.errors import SpecError
from normlab.recipes import InputNormalized
from normlab.recipes.groups import roles_by_name_and_shape
from normlab.surgery import norm_sites
from tests.unit.recipes.models import SmallViT, conv_net, timm_model

R = normlab.recipe("revisited(input_norm=False)")


def by_name(model: nn.Module, groups) -> dict[str, set[str]]:
    called = {id(p): name for name, p in model.named_parameters()}
    return {group["name"]: {called[id(p)] for p in group["params"]} for group in groups}


@pytest.mark.parametrize(
    ("name", "zeros", "total"), [("resnet18", 8, 20), ("resnet50", 16, 53), ("resnext50_32x4d", 16, 53)]
)
def test_scale_already_zero_by_residual_zero_init(name, zeros, total):
    model = timm_model(name)
    assert str(R.plan(model)) == f"BatchNorm scales: {total - zeros} set, {zeros} zero-initialised and kept"
    R.prepare(model)
    assert sum(not site.module.weight.any() for site in norm_sites(model)) == zeros
    overwrite = normlab.recipe("revisited(input_norm=False, zero_scale='overwrite')")
    assert str(overwrite.plan(model)) == f"BatchNorm scales: {total} set"
    overwrite.prepare(model)
    assert all(site.module.weight.eq(0.1).all() for site in norm_sites(model))


def test_filter_by_shape_takes_linear_to_one_and_prelu_for_scales():
    model = nn.Sequential(nn.Linear(16, 1), nn.PReLU(4), nn.BatchNorm1d(4))
    official = roles_by_name_and_shape(model.named_parameters())
    assert official["0.weight"] == official["1.weight"] == "norm_scale"
    found = by_name(model, R.param_groups(model, lr=0.1, weight_decay=1e-4))
    assert found["norm_scale"] == {"2.weight"}
    assert "0.weight" in found["weight"]
    assert "1.weight" in found["no_decay"]


def test_scheduler_overwrites_the_rate_of_scales():
    model = conv_net()
    optimizer = torch.optim.SGD(R.param_groups(model, lr=0.1), momentum=0.9)
    scheduler = lrs.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    assert len({group["max_lr"] for group in optimizer.param_groups}) == 1
    (finding,) = R.verify(optimizer, scheduler)
    assert "recipe.max_lr(optimizer, 0.1)" in finding.instead
    optimizer = torch.optim.SGD(R.param_groups(model, lr=0.1), momentum=0.9)
    scheduler = lrs.OneCycleLR(optimizer, max_lr=R.max_lr(optimizer, 0.1), total_steps=10)
    assert R.verify(optimizer, scheduler) == ()


def test_eta_min_floor_keeps_scales_from_decaying():
    optimizer = torch.optim.SGD(R.param_groups(conv_net(), lr=0.1))
    scheduler = lrs.CosineAnnealingLR(optimizer, 10, eta_min=1e-3)
    (finding,) = R.verify(optimizer, scheduler)
    assert (finding.rule, finding.instead) == ("eta_min", "eta_min=0, or at most 0.0001")
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[1]["lr"] == pytest.approx(1e-3)  # where it began


@pytest.mark.parametrize(("name", "count"), [("mobilenetv2_100", 52), ("repvgg_a0", 61), ("efficientnet_b0", 49)])
def test_batch_norm_act_2d_is_scaled_and_keeps_its_activation(name, count):
    model = timm_model(name)
    acts = [(site.module.act, site.module.drop) for site in norm_sites(model)]
    R.prepare(model)
    sites = norm_sites(model)
    assert [type(site.module).__name__ for site in sites] == ["BatchNormAct2d"] * count
    assert all(site.module.weight.eq(0.1).all() for site in sites)
    assert [(site.module.act, site.module.drop) for site in sites] == acts
    groups = R.param_groups(model, lr=0.1)
    assert by_name(model, groups)["norm_scale"] == {f"{site.name}.weight" for site in sites}


@pytest.mark.parametrize("spec", ["revisited", "rbn", "norm(to='switch')", "frozen_scale", "a2"])
def test_pretrained_weights_are_refused_by_every_recipe(spec):
    model = conv_net()
    model(torch.randn(4, 3, 5, 5))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(SpecError, match=r"these look like pretrained weights.*force=True"):
        normlab.recipe(spec).prepare(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    normlab.recipe(spec).prepare(model, force=True)


def test_norm_without_an_activation_shows_in_the_factors_and_can_be_left_out():
    model = timm_model("mobilenetv2_050")
    report = R.explain(R.prepare(model), torch.randn(4, 3, 64, 64))
    factors = {layer.name: layer.factor for layer in report.layers}
    after_projection = [name for name in factors if fnmatch.fnmatch(name, "blocks.2.[12].bn1")]
    after_activation = [name for name in factors if fnmatch.fnmatch(name, "blocks.2.[12].bn2")]
    assert max(factors[name] for name in after_projection) < 0.8 * min(factors[name] for name in after_activation)
    assert any("MobileNetV2's projections" in note for note in report.notes)
    scoped = normlab.recipe("revisited(input_norm=False, scope='!blocks.*.bn3, !blocks.0.0.bn2')")
    model = scoped.prepare(timm_model("mobilenetv2_050"))
    assert {m.act.__class__.__name__ for m in (s.module for s in norm_sites(model)) if m.weight[0] == 1} == {"Identity"}
    assert all(s.module.weight.eq(0.1).all() for s in norm_sites(model) if s.name.endswith("bn1"))


def test_adam_moves_a_slow_scale_by_its_rate_however_small_its_gradient():
    """lr / 100 with SGD moves a scale in proportion to its gradient; with AdamW it moves it by lr / 100."""
    moved: dict[tuple[str, float], float] = {}
    for cls in (torch.optim.SGD, torch.optim.AdamW):
        for size in (1.0, 1e-3):
            torch.manual_seed(0)
            model = R.prepare(conv_net())
            optimizer = cls(R.param_groups(model, lr=0.1, weight_decay=1e-2))
            (size * model(torch.randn(4, 3, 5, 5)).square().sum()).backward()
            optimizer.step()
            moved[cls.__name__, size] = float((model.bn1.weight.detach() - 0.1).abs().max())
    assert moved["SGD", 1e-3] == pytest.approx(1e-3 * moved["SGD", 1.0], rel=1e-2)
    assert moved["AdamW", 1e-3] == pytest.approx(0.001, rel=1e-2) == moved["AdamW", 1.0]
    assert any("is not the same with Adam and AdamW as with SGD" in note for note in R.explain(conv_net()).notes)


def test_input_norm_changes_names_is_optional_and_comes_off():
    names = list(conv_net().state_dict())
    model = normlab.recipe("revisited").prepare(conv_net())
    assert isinstance(model, InputNormalized)
    assert [name for name in model.state_dict() if name.startswith("1.")] == [f"1.{name}" for name in names]
    assert list(model.unwrap().state_dict()) == names == list(R.prepare(conv_net()).state_dict())
    assert model[0].weight.eq(torch.tensor(0.058)).all()


@pytest.mark.parametrize("norms", ["batch", "all"])
@pytest.mark.parametrize("build", [conv_net, SmallViT])
def test_weight_decay_on_scales_and_shifts_when_groups_are_built_by_name(build, norms):
    model = build()
    groups = normlab.recipe(f"revisited(norms='{norms}')").param_groups(model, lr=0.1, weight_decay=1e-2)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    affine = [p for site in norm_sites(model) for p in (site.module.weight, site.module.bias)]
    assert not decayed & {id(p) for p in affine}
    assert decayed == {id(m.weight) for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))} | {
        id(m.in_proj_weight) for m in model.modules() if isinstance(m, nn.MultiheadAttention)
    }


@pytest.mark.parametrize(
    ("name", "channels"), [("vit_tiny_patch16_224", 3), ("convnext_atto", 3), ("densenet121", 3), ("regnety_002", 3)]
)
def test_input_channels_of_models_of_others(name, channels):
    options = {"depth": 1} if name.startswith("vit") else {}
    model = timm_model(name, **options)
    r = normlab.recipe("revisited(norms='all')")
    prepared = r.prepare(model)
    assert prepared[0].num_features == channels
    r.param_groups(prepared, lr=0.1)


def test_torchvision_models_and_frozen_batch_norms():
    timm_model("test_resnet")  # where torchvision fails on import, this mends it
    torchvision = pytest.importorskip("torchvision")
    r = normlab.recipe("revisited")
    model = r.prepare(torchvision.models.mobilenet_v2())
    assert model[0].num_features == 3
    assert len(r.plan(model).set) == 53
    frozen = torchvision.models.resnet18(norm_layer=torchvision.ops.FrozenBatchNorm2d)
    with pytest.raises(SpecError, match=r"has no BatchNorm layer.*20 FrozenBatchNorm2d are frozen by construction"):
        R.prepare(frozen)
    frozen.bn1 = nn.BatchNorm2d(64)
    frozen.layer1[0].bn1.running_mean.fill_(3)
    R.prepare(frozen)
    assert frozen.layer1[0].bn1.running_mean.eq(3).all()
    assert by_name(frozen, R.param_groups(frozen, lr=0.1))["norm_scale"] == {"bn1.weight"}


def test_an_input_that_is_no_batch_of_images_is_refused_by_name():
    model = normlab.recipe("revisited").prepare(conv_net())
    with pytest.raises(SpecError, match=r"takes a tensor of floating point, got list: use input_norm=False"):
        model([torch.randn(3, 5, 5)])
    with pytest.raises(SpecError, match=r"got torch.uint8 tensor"):
        model(torch.zeros(1, 3, 5, 5, dtype=torch.uint8))
    with pytest.raises(SpecError, match=r"made for 3 channels.*has 1: prepare\(model, in_channels=1\)"):
        model(torch.zeros(1, 1, 5, 5))
