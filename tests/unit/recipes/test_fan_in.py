"""Initial values are the paper's, and a stream's name alone decides them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import normlab
from normlab.recipes.fan_in import fan_in
from normlab.seeding import Streams
from tests.unit.recipes.models import conv_net, resnet18

STREAMS = Streams(1)


LAYERS = [
    (nn.Conv1d(6, 4, 3, groups=2), 9),
    (nn.Conv2d(6, 4, (3, 5)), 90),
    (nn.Conv2d(6, 6, 3, groups=6), 9),
    (nn.ConvTranspose2d(6, 4, 3), 54),
    (nn.ConvTranspose2d(6, 4, 3, groups=2), 27),
    (nn.Linear(7, 3), 7),
]


@pytest.mark.parametrize(("layer", "expected"), LAYERS, ids=str)
def test_fan_in_is_what_one_output_sums_over(layer, expected):
    assert fan_in(layer) == expected
    # at stride 1 an inner output of a layer of ones sums exactly fan_in ones
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    if not isinstance(layer, nn.Linear):
        x = torch.ones(1, 6, *[15] * (layer.weight.dim() - 2))
        assert layer(x).max() == expected


@pytest.mark.parametrize("build", [conv_net, resnet18, lambda: conv_net(depth=4)], ids=["small", "resnet18", "deep"])
def test_the_seed_decides_and_nothing_else(build):
    r = normlab.recipe("revisited")
    torch.manual_seed(1)
    a = r.prepare(build(), streams=STREAMS)
    torch.manual_seed(2)
    b = r.prepare(build(), streams=STREAMS)
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_arms_share_initial_values_by_name():
    short = normlab.recipe("baseline(input_norm=False)").prepare(conv_net(depth=2), streams=STREAMS)
    long = normlab.recipe("revisited").prepare(conv_net(depth=4), streams=STREAMS).unwrap()
    weights = [name for name, p in short.named_parameters() if p.dim() > 1]
    assert weights == ["conv0.weight", "conv1.weight", "head.weight"]
    for name in weights:
        assert torch.equal(short.get_parameter(name), long.get_parameter(name))
    assert not torch.equal(short.get_parameter("conv1.weight"), long.get_parameter("conv2.weight"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_values_do_not_depend_on_dtype_or_memory_format(dtype):
    r = normlab.recipe("revisited(input_norm=False)")
    a = r.prepare(conv_net(), streams=STREAMS)
    b = r.prepare(conv_net().to(memory_format=torch.channels_last).to(dtype), streams=STREAMS)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p.to(dtype), q) or torch.equal(q, torch.full_like(q, 0.1))  # 0.1 is as exact as can be


def test_without_streams_the_default_generator_governs():
    r = normlab.recipe("revisited")

    def first_weight(seed: int) -> torch.Tensor:
        model = conv_net()
        torch.manual_seed(seed)
        return r.prepare(model).get_parameter("1.conv0.weight")

    assert torch.equal(first_weight(3), first_weight(3))
    assert not torch.equal(first_weight(3), first_weight(4))


def test_keep_leaves_the_models_own_weights():
    model = conv_net()
    before = {name: p.clone() for name, p in model.named_parameters() if "bn" not in name}
    normlab.recipe("revisited(init='keep')").prepare(model)
    assert all(torch.equal(model.get_parameter(name), value) for name, value in before.items())
    assert model.get_parameter("bn0.weight").eq(0.1).all()


def test_tied_weights_are_drawn_once_under_their_first_name():
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    two.weight = one.weight
    model = nn.Sequential(one, nn.BatchNorm1d(4), two)
    normlab.recipe("baseline").prepare(model, streams=STREAMS)
    alone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    normlab.recipe("baseline").prepare(alone, streams=STREAMS)
    assert two.weight is one.weight
    assert torch.equal(one.weight, alone[0].weight)
    assert one.bias.eq(0).all()
    assert two.bias.eq(0).all()
