"""Recipes act on every kind of norm when asked, and on those in scope."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import normlab
from normlab.errors import SpecError, UnknownName
from normlab.layers import NORMS
from normlab.seeding import Streams
from normlab.surgery import norm_sites
from tests.unit.recipes.models import Odd, SmallGPT, SmallViT, conv_net

STREAMS = Streams(1)
ALL = normlab.recipe("revisited(norms='all', input_norm=False)")
MODELS = {
    "vit": (SmallViT, lambda: torch.randn(4, 3, 8, 8), 5),
    "gpt": (SmallGPT, lambda: torch.randint(11, (4, 6)), 5),
}


def names_in(model: nn.Module, groups, name: str) -> list[str]:
    called = {id(p): key for key, p in model.named_parameters()}
    return [called[id(p)] for group in groups if group["name"] == name for p in group["params"]]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("name", MODELS)
def test_transformers_get_scales_groups_and_a_step(name, optimizer):
    build, batch, count = MODELS[name]
    model = ALL.prepare(build(), streams=STREAMS)
    weights = [site.module.weight for site in norm_sites(model)]
    assert len(weights) == count
    assert all(weight.eq(0.1).all() for weight in weights)
    groups = ALL.param_groups(model, lr=0.1, weight_decay=1e-2)
    assert {id(p) for g in groups if g["name"] == "norm_scale" for p in g["params"]} == {id(w) for w in weights}
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
        ("no_decay", 0.1, 0),
        ("norm_scale", 0.001, 0),
        ("weight", 0.1, 1e-2),
    ]
    opt = optimizer(groups)
    model(batch()).square().mean().backward()
    opt.step()
    moved = max((weight.detach() - 0.1).abs().max() for weight in weights)
    assert 0 < moved <= 0.1 * 0.1


def test_weight_tying_keeps_the_embedding_and_one_group():
    model = SmallGPT()
    before = model.embed.weight.detach().clone()
    ALL.prepare(model, streams=STREAMS)
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.embed.weight, before)
    groups = ALL.param_groups(model, lr=0.1, weight_decay=1e-2)
    assert names_in(model, groups, "weight").count("embed.weight") == 1
    with pytest.raises(SpecError, match=r"begin with an embedding.*input_norm=False"):
        normlab.recipe("revisited(norms='all')").prepare(SmallGPT())


def test_odd_kinds_are_scaled_and_grouped():
    model = Odd()
    del model.spectral
    ALL.prepare(model)
    groups = ALL.param_groups(model, lr=0.1)
    assert names_in(model, groups, "norm_scale") == ["bn.weight", "ln.weight", "gn.weight", "rms.weight"]
    assert all(getattr(model, name).weight.eq(0.1).all() for name in ("bn", "ln", "gn", "rms"))


@pytest.mark.parametrize("name", NORMS)
def test_own_norms_count_by_their_kind(name):
    model = nn.Sequential(nn.Conv2d(3, 32, 1), normlab.create(name, num_features=32))
    site = norm_sites(model)[0]
    r = ALL if site.kind != "batch" else normlab.recipe("revisited(input_norm=False)")
    if not isinstance(getattr(site.module, site.weight, None), nn.Parameter):
        with pytest.raises(SpecError, match=r"none of its 1 .* layers has a scale"):
            r.prepare(model)
        return
    groups = r.param_groups(r.prepare(model, streams=STREAMS), lr=0.1)
    assert names_in(model, groups, "norm_scale") == [f"1.{site.weight}"]
    assert site.module.weight.eq(0.1).all()


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("all", ["bn0", "bn1", "bn2"]),
        ("bn1", ["bn1"]),
        ("bn0, bn2", ["bn0", "bn2"]),
        ("!bn0", ["bn1", "bn2"]),
        ("bn*, !bn1", ["bn0", "bn2"]),
    ],
)
@pytest.mark.parametrize("input_norm", [True, False])
def test_scope_names_layers_whatever_stands_before_them(scope, expected, input_norm):
    r = normlab.recipe(f"revisited(scope={scope!r}, input_norm={input_norm})")
    model = r.prepare(conv_net(depth=3))
    net = model.unwrap() if input_norm else model
    for name in ("bn0", "bn1", "bn2"):
        assert net.get_submodule(name).weight.eq(0.1 if name in expected else 1).all()
    prefix = "1." if input_norm else ""
    wanted = (["0.weight"] if input_norm else []) + [f"{prefix}{name}.weight" for name in expected]
    assert names_in(model, r.param_groups(model, lr=0.1), "norm_scale") == wanted
    assert len(r.plan(model).outside) == 3 - len(expected)


def test_scope_that_fits_nothing_names_the_nearest():
    with pytest.raises(UnknownName, match="unknown layer in scope 'nb1'; did you mean 'bn1'"):
        normlab.recipe("revisited(scope='bn0, nb1')").prepare(conv_net())
    with pytest.raises(UnknownName, match="unknown layer in scope 'norm'"):
        normlab.recipe("revisited(scope='!norm')").param_groups(conv_net(), lr=0.1)


@pytest.mark.parametrize("build", [SmallViT, SmallGPT])
def test_a_model_without_batch_norm_hears_of_norms_all(build):
    with pytest.raises(SpecError, match=r"has no BatchNorm layer.*norms='all' acts on its"):
        normlab.recipe("revisited(input_norm=False)").prepare(build())


def test_trained_layer_norms_are_refused_unless_forced():
    model = SmallViT()
    nn.init.normal_(model.norm.weight)
    with pytest.raises(
        SpecError, match=r"1 of 5 .* scales or shifts that differ by channel.*\(norm, ...\).*force=True"
    ):
        ALL.prepare(model)
    assert ALL.prepare(model, force=True).norm.weight.eq(0.1).all()


def test_layers_with_initial_statistics_of_their_own_are_no_pretrained_ones():
    own = normlab.create("switch(running_init=(0.0, 0.0))", num_features=4)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), own)
    normlab.recipe("revisited").prepare(model)
    assert own.running_var.eq(0).all()


def test_parts_of_a_norm_keep_their_initial_values():
    attentive = normlab.create("attentive", num_features=32)
    before = {name: p.detach().clone() for name, p in attentive.named_parameters()}
    normlab.recipe("baseline").prepare(nn.Sequential(nn.Conv2d(3, 32, 1), attentive, nn.BatchNorm2d(32)))
    assert all(torch.equal(p, before[name]) for name, p in attentive.named_parameters())


def test_a_weight_normalized_convolution_gets_the_length_of_its_new_kernel():
    conv = normlab.create("weight_norm", in_channels=3, out_channels=4, kernel_size=3)
    normlab.recipe("baseline").prepare(nn.Sequential(conv, nn.BatchNorm2d(4)), streams=STREAMS)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    normlab.recipe("baseline").prepare(plain, streams=STREAMS)
    torch.testing.assert_close(conv.effective_weight(), plain[0].weight)


@pytest.mark.parametrize("spec", ["revisited", "init_only(scale=0.01)", "a2"])
def test_scaled_eps_is_the_same_share_of_a_scaled_variance(spec):
    spec = spec.replace(")", ", scaled_eps=True)") if "(" in spec else f"{spec}(scaled_eps=True)"
    r = normlab.recipe(spec)
    model = r.prepare(conv_net())
    assert [site.module.eps for site in norm_sites(model)] == pytest.approx([1e-5, *[1e-5 * r.scale**2] * 2])
    with pytest.raises(SpecError, match="scaled_eps: RMSNorm has no eps of its own"):
        normlab.recipe("revisited(norms='all', scaled_eps=True, input_norm=False)").prepare(SmallGPT())
