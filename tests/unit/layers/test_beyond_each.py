"""Each norm that does more than scale and shift, alone: what it refuses, how it starts, what it learns."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from normlab.errors import SpecError
from normlab.layers.batch import BatchNorm
from normlab.layers.bnet import BNET
from normlab.layers.equilibrium import ChannelEquilibrium
from normlab.layers.evo_b0 import EvoNormB0
from normlab.layers.evo_s0 import EvoNormS0
from normlab.layers.lp import LpBatchNorm
from normlab.layers.noisy import NoisyBatchNorm
from normlab.layers.whitening import StochasticWhiteningBatchNorm
from tests.conftest import TOLERANCE
from tests.oracles import noisy
from tests.unit.layers.test_beyond import build, state


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EvoNormS0(6), r"num_groups=32 does not divide num_features=6; 6 does"),
        (lambda: EvoNormB0(6, ddof=2), "ddof=2 should be 0"),
        (lambda: BNET(6, kernel_size=4), "kernel_size=4 should be odd.*5"),
        (lambda: BNET(6, dims=4), "dims=4 should be 1, 2 or 3"),
        (lambda: BNET(6, init="identical"), "unknown init 'identical'; did you mean 'identity'"),
        (lambda: LpBatchNorm(6, p=3), "p=3 should be 1, 2 or 'inf'"),
        (lambda: LpBatchNorm(6, running_var="biased"), "running_var says how a variance is kept"),
        (lambda: NoisyBatchNorm(6, scale_range=0.5), "scale_range=0.5"),
        (lambda: NoisyBatchNorm(6, per="pixel"), "unknown per 'pixel'"),
        (lambda: StochasticWhiteningBatchNorm(6, criterion="k1"), "unknown criterion 'k1'. Known: fro, kl"),
        (lambda: ChannelEquilibrium(6, reduction=7), "reduction=7 should be 1 to 6"),
    ],
)
def test_options_that_cannot_be(make, message):
    with pytest.raises(SpecError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (EvoNormS0(4, num_groups=4), (2, 4), "more than 1 value per group"),
        (EvoNormB0(4), (1, 4, 1, 1), "more than 1 value per channel"),
        (EvoNormB0(4, ddof=1), (3, 4), "Use ddof=0"),
        (BNET(4), (2, 4, 5), r"takes \[N, 4\] and \[N, 4, H, W\]; got \[2, 4, 5\]. Use dims=1"),
        (BNET(4, dims=3), (2, 4, 5, 5), r"\[N, 4, D, H, W\]; got .*dims=2"),
        (LpBatchNorm(4), (1, 4), "more than 1 value per channel"),
        (NoisyBatchNorm(4), (1, 4), "more than 1 value per channel"),
        (StochasticWhiteningBatchNorm(4), (1, 4), "more than 1 value per channel"),
        (ChannelEquilibrium(4), (2, 4), r"more than one position.*got \[2, 4\]"),
        (ChannelEquilibrium(4), (2, 3, 5), "takes 4 channels"),
    ],
)
def test_inputs_that_cannot_be(layer, shape, message):
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(SpecError, match=message):
        layer(torch.randn(shape))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_evo_norms_without_nonlinearity_are_affine_and_keep_nothing():
    x = torch.randn(3, 4, 5)
    for layer in (EvoNormB0(4, nonlinearity=False), EvoNormS0(4, num_groups=2, nonlinearity=False)):
        assert layer.state_dict().keys() == {"weight", "bias"}
        assert torch.equal(layer(x), x)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_bnet_starts_as_batch_norm(kernel_size):
    ours, plain, x = BNET(4, kernel_size=kernel_size), BatchNorm(4), torch.randn(5, 4, 6, 6)
    torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=TOLERANCE[torch.float32])
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x), rtol=0, atol=TOLERANCE[torch.float32])


def test_bnet_draws_its_kernels_as_said():
    default, kaiming = BNET(256, init="default"), BNET(256, kernel_size=5, init="kaiming")
    assert 0.3 < default.weight.abs().max() <= 1 / 3
    assert 0.3 < default.bias.abs().max() <= 1 / 3
    assert kaiming.weight.std().item() == pytest.approx((2 / (256 * 25)) ** 0.5, rel=0.05)


def test_l2_after_centering_is_batch_norm_up_to_eps():
    ours, plain = LpBatchNorm(4, centred=True, eps=0.0), BatchNorm(4, eps=1e-12)
    x = torch.randn(5, 4, 6, 6) + 3
    torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=TOLERANCE[torch.float32])


def test_infinity_is_spelled_in_two_ways():
    assert repr(LpBatchNorm(4, p=float("inf"))) == repr(LpBatchNorm(4, p="inf")) == "LpBatchNorm(4, p='inf')"


@pytest.mark.parametrize("per", ["position", "channel"])
def test_noise_is_on_top_of_batch_norm_and_only_in_training(per):
    layer, x = build(f"noisy(per={per!r}, activation='relu')"), torch.randn(3, 4, 2, 5).double()
    torch.manual_seed(3)
    scale, shift = layer.noise(x)
    assert scale.shape == shift.shape == ((3, 4, 2, 5) if per == "position" else (3, 4, 1, 1))
    expected, _ = noisy.forward({"activation": "relu"}, state(layer), x.numpy(), True, (scale.numpy(), shift.numpy()))
    torch.manual_seed(3)
    torch.testing.assert_close(layer(x), torch.from_numpy(expected), rtol=0, atol=TOLERANCE[torch.float64])
    assert torch.equal(layer.eval()(x), layer(x))


@pytest.mark.parametrize(("spread_is", "std"), [("std", 0.1), ("variance", 0.1**0.5)])
def test_noise_has_the_moments_it_should(spread_is, std):
    layer = NoisyBatchNorm(200, spread_is=spread_is)
    scale, shift = layer.noise(torch.empty(64, 200, 8, 8, dtype=torch.float64))
    center, width = shift.mean((0, 2, 3)), shift.amax((0, 2, 3)) - shift.amin((0, 2, 3))
    assert center.min() > -0.51
    assert center.max() < 0.51
    assert center.std().item() == pytest.approx(1 / 12**0.5, rel=0.15)
    assert width.mean().item() == pytest.approx(0.2, rel=0.02)
    mean = scale.mean((0, 2, 3))
    assert mean.min() > 0.97
    assert mean.max() < 1.28
    assert mean.mean().item() == pytest.approx(1.125, abs=0.02)
    assert scale.std((0, 2, 3)).mean().item() == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize(("criterion", "alpha"), [("kl", 0.05), ("fro", 0.02)])
def test_whitening_learns_to_decorrelate(criterion, alpha):
    layer = StochasticWhiteningBatchNorm(5, criterion=criterion, alpha=alpha, dtype=torch.float64)
    mix = torch.randn(5, 5).double()
    for _ in range(1500):
        layer(torch.randn(64, 5).double() @ mix)
    x = torch.randn(4096, 5).double() @ mix
    before, after = ((torch.corrcoef(v.T) - torch.eye(5)).abs().max().item() for v in (x, layer.eval()(x)))
    assert after < min(0.15, before / 2)
    assert torch.equal(layer.whitening, layer.whitening.T)


def test_whitening_is_learned_once_a_batch_and_in_training_only():
    layer = StochasticWhiteningBatchNorm(4, alpha=0.1)
    x = torch.randn(8, 4, requires_grad=True)
    layer.eval()(x)
    assert torch.equal(layer.whitening, torch.eye(4))
    again = copy.deepcopy(layer.train())
    layer(x).sum().backward()
    plain, x.grad = x.grad, None
    checkpoint(again.train(), x, use_reentrant=False).sum().backward()
    assert torch.equal(layer.whitening, again.whitening)
    assert torch.equal(x.grad, plain)
    (layer(x).sum() + layer(x).sum()).backward()  # two forwards before the backward


def test_whitening_guards_its_matrix():
    layer = StochasticWhiteningBatchNorm(4, alpha=0.1, guard_nonfinite=True)
    layer(torch.full((8, 4), float("nan")))
    assert torch.equal(layer.whitening, torch.eye(4))


def test_equilibrium_is_finite_before_training_and_starts_from_batch_norm():
    layer, x = ChannelEquilibrium(8).eval(), torch.randn(3, 8, 4)
    y = layer(x)
    assert y.isfinite().all()
    nn.init.zeros_(layer.excite.weight)  # attention 1/2, P = I, s = 1: half of z and a quarter
    torch.testing.assert_close(layer(x), 0.75 * BatchNorm(8).eval()(x), rtol=0, atol=TOLERANCE[torch.float32])


@pytest.mark.parametrize(
    ("channels", "group_size", "groups"), [(8, 64, 1), (8, 4, 2), (12, 64, 1), (48, 64, 1), (12, 5, 6)]
)
def test_equilibrium_halves_its_groups_until_they_fit(channels, group_size, groups):
    assert ChannelEquilibrium(channels, group_size=group_size).groups == groups
