"""Another layer in the place of a norm: nothing is lost that could be kept."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

from normlab.layers import BatchNorm, GroupNorm, InstanceNorm, SwitchNorm
from normlab.surgery import convert, norm_sites
from tests.conftest import TOLERANCE
from tests.unit.surgery.conversions import net, trained

DIMENSIONS = {nn.BatchNorm1d: (3, 4, 5), nn.BatchNorm2d: (3, 4, 5, 2), nn.BatchNorm3d: (2, 4, 3, 2, 2)}
OPTIONS = [{}, {"affine": False}, {"bias": False}, {"momentum": None, "eps": 1e-3}, {"track_running_stats": False}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cls", DIMENSIONS)
def test_batch_norms_of_all_kinds_give_the_same_to_the_last_bit(cls, dtype, options):
    x = torch.randn(DIMENSIONS[cls]).to(dtype) + 1
    model = nn.Sequential(trained(cls(4, dtype=dtype, **options), x)).eval()
    y, state = model(x), copy.deepcopy(model.state_dict())
    eps, momentum = model[0].eps, model[0].momentum
    exact = (
        dtype != torch.bfloat16 or "track_running_stats" not in options
    )  # torch's batch moments in bfloat16 are its own
    for spec in ("batch", nn.SyncBatchNorm, "batch(sync=True)", "batch(sync=False)", cls):
        if "sync=True" not in str(spec) or options.get("track_running_stats", True):  # else it needs processes
            record = convert(model, spec)
            assert torch.equal(model(x), y) or not exact, spec
            assert record.changes[0].exact_at_eval
        assert (model[0].eps, model[0].momentum, model[0].training) == (eps, momentum, False)
    assert type(model[0]) is cls
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_new_layer_holds_the_very_tensors_of_the_old_one():
    model = net()
    before = dict(model.named_parameters()) | dict(model.named_buffers())
    convert(model, "batch")
    after = dict(model.named_parameters()) | dict(model.named_buffers())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


def test_reverting_puts_everything_back_to_the_bit():
    model = net().eval()
    x, layers = torch.randn(2, 3, 8, 8), list(model.modules())
    y, state = model(x), copy.deepcopy(model.state_dict())
    record = convert(model, "group(num_groups=2)", sample=x)
    assert not torch.equal(model(x), y)
    assert record.revert() is model
    assert all(a is b for a, b in zip(model.modules(), layers, strict=True))
    assert torch.equal(model(x), y)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_reverting_keeps_what_was_trained_and_moved_in_between():
    model = net()
    record = convert(model, "group(num_groups=2)")
    nn.init.constant_(model[1].weight, 7.0)
    model.eval().double()
    record.revert()
    assert isinstance(model[1], nn.BatchNorm2d)
    assert not model[1].training
    assert model[1].weight.dtype == torch.float64
    assert (model[1].weight == 7).all()


def test_to_group_norm_the_statistics_are_dropped_and_kept_in_the_record():
    model = net()
    mean = model[1].running_mean.clone()
    (first, second) = convert(model, "group(num_groups=2)").changes
    assert (first.names, second.names) == (("1",), ("3.1",))
    assert first.kept == ("weight", "bias")
    assert list(first.dropped) == ["running_mean", "running_var", "num_batches_tracked"]
    assert torch.equal(first.dropped["running_mean"], mean)
    assert first.exact_at_eval is False
    assert "finetune" in first.note


@pytest.mark.parametrize("zero_init_residual", [False, True])
def test_exactness_is_not_judged_by_a_scale_of_zero(zero_init_residual):
    layer = nn.BatchNorm2d(4)
    if zero_init_residual:
        nn.init.zeros_(layer.weight)
    assert convert(nn.Sequential(layer), "group(num_groups=2)").changes[0].exact_at_eval is False


def plain(c):
    return nn.BatchNorm2d(c)


@pytest.mark.parametrize("spec", ["batch", nn.BatchNorm2d, plain], ids=["spec", "class", "function"])
def test_from_group_norm_the_statistics_are_new_and_that_is_said(spec):
    model = nn.Sequential(nn.GroupNorm(2, 4))
    (change,) = convert(model, spec).changes
    assert "uncalibrated" in change.note
    assert "recalibrate" in change.note
    assert list(change.added) == ["running_mean", "running_var", "num_batches_tracked"]


def test_group_norms_keep_their_number_of_groups_and_their_output():
    x = torch.randn(2, 6, 4, 4)
    model = nn.Sequential(trained(nn.GroupNorm(3, 6, eps=1e-3), x))
    y = model(x)
    assert convert(model, "group").changes[0].exact_at_eval
    assert (model[0].num_groups, model[0].eps) == (3, 1e-3)
    assert torch.equal(model(x), y)


@pytest.mark.parametrize("options", [{}, {"affine": True}, {"affine": True, "track_running_stats": True}], ids=str)
def test_instance_norms_keep_what_they_have(options):
    x = torch.randn(2, 4, 5, 3)
    model = nn.Sequential(trained(nn.InstanceNorm2d(4, **options), x)).eval()
    y = model(x)
    assert convert(model, "instance").changes[0].exact_at_eval
    assert type(model[0]) is InstanceNorm
    torch.testing.assert_close(model(x), y, rtol=0, atol=TOLERANCE[torch.float32])


def test_from_batch_to_instance_norm_tracking_is_not_carried_over():
    model = net()
    convert(model, "instance")
    assert not model[1].track_running_stats
    assert model[1].weight is not None


def test_what_the_spec_names_wins():
    model = nn.Sequential(nn.BatchNorm2d(4, eps=1e-3, momentum=0.2))
    weight, bias = model[0].weight, model[0].bias
    convert(model, "batch(eps=1e-4, scale=0.1)")
    assert (model[0].eps, model[0].momentum) == (1e-4, 0.2)
    assert model[0].weight is not weight
    assert torch.equal(model[0].weight, torch.full((4,), 0.1))
    assert model[0].bias is bias
    (change,) = convert(model, "batch(affine=False)").changes
    assert list(change.dropped) == ["weight", "bias"]
    assert model[0].weight is None


def test_a_function_that_names_its_own_values_is_reported():
    model = nn.Sequential(nn.BatchNorm2d(4, eps=1e-3, momentum=0.01))
    (change,) = convert(model, plain).changes
    assert change.exact_at_eval is False
    assert "eps 1e-05 instead of 0.001; momentum 0.1 instead of 0.01" in change.note


def test_classes_and_partial_functions_of_them_get_what_they_do_not_name():
    model = nn.Sequential(nn.BatchNorm2d(8, eps=1e-3, momentum=0.2, bias=False))
    for spec, cls in [
        (functools.partial(nn.BatchNorm2d, momentum=0.3), nn.BatchNorm2d),
        (BatchNorm, BatchNorm),
        (functools.partial(nn.GroupNorm, 4), nn.GroupNorm),
        (functools.partial(nn.GroupNorm, 2), nn.GroupNorm),
        (GroupNorm, GroupNorm),
    ]:
        convert(model, spec)
        assert type(model[0]) is cls
        assert (model[0].eps, getattr(model[0], "momentum", 0.3), model[0].bias) == (1e-3, 0.3, None)
    assert model[0].num_groups == 2
    model = nn.Sequential(BatchNorm(4, guard_nonfinite=True))
    convert(model, SwitchNorm)
    assert model[0].guard_nonfinite


def test_layers_that_the_sample_does_not_reach_are_named():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.bn = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
            self.held = [self.bn]

        def forward(self, x):
            return self.held[0](self.used(x))

    record = convert(Hidden(), "batch", sample=torch.randn(2, 4))
    assert record.unreached == ("bn",)
    assert "never reached by the sample: bn" in str(record)


@pytest.mark.parametrize("to", ["group(num_groups=2)", nn.SyncBatchNorm, lambda c: nn.GroupNorm(2, c), nn.LayerNorm])
@pytest.mark.parametrize("options", [{"affine": False}, {"bias": False}], ids=str)
def test_absence_of_weight_or_bias_is_kept(options, to):
    model = nn.Sequential(nn.BatchNorm2d(4, **options))
    convert(model, to)
    assert (model[0].weight is None) == ("affine" in options)
    assert model[0].bias is None


def test_groups_are_lowered_to_a_divisor_only_when_asked():
    assert [GroupNorm(c, 32, lower=True).num_groups for c in (64, 48, 24, 7, 1)] == [32, 24, 24, 7, 1]
    assert GroupNorm(24, 8, lower=True).num_groups == 8
    assert repr(eval(repr(GroupNorm(24, 9, lower=True)))) == "GroupNorm(24, num_groups=8, lower=True)"
    model = net()
    convert(model, "group(num_groups=4, lower=True)")
    assert [site.module.num_groups for site in norm_sites(model)] == [4, 3]
