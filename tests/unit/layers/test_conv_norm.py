"""ConvNorm's spectrum, its running V, and what it refuses."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from normlab.errors import SpecError
from normlab.layers.batch import BatchNorm  # noqa: F401 (a repr may name it)
from normlab.layers.conv_norm import ConvNorm


def bare(kernel_size, *, groups=1, padding=0, **options) -> ConvNorm:
    """No r-kernel and no batch norm: the preconditioned convolution itself, in float64."""
    told = {"affine": False, "bn": False, "dtype": torch.float64, **options}
    return ConvNorm(4, 6, kernel_size, 1, padding, groups=groups, bias=False, **told)


def impulse_responses(layer, height, width):
    """[Co, Ci, H', W']: the layer's outputs for a single 1 in each channel, in the middle of the map."""
    x = torch.zeros(4, 4, height, width, dtype=torch.float64)
    for channel in range(4):
        x[channel, channel, height // 2, width // 2] = 1
    return layer(x).movedim(0, 1).detach()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5, (1, 3), (3, 1), (5, 2)], ids=str)
def test_spectrum_over_the_inputs_of_a_channel_is_flat(kernel_size, groups):
    whole = [k - 1 for k in ((kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size)]
    layer = bare(kernel_size, groups=groups, padding=tuple(whole))  # nothing truncated
    power = torch.fft.fft2(impulse_responses(layer, 8, 7)).abs().square().sum(1)
    torch.testing.assert_close(power, torch.ones_like(power))
    power = torch.fft.fft2(layer.effective_kernel(8, 7)).abs().square().sum(1)
    torch.testing.assert_close(power, torch.ones_like(power))


@pytest.mark.parametrize("options", [{}, {"eps": 0.1}, {"running_V": True}], ids=str)
def test_effective_kernel_is_that_of_a_circular_correlation(options):
    layer = bare(3, padding=2, **options)
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    for training in (True, False):
        y = layer.train(training)(x)
        kernel = layer.effective_kernel(6, 5)
        wrapped = F.pad(F.pad(x, (2, 0, 2, 0)), (0, 6, 0, 7), mode="circular")
        torch.testing.assert_close(F.conv2d(wrapped, kernel), y)


def test_padding_and_stride_choose_from_the_full_map():
    full, x = bare(3, padding=2), torch.randn(2, 4, 8, 7, dtype=torch.float64)
    whole = full(x)
    for padding, stride in [(0, 1), (1, 1), ((2, 0), 1), ("same", 1), ("valid", 2), (1, (3, 2)), (2, (1, 2))]:
        layer = ConvNorm(4, 6, 3, stride, padding, bias=False, affine=False, bn=False, dtype=torch.float64)
        layer.load_state_dict(full.state_dict())
        p = {"same": (1, 1), "valid": (0, 0), 0: (0, 0), 1: (1, 1), 2: (2, 2)}.get(padding, padding)
        s = (stride, stride) if isinstance(stride, int) else stride
        expected = whole[:, :, 2 - p[0] : 10 - 2 + p[0] : s[0], 2 - p[1] : 9 - 2 + p[1] : s[1]]
        assert torch.equal(layer(x), expected)
        assert layer(x).shape == nn.Conv2d(4, 6, 3, stride, padding).double()(x).shape


def test_eval_needs_no_state_and_takes_any_resolution():
    layer = ConvNorm(4, 6, 3, padding=1, bn=False)
    assert set(layer.state_dict()) == {"weight", "bias", "affine_conv.weight", "affine_conv.bias"}
    for size in ((8, 7), (5, 9), (1, 1)):
        x = torch.randn(2, 4, *size)
        assert torch.equal(layer.eval()(x), layer.train()(x))


def test_a_zero_of_the_spectrum_needs_eps():
    layer = bare(2, eps=0.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))  # no constant part
    assert not layer(torch.ones(1, 4, 3, 3, dtype=torch.float64)).isfinite().all()
    layer.eps = 1e-3
    assert layer(torch.ones(1, 4, 3, 3, dtype=torch.float64)).isfinite().all()


def test_running_v_of_a_new_layer_is_zero():
    layer = ConvNorm(4, 6, 3, padding=1, bn=False, running_V=True).eval()
    y = layer(torch.randn(2, 4, 8, 7))
    torch.testing.assert_close(y, layer.affine_conv.bias.view(6, 1, 1).expand_as(y))
    assert layer.effective_kernel(8, 7).eq(0).all()


@pytest.mark.parametrize(("t", "newest"), [(0, 1.0), (19_999, 0.5), (39_999, 0.01), (10**9, 0.01)])
def test_the_schedule_falls_from_one_to_a_hundredth(t, newest):
    layer, x = bare(3, running_V=True), torch.randn(1, 4, 8, 7, dtype=torch.float64)
    layer(x)
    layer.running_V.zero_()
    layer.num_batches_tracked.fill_(t)
    layer(x)
    torch.testing.assert_close(layer.running_V, newest * layer.preconditioner((10, 9)), rtol=1e-6, atol=0)
    assert layer.num_batches_tracked == t + 1


