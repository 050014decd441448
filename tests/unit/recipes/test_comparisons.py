"""The recipes of the paper's comparison, and the controls."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import normlab
from normlab.errors import SpecError
from normlab.layers import (
    GroupNorm,
    IEBNMinus,
    InstanceEnhancementBatchNorm,
    RBNMinus,
    RepresentativeBatchNorm,
    SparseSwitchNorm,
    SwitchNorm,
    WeightStandardizedConv2d,
)
from normlab.recipes import InputNormalized
from normlab.seeding import Streams
from normlab.surgery import norm_sites
from tests.unit.recipes.models import SmallViT, conv_net

STREAMS = Streams(1)
COMPARED = {
    "rbn": (RepresentativeBatchNorm, 0.731059),
    "rbn_minus": (RBNMinus, 0.731059),
    "iebn": (InstanceEnhancementBatchNorm, 0.268941),
    "iebn_minus": (IEBNMinus, 0.268941),
}


def batch() -> torch.Tensor:
    return torch.randn(4, 3, 5, 5)


def by_name(groups) -> dict[str, dict]:
    return {group["name"]: group for group in groups}


@pytest.mark.parametrize("name", COMPARED)
def test_comparisons_are_base_with_another_norm(name):
    cls, gate = COMPARED[name]
    base = normlab.recipe("baseline").prepare(conv_net(), streams=STREAMS)
    r = normlab.recipe(name)
    model = r.prepare(conv_net(), streams=STREAMS)
    sites = [site.module for site in norm_sites(model)[1:]]
    assert [type(module) for module in sites] == [cls, cls]
    shared = dict(base.named_parameters())
    for key, p in model.named_parameters():
        assert torch.equal(p, shared[key]) if key in shared else "gate" in key, key
    x = batch()
    expected = base[1].bn0(base[1].conv0(base[0](x))) * gate
    torch.testing.assert_close(model[1].bn0(model[1].conv0(model[0](x))), expected, rtol=1e-5, atol=1e-5)
    groups = by_name(r.param_groups(model, lr=0.1, weight_decay=1e-4))
    assert groups.keys() == {"no_decay", "norm_scale", "weight"}
    assert {group["lr"] for group in groups.values()} == {0.1}
    assert {id(m.gate_bias) for m in sites} <= {id(p) for p in groups["no_decay"]["params"]}


def test_rbn_is_the_scaling_part_unless_asked():
    for center in (False, True):
        model = normlab.recipe(f"rbn(center={center})").prepare(conv_net())
        assert [(m.center_weight is not None) for m in map(model[1].get_submodule, ("bn0", "bn1"))] == [center] * 2


@pytest.mark.parametrize("formulation", ["a1", "a2"])
def test_a1_and_a2_are_revisited_with_that_formulation(formulation):
    x = batch()
    made = []
    for spec in (f"{formulation}(scale=0.2)", f"revisited(scale=0.2, formulation='{formulation}')"):
        r = normlab.recipe(spec)
        model = r.prepare(conv_net(), streams=STREAMS)
        groups = r.param_groups(model, lr=0.1, weight_decay=1e-4)
        made.append((model(x), model.state_dict(), [(g["name"], g["lr"], len(g["params"])) for g in groups]))
    assert torch.equal(made[0][0], made[1][0])
    assert made[0][1].keys() == made[1][1].keys()
    assert made[0][2] == made[1][2]


@pytest.mark.parametrize("spec", ["frozen_scale", "frozen_scale(scale=0.1)", "beta_boost"])
def test_fixed_scales_do_not_move(spec):
    r = normlab.recipe(spec)
    model = r.prepare(conv_net())
    groups = r.param_groups(model, lr=0.1, weight_decay=0.1)
    assert "norm_scale" not in by_name(groups)
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    weights = [site.module.weight for site in norm_sites(model)]
    before = [weight.clone() for weight in weights]
    assert before[1].eq(r.scale).all()
    for _ in range(2):
        model(batch()).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, weights, strict=True))
    assert model[1].bn0.bias.abs().max() > 0


@pytest.mark.parametrize("spec", ["frozen_scale", "beta_boost"])
def test_scales_of_zeros_are_not_fixed_for_good(spec):
    model = conv_net()
    nn.init.zeros_(model.bn1.weight)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(SpecError, match=r"1 zero-initialised scales \(bn1, ...\) would stay 0 for good"):
        normlab.recipe(spec).prepare(model)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    normlab.recipe(f"{spec}(zero_scale='overwrite')").prepare(model)
    assert model.bn1.weight.eq(1).all()


def test_scales_that_should_be_fixed_and_are_not():
    with pytest.raises(SpecError, match=r"frozen_scale trains no scales, and that of 'bn0' .*prepare\(model\) first"):
        normlab.recipe("frozen_scale").param_groups(conv_net(), lr=0.1)


def test_beta_boost_multiplies_the_rate_of_the_shifts_in_scope_alone():
    r = normlab.recipe("beta_boost(train_scale=True, scope='bn0')")
    model = r.prepare(conv_net())
    groups = by_name(r.param_groups(model, lr=0.01, weight_decay=1e-4))
    assert groups["norm_shift"]["params"] == [model[1].bn0.bias]
    assert (groups["norm_shift"]["lr"], groups["norm_shift"]["weight_decay"]) == (0.64, 0)
    assert (groups["norm_scale"]["lr"], groups["no_decay"]["lr"]) == (0.01, 0.01)
    assert r.max_lr(list(groups.values()), 0.5) == [0.5, 0.5, 0.5, 32.0]
    with pytest.raises(SpecError, match="rule='name_shape' is the official code's"):
        r.param_groups(model, lr=0.1, rule="name_shape")


@pytest.mark.parametrize(
    ("to", "cls"), [("switch", SwitchNorm), ("group(num_groups=2)", GroupNorm), ("sparse_switch", SparseSwitchNorm)]
)
def test_norm_converts_and_nothing_else(to, cls):
    model = conv_net()
    before = {name: (p, p.detach().clone()) for name, p in model.named_parameters()}
    r = normlab.recipe(f"norm(to='{to}')")
    assert r.prepare(model) is model
    assert [type(m) for m in (model.bn0, model.bn1)] == [cls, cls]
    for name, p in model.named_parameters():
        if name in before:
            assert p is before[name][0]
            assert torch.equal(p, before[name][1])
    optimizer = torch.optim.SGD(r.param_groups(model, lr=0.1, weight_decay=1e-4))
    model(batch()).sum().backward()
    optimizer.step()


def test_norm_can_differ_from_baseline_by_the_normalizer_alone():
    r = normlab.recipe("norm(to='group(num_groups=2)', input_norm=True, init='fan_in')")
    model = r.prepare(conv_net(), streams=STREAMS)
    base = normlab.recipe("baseline").prepare(conv_net(), streams=STREAMS)
    assert isinstance(model, InputNormalized)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), base.parameters(), strict=True))


def test_norm_scope_kinds_and_convolutions():
    model = normlab.recipe("norm(to='instance', scope='bn1')").prepare(conv_net())
    assert [type(m).__name__ for m in (model.bn0, model.bn1)] == ["BatchNorm2d", "InstanceNorm"]
    with pytest.raises(SpecError, match=r"has no BatchNorm layer.*norms='all' acts on its 5 LayerNorm"):
        normlab.recipe("norm(to='group(num_groups=2)')").prepare(SmallViT())
    vit = normlab.recipe("norm(to='group(num_groups=2)', norms='all')").prepare(SmallViT())
    assert {type(site.module) for site in norm_sites(vit)} == {GroupNorm}
    assert vit(torch.randn(2, 3, 8, 8)).shape == (2, 5)
    convs = normlab.recipe("norm(to='weight_standardized')").prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    assert isinstance(convs[0], WeightStandardizedConv2d)


def test_norm_at_the_root_gives_the_new_root():
    assert isinstance(normlab.recipe("norm(to='switch')").prepare(nn.BatchNorm2d(4)), SwitchNorm)


def test_random_initial_values_of_new_layers_come_from_the_streams():
    r = normlab.recipe("norm(to='attentive')")

    def attention(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = r.prepare(nn.Sequential(nn.BatchNorm2d(32)), streams=STREAMS)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    state = torch.get_rng_state()
    assert torch.equal(attention(1), attention(2))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    r.prepare(nn.Sequential(nn.BatchNorm2d(32)), streams=STREAMS)
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(state)


def test_prepare_reports_how_many_scales_it_kept(caplog):
    model = conv_net()
    nn.init.zeros_(model.bn1.weight)
    with caplog.at_level(logging.INFO, "normlab"):
        normlab.recipe("revisited").prepare(model)
    assert caplog.messages == ["revisited: BatchNorm scales: 1 set, 1 zero-initialised and kept"]
