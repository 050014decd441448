"""Convolutions in the place of convolutions keep their kernels."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from normlab.errors import SpecError
from normlab.layers import CONVS, ConvNorm, WeightNormConv2d
from normlab.study.models import import_timm
from normlab.surgery import convert
from tests.conftest import TOLERANCE

layers = import_timm().layers


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False),
    )


@pytest.mark.parametrize("spec", list(CONVS))
def test_every_convolution_takes_the_kernel_and_reverts(spec):
    model, x = net().eval(), torch.randn(2, 3, 9, 9)
    y, kernel, keys = model(x), model[0].weight, list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    record = convert(model, spec, sample=x, optimizer=optimizer)
    assert [change.names for change in record.changes] == [("0",), ("3",)]
    assert model[0].weight is kernel
    assert (model[0].stride, model[3].groups, model[3].bias) == ((2, 2), 4, None)
    assert isinstance(model[0], CONVS[spec])
    model.train()(x).square().mean().backward()
    optimizer.step()
    assert all(p.grad is not None and p.isfinite().all() for p in model.parameters())
    record.revert()
    assert list(model.state_dict()) == keys
    record.check(optimizer)
    assert model[0].weight is kernel
    assert model.eval()(x).shape == y.shape


def test_weight_norm_starts_from_the_same_function():
    model, x = net().eval(), torch.randn(2, 3, 9, 9)
    y = model(x)
    record = convert(model, "weight_norm")
    assert type(model[0]) is WeightNormConv2d
    torch.testing.assert_close(model(x), y, rtol=0, atol=TOLERANCE[torch.float32])
    assert record.changes[0].exact_at_eval
    assert convert(model, "weight_norm(eps=1e-5)").changes[0].kept == ("weight", "bias", "gain")
    convert(model, "weight_norm(initial_gain=1.0)")


@pytest.mark.parametrize(
    ("cls", "spec", "wrong"),
    [
        (layers.StdConv2d, "weight_standardized", "scaled_weight_standardized"),
        (layers.ScaledStdConv2d, "scaled_weight_standardized", "weight_standardized"),
    ],
)
def test_standardized_convolutions_of_timm_keep_their_function(cls, spec, wrong):
    options = {"gamma": 1.7, "gain_init": 0.8} if cls is layers.ScaledStdConv2d else {}
    model, x = nn.Sequential(cls(3, 8, 3, stride=2, eps=1e-4, bias=True, **options)), torch.randn(2, 3, 9, 9)
    y, old = model(x), model[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (change,) = convert(model, spec, sample=x, optimizer=optimizer).changes
    torch.testing.assert_close(model(x), y, rtol=0, atol=TOLERANCE[torch.float32])
    assert change.exact_at_eval
    assert "up to rounding" in change.note
    assert model[0].weight is old.weight
    with pytest.raises(SpecError, match=f"its values keep their meaning in {spec} alone"):
        convert(nn.Sequential(old), wrong, where="0")


def test_other_convolutions_are_left_alone_and_refused_when_asked_for():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), layers.Conv2dSame(8, 8, 3), nn.ConvTranspose2d(8, 8, 3))
    record = convert(model, "weight_standardized", dry_run=True)
    assert [left.name for left in record.left] == ["1"]
    with pytest.raises(
        SpecError, match=r"^1, Conv2dSame: Conv2dSame cannot become weight_standardized: it may do more"
    ):
        convert(model, "weight_standardized", where="*")


def test_computed_kernels_and_dynamic_padding_are_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.utils.spectral_norm(nn.Conv2d(8, 8, 3)))
    prune.random_unstructured(model[1], "weight", 0.5)
    assert [left.name for left in convert(model, "weight_standardized", dry_run=True).left] == ["1", "2"]
    with pytest.raises(SpecError, match=r"^1, .*its weight is computed"):
        convert(model, "weight_standardized", where="1")
    model = nn.Sequential(layers.ScaledStdConv2dSame(3, 8, 3, stride=2), layers.ScaledStdConv2dSame(8, 8, 3))
    record = convert(model, "scaled_weight_standardized")
    assert record.changes[0].exact_at_eval
    assert [left.name for left in record.left] == ["0"]


def test_a_kernel_of_one_value_is_refused_by_name():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1, groups=8))
    with pytest.raises(SpecError, match=r"^1, Conv2d: .*fan-in 1"):
        convert(model, "weight_standardized")
    assert type(model[0]) is nn.Conv2d


def test_options_and_frozen_parameters():
    model = net()
    model[0].requires_grad_(False)
    convert(model, "conv_norm(bn=False)")
    assert isinstance(model[0], ConvNorm)
    assert not any(p.requires_grad for p in model[0].parameters())
    assert all(p.requires_grad for p in model[3].parameters())


def test_networks_without_norms_say_what_they_have():
    model = nn.Sequential(layers.ScaledStdConv2d(3, 8, 3), nn.ReLU())
    with pytest.raises(SpecError, match=r"no normalization layer that could become group.*1 ScaledStdConv2d"):
        convert(model, "group")