def test_running_v_belongs_to_one_resolution():
    layer = bare(3, running_V=True)
    layer(torch.randn(1, 4, 8, 6, dtype=torch.float64))
    loaded = bare(3, running_V=True)
    loaded.load_state_dict(layer.state_dict())
    for trained in (layer, copy.deepcopy(layer), loaded):
        for width in (7, 9):  # 6 and 7 have the same number of frequencies
            for training in (True, False):
                with pytest.raises(
                    SpecError, match=rf"full maps of 10 x 8 .*; got 10 x {width + 2}. .*running_V=False"
                ):
                    trained.train(training)(torch.randn(1, 4, 8, width, dtype=torch.float64))
        assert trained.num_batches_tracked == 1
        trained.reset_running_stats()
        trained.train()(torch.randn(1, 4, 8, 7, dtype=torch.float64))
    pointwise = bare(1, running_V=True)
    for size in (8, 7):
        pointwise(torch.randn(1, 4, size, size, dtype=torch.float64))


def test_checkpoints_load_whatever_the_resolution():
    layers = {size: ConvNorm(4, 6, 3, running_V=True) for size in (6, 9)}
    for size, layer in layers.items():
        layer(torch.randn(2, 4, size, size))
    fresh = ConvNorm(4, 6, 3, running_V=True)
    for source, target in ((layers[6], fresh), (layers[9], layers[6]), (ConvNorm(4, 6, 3, running_V=True), layers[9])):
        target.load_state_dict(source.state_dict())
        for name, value in source.state_dict().items():
            assert torch.equal(target.state_dict()[name], value)
    layers[9](torch.randn(2, 4, 7, 7))  # new again
    with pytest.raises(RuntimeError, match="size mismatch for running_V"):
        ConvNorm(4, 2, 3, running_V=True).load_state_dict(layers[6].state_dict())
    authors = {
        key: value
        for key, value in layers[6].state_dict().items()
        if key not in ("running_size", "num_batches_tracked")
    }
    assert ConvNorm(4, 6, 3, running_V=True).load_state_dict(authors, strict=False).unexpected_keys == []


def test_loading_onto_the_meta_device_and_assigning():
    layer = ConvNorm(4, 6, 3, running_V=True)
    x = torch.randn(2, 4, 7, 6)
    layer(x)
    again = ConvNorm(4, 6, 3, running_V=True, device="meta")
    again.load_state_dict(layer.state_dict(), assign=True)
    assert torch.equal(again.eval()(x), layer.eval()(x))


def test_statistics_stay_wide_when_the_layer_is_made_half():
    layer = ConvNorm(4, 6, 3, running_V=True)
    layer(torch.randn(2, 4, 7, 6))
    before = layer.running_V.clone()
    assert torch.equal(layer.bfloat16().running_V, before)
    assert layer(torch.randn(2, 4, 7, 6).bfloat16()).dtype == torch.bfloat16
    assert layer.running_V.dtype == torch.float32
    assert layer.double().running_V.dtype == torch.float64


def test_checkpointing_counts_a_step_once():
    layer, x = ConvNorm(4, 6, 3, running_V=True, momentum=0.5, bn=False), torch.randn(2, 4, 7, 6, requires_grad=True)
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert layer.num_batches_tracked == 1


def test_no_gradient_goes_through_v():
    layer, x = bare(3), torch.randn(2, 4, 6, 5, dtype=torch.float64)
    layer(x).square().sum().backward()
    v = layer.preconditioner((8, 7))
    assert not v.requires_grad
    weight = layer.weight.detach().requires_grad_()
    full = torch.fft.irfft2(torch.fft.rfft2(F.conv2d(x, weight, padding=2)) * v, s=(8, 7))
    full[..., 2:-2, 2:-2].square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, weight.grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dilation": 2}, r"dilation=1 and padding_mode='zeros'; got dilation=\(2, 2\)"),
        ({"padding_mode": "circular"}, "got .*padding_mode='circular'"),
        ({"padding": 3}, r"padding=\(3, 3\) should be from 0 to kernel_size - 1, where kernel_size=\(3, 3\)"),
        ({"padding": (0, -1)}, "should be from 0"),
        ({"kernel_size": 4, "padding": "same"}, "pads one side more; ConvNorm pads both alike"),
        ({"padding": "same", "stride": 2}, "not supported for strided convolutions"),
        ({"groups": 3}, "divisible by groups"),
        ({"eps": -1.0}, "eps=-1.0 should be a number >= 0"),
        ({"momentum": 0.1}, "momentum=0.1 should be None or, with running_V=True"),
        ({"momentum": 1.5, "running_V": True}, "a number from 0 to 1"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(SpecError, match=message):
        ConvNorm(**({"in_channels": 4, "out_channels": 6, "kernel_size": 3} | options))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 7, 6), r"takes \[N, 4, H, W\]; got \[4, 7, 6\]"),
        ((2, 3, 7, 6), r"takes \[N, 4, H, W\]; got \[2, 3, 7, 6\]"),
        ((2, 4, 2, 6), r"kernel_size=\(3, 3\) is larger than the padded input: \[2, 4, 2, 6\], padding=\(0, 0\)"),
    ],
)
def test_inputs_that_cannot_be(shape, message):
    layer = ConvNorm(4, 6, 3, running_V=True)
    with pytest.raises(SpecError, match=message):
        layer(torch.randn(shape))
    assert layer.num_batches_tracked == 0


def test_repr_shows_modules_that_somebody_put_inside():
    layer = ConvNorm(4, 6, 3)
    assert "\n" not in repr(layer)
    layer.batch_norm = nn.GroupNorm(2, 6)
    assert "(batch_norm): GroupNorm(2, 6" in repr(layer)
    assert math.prod(layer(torch.randn(2, 4, 5, 5)).shape) == 2 * 6 * 9
