"""The convolutions are their papers' formulas."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from normlab.errors import SpecError, UnknownName
from normlab.layers.base import CONVS
from normlab.layers.scaled_relu import ScaledReLU, scaled_relu
from normlab.layers.scaled_weight_standardized import ScaledWeightStandardizedConv2d
from normlab.layers.weight_norm import WeightNormConv2d
from normlab.layers.weight_standardized import WeightStandardizedConv2d
from tests.conftest import TOLERANCE
from tests.unit.layers.convolutions import CENTRED, KERNELS, ORACLES, SHAPE, SPECS, example


def arrays(layer):
    return {k: v.double().numpy() if v.is_floating_point() else v.numpy() for k, v in layer.state_dict().items()}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_forward_is_the_papers(spec, dtype):
    layer, oracle = example(spec, dtype=dtype), ORACLES[CONVS.parse(spec, given=tuple(SHAPE)).name]
    options = dict(CONVS.parse(spec, given=tuple(SHAPE)).arguments) | SHAPE
    for training in (True, True, False):
        layer.train(training)
        x = torch.randn(3, 4, 7, 6).to(dtype)  # odd and even sizes
        expected, after = oracle.forward(options, arrays(layer), x.double().numpy(), training)
        y = layer(x)
        assert y.dtype == dtype
        np.testing.assert_allclose(
            y.detach().double(), expected, rtol=0, atol=TOLERANCE[dtype] * np.abs(expected).max()
        )
        for name, value in arrays(layer).items():
            size = np.abs(after[name]).max()
            np.testing.assert_allclose(value, after[name], rtol=0, atol=TOLERANCE[dtype] * size, err_msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": (2, 0), "stride": (1, 2)},
        {"padding": "same", "dilation": (2, 1)},
        {"padding": "valid", "groups": 2, "bias": False},
        {"padding": 1, "padding_mode": "circular", "kernel_size": (1, 3)},
    ],
    ids=str,
)
@pytest.mark.parametrize("spec", KERNELS)
def test_effective_weight_is_the_kernel_of_a_conv2d(spec, options):
    name = spec.partition("(")[0]
    told = SHAPE | options
    layer, plain = CONVS[name](**told), nn.Conv2d(**told)
    state = {"weight": layer.effective_weight()}
    plain.load_state_dict(state if layer.bias is None else state | {"bias": layer.bias})
    for x in (torch.randn(2, 4, 7, 6), torch.randn(4, 7, 6)):
        assert torch.equal(layer(x), plain(x))


@pytest.mark.parametrize("spec", KERNELS)
def test_first_and_second_derivatives_are_those_of_finite_differences(spec):
    layer = example(spec, dtype=torch.float64)
    names, values = zip(*layer.named_parameters(), strict=True)

    def call(x, *values):
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    x = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, (x, *values))
    assert torch.autograd.gradgradcheck(call, (x, *values))


@pytest.mark.parametrize("spec", KERNELS)
def test_low_precision_weights_are_normalized_in_float32(spec):
    low = example(spec, dtype=torch.bfloat16)
    wide = copy.deepcopy(low).float()
    assert torch.equal(low.effective_weight(), wide.effective_weight().bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert wide(torch.randn(2, 4, 7, 6)).dtype == torch.bfloat16
        assert wide.effective_weight().dtype == torch.float32
    assert copy.deepcopy(low).double().effective_weight().dtype == torch.float64


@pytest.mark.parametrize("spec", SPECS)
def test_draws_the_weight_of_conv2d_and_calls_nothing_gamma_or_beta(spec):
    call = CONVS.parse(spec, given=tuple(SHAPE))
    torch.manual_seed(2)
    layer = CONVS.create(spec, **SHAPE)
    torch.manual_seed(2)
    plain = nn.Conv2d(**SHAPE, groups=call.arguments["groups"], bias=call.arguments["bias"])
    for name, value in plain.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value)
    assert not any(word in key for key in layer.state_dict() for word in ("gamma", "beta"))


@pytest.mark.parametrize("eps_mode", ["root", "norm"])
@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_weight_norm_starts_from_the_kernel_it_was_given(eps, eps_mode):
    layer = WeightNormConv2d(4, 6, 3, eps=eps, eps_mode=eps_mode)
    torch.testing.assert_close(layer.effective_weight(), layer.weight)
    with torch.no_grad():
        layer.weight.normal_()
    layer.reset_gain()
    torch.testing.assert_close(layer.effective_weight(), layer.weight)


def test_scaled_weights_and_scaled_relu_keep_activations_standard_normal():
    x = torch.randn(20_000, 16, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(scaled_relu(x).mean(), torch.tensor(0.0).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(scaled_relu(x).var(), torch.tensor(1.0).double(), rtol=0, atol=0.02)
    assert torch.equal(ScaledReLU()(x), scaled_relu(x))
    assert math.isclose(scaled_relu(torch.tensor(-1.0).double()).item(), -1 / math.sqrt(math.pi - 1))
    assert scaled_relu(x.bfloat16()).dtype == torch.bfloat16
    layer = ScaledWeightStandardizedConv2d(16, 32, 1, bias=False, dtype=torch.float64)
    variances = layer(torch.relu(x)).var((0, 2, 3))
    torch.testing.assert_close(variances, torch.ones_like(variances), rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", CENTRED)
def test_a_constant_input_is_taken_out_by_a_centred_kernel(kind):
    layer = kind(4, 6, 3, bias=False, dtype=torch.float64)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x + 7), layer(x))


@pytest.mark.parametrize("kind", CENTRED)
def test_kernels_of_one_value_are_refused(kind):
    with pytest.raises(SpecError, match="fan-in 1, and one value less its mean is 0: use fewer groups"):
        kind(4, 4, 1, groups=4)
    assert kind(4, 4, (1, 2), groups=4).fan_in == 2


@pytest.mark.parametrize("mode", ["root", "std"])
def test_a_constant_kernel_gives_zeros_and_a_finite_gradient(mode):
    layer = WeightStandardizedConv2d(4, 6, 3, eps_mode=mode)
    nn.init.ones_(layer.weight)
    layer(torch.randn(2, 4, 5, 5)).sum().backward()
    assert layer.effective_weight().eq(0).all()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("weight_norm(eps=-1.0)", "eps=-1.0 should be a number >= 0"),
        ("weight_norm(initial_gain='one')", "initial_gain='one' should be a valid number"),
        ("weight_centered(groups=3)", r"WeightCenteredConv2d\(4, 6, 3, 1, 1, 1, 3, .* divisible by groups"),
        ("weight_centered(padding_mode='zero')", "padding_mode='zero' should be 'zeros', 'reflect'"),
        ("weight_standardized(stride='2')", "stride='2' should be a valid integer"),
        ("weight_standardised", "did you mean 'weight_standardized'"),
        ("scaled_weight_standardized(constant=0)", "constant=0.0 should be a number > 0, or one of identity, relu"),
        ("scaled_weight_standardized(gain=1)", "unknown argument of convolution 'scaled_weight_standardized': 'gain'"),
    ],
)
def test_specs_that_cannot_be(spec, message):
    with pytest.raises(SpecError, match=message):
        CONVS.create(spec, **SHAPE)


@pytest.mark.parametrize("kind", [WeightNormConv2d, WeightStandardizedConv2d, ScaledWeightStandardizedConv2d])
def test_names_that_cannot_be(kind):
    with pytest.raises(UnknownName, match="unknown eps_mode 'rot'; did you mean 'root'"):
        kind(4, 6, 3, eps_mode="rot")
    with pytest.raises(SpecError, match="padding_mode must be one of"):
        kind(4, 6, 3, padding_mode="zero")
    with pytest.raises(UnknownName, match="unknown constant 'rlu'; did you mean 'relu'"):
        ScaledWeightStandardizedConv2d(4, 6, 3, constant="rlu")
