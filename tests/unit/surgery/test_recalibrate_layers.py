"""Every layer that keeps running statistics gets those of all the data."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from normlab.errors import SpecError
from normlab.layers import BatchNorm, NoisyBatchNorm
from normlab.surgery import freeze, recalibrate
from tests.conftest import TOLERANCE
from tests.unit.surgery.models import NOT_POOLED, SPECS, Biased, assert_state, data, moments, norm, state, timm

ATOL = TOLERANCE[torch.float64] * 100  # of values up to 100


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec not in NOT_POOLED])
def test_many_batches_give_what_one_with_all_the_data_gives(spec):
    model, batches = nn.Sequential(norm(spec)), data(4, 6, 2)
    whole, x = copy.deepcopy(model), data(3)[0]
    recalibrate(model, batches)
    recalibrate(whole, [torch.cat(batches)])
    torch.testing.assert_close(model.eval()(x), whole.eval()(x), rtol=0, atol=ATOL)
    if spec.split("(")[0] not in ("rbn", "switch", "instance") and "debias" not in spec:
        kept = {name: value for name, value in model[0].named_buffers() if name in ("running_mean", "running_var")}
        for name, value in kept.items():
            expected = dict(zip(("running_mean", "running_var"), moments(batches), strict=True))[name]
            torch.testing.assert_close(value, expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("spec", NOT_POOLED)
def test_what_does_not_pool_is_averaged(spec):
    model, batches = nn.Sequential(norm(spec)), data(4, 4)
    halves = [copy.deepcopy(model) for _ in batches]
    recalibrate(model, batches)
    for half, batch in zip(halves, batches, strict=True):
        recalibrate(half, [batch])
    (name,) = ("0.running_wm",) if spec == "equilibrium" else ("0.running_norm",)
    values = [half.state_dict()[name] for half in halves]
    mean = sum(values) / 2
    if spec == "lp(centred=True)":
        means = [half.state_dict()["0.running_mean"] for half in halves]
        mean = ((values[0] ** 2 + values[1] ** 2) / 2 + (means[0] - means[1]) ** 2 / 4).sqrt()
    torch.testing.assert_close(model.state_dict()[name], mean, rtol=0, atol=ATOL)
    if "lp" in spec:
        torch.testing.assert_close(model[0].running_mean, moments(batches)[0], rtol=0, atol=ATOL)


FOREIGN = {
    "BatchNorm2d": lambda: nn.BatchNorm2d(4),
    "momentum=None": lambda: nn.BatchNorm2d(4, momentum=None),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(4),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_torchs_layers_get_the_moments_of_the_data(name):
    model, batches = nn.Sequential(FOREIGN[name]().double()), data(4, 6, 1)
    momentum = model[0].momentum
    assert recalibrate(model, batches) == {"0": 220}
    for buffer, value in zip(("running_mean", "running_var"), moments(batches), strict=True):
        torch.testing.assert_close(model[0].get_buffer(buffer), value, rtol=0, atol=ATOL)
    assert model[0].num_batches_tracked == 3
    assert model[0].momentum == momentum
    recalibrate(model, batches)
    assert model[0].num_batches_tracked == 6


def test_instance_norms_average_over_examples():
    model, batches = nn.Sequential(nn.InstanceNorm2d(4, track_running_stats=True).double()), data(4, 2)
    assert recalibrate(model, batches) == {"0": 6}
    var, mean = torch.var_mean(torch.cat(batches), (2, 3))
    torch.testing.assert_close(model[0].running_mean, mean.mean(0), rtol=0, atol=ATOL)
    torch.testing.assert_close(model[0].running_var, var.mean(0), rtol=0, atol=ATOL)


class Centred(nn.BatchNorm2d):
    """What it normalizes is not its input."""

    def forward(self, x):
        return super().forward(x - 0.5 * x.mean((2, 3), keepdim=True))


def test_custom_batchnorm_whose_statistics_are_not_those_of_its_input():
    model, batches = nn.Sequential(Centred(4).double()), data(2, 3)
    recalibrate(model, batches)
    mean, var = moments([batch - 0.5 * batch.mean((2, 3), keepdim=True) for batch in batches])
    torch.testing.assert_close(model[0].running_mean, mean, rtol=0, atol=ATOL)
    torch.testing.assert_close(model[0].running_var, var, rtol=0, atol=ATOL)


def test_custom_norm_that_stores_the_biased_variance():
    model, batches = nn.Sequential(Biased().double()), data(1, 2)
    recalibrate(model, batches)
    torch.testing.assert_close(model[0].running_var, moments(batches)[1], rtol=0, atol=ATOL)


def test_custom_norm_whose_momentum_is_what_is_kept_is_refused_by_name():
    model = nn.Sequential(nn.Identity(), Biased(0.9, keep=True))
    before = state(model)
    with pytest.raises(SpecError, match=r"1 \(Biased\) keeps part of its old running_mean with momentum=1"):
        recalibrate(model, [torch.randn(4, 4, 2, 2)])
    assert_state(model, before)


def test_custom_norm_without_momentum_is_refused_by_name():
    model = nn.Sequential(Biased())
    del model[0].momentum
    with pytest.raises(SpecError, match=r"0 \(Biased\) has running statistics and no attribute `momentum`"):
        recalibrate(model, [torch.randn(4, 4, 2, 2)])


def test_noise_and_corrections_are_off():
    for spec in ("noisy", "batch_renorm"):
        torch.manual_seed(1)
        model = nn.Sequential(norm(spec), nn.BatchNorm2d(4).double())
        plain = copy.deepcopy(model)
        plain[0] = BatchNorm(4, dtype=torch.float64)
        plain[0].load_state_dict(model[0].state_dict())
        batches = data(4, 3)
        recalibrate(model, batches)
        recalibrate(plain, batches)
        torch.testing.assert_close(model[1].running_var, plain[1].running_var, rtol=0, atol=ATOL)
    assert isinstance(NoisyBatchNorm(2).noise(torch.zeros(2, 2))[0], torch.Tensor)


@pytest.mark.parametrize("name", ["BatchNormAct2d", "EvoNorm2dB0", "EvoNorm2dB1", "EvoNorm2dB2"])
def test_timms_norms(name):
    model, batches = nn.Sequential(getattr(timm().layers, name)(4)), [batch.float() for batch in data(4, 3)]
    recalibrate(model, batches)
    torch.testing.assert_close(model[0].running_var, moments(batches)[1], rtol=1e-5, atol=0)


def test_timms_norms_that_only_scale_and_those_that_are_frozen_stay():
    layers = timm().layers
    model = nn.Sequential(layers.EvoNorm2dB0(4, apply_act=False), layers.FrozenBatchNormAct2d(4), nn.BatchNorm2d(4))
    before = state(model[:2])
    assert recalibrate(model, [batch.float() for batch in data(4, 3)]).keys() == {"2"}
    assert_state(model[:2], before)


def test_a_batch_of_one_value_goes_by_the_running_statistics_and_does_not_count():
    model = nn.Sequential(BatchNorm(2, batch1="running"), nn.BatchNorm1d(2, affine=False)).double()
    model[1].eval()
    batches, outputs = [torch.randn(n, 2, dtype=torch.float64) + 3 for n in (4, 1, 5)], []
    with torch.no_grad():
        model[0].running_mean.fill_(3.0)
    hook = model[0].register_forward_hook(lambda module, args, y: outputs.append(y))
    freeze(model[1])
    assert recalibrate(model, batches) == {"0": 9}
    hook.remove()
    torch.testing.assert_close(model[0].running_mean, moments([batches[0], batches[2]])[0], rtol=0, atol=ATOL)
    torch.testing.assert_close(outputs[1], batches[1] - 3, rtol=0, atol=1e-4)


def test_half_precision_layers_of_ours_keep_float32_statistics():
    model = nn.Sequential(BatchNorm(3)).bfloat16()
    x = (torch.randn(64, 3) + 3).bfloat16()
    recalibrate(model, x.split(16))
    torch.testing.assert_close(model[0].running_mean, x.float().mean(0), rtol=0, atol=1e-5)


def test_a_guarded_layer_leaves_batches_with_nan_out():
    model, batches = nn.Sequential(BatchNorm(4, guard_nonfinite=True, dtype=torch.float64)), data(4, 3)
    bad = batches[0].clone()
    bad[0, 0, 0, 0] = float("inf")
    assert recalibrate(model, [bad, *batches]) == {"0": 140}
    torch.testing.assert_close(model[0].running_var, moments(batches)[1], rtol=0, atol=ATOL)
    assert model[0].num_batches_tracked == 2
