"""Layers that multiply by a kernel: which of them can take up a scale and a shift of their output, and how."""
# pyright: reportPrivateUsage=false
# torch's dicts of parts and hooks have no public names.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd  # pyright: ignore[reportPrivateUsage]

from normlab.layers.convolution import NormalizedKernel
from normlab.surgery.folding.at_inference import ChannelMap
from normlab.surgery.statistics.borrow import author_of_forward
from normlab.surgery.statistics.kept import wide

Kernel = nn.Linear | _ConvNd

_SAME = "timm.layers.conv2d_same.Conv2dSame"
_STANDARDIZED = ("timm.layers.std_conv.StdConv2d", "timm.layers.std_conv.StdConv2dSame")
_SCALED = ("timm.layers.std_conv.ScaledStdConv2d", "timm.layers.std_conv.ScaledStdConv2dSame")


def is_kernel(module: nn.Module) -> bool:
    """Is it a linear layer or a convolution, a transposed one too, or a subclass of one?"""
    return isinstance(module, (nn.Linear, _ConvNd))


def has_hooks(module: nn.Module, *but: Callable[..., Any]) -> bool:
    """Has it forward hooks, other than these?"""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return any(hook not in but for hook in hooks)


def can_absorb(layer: nn.Module, found: ChannelMap) -> bool:
    """Is a scale and a shift of the layer's output a matter of other values for its weight and bias?"""
    if not isinstance(layer, (nn.Linear, _ConvNd)) or has_hooks(layer):
        return False
    own = author_of_forward(layer) == "torch" and not (isinstance(layer, _ConvNd) and _own_step(layer))
    width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    mixes = found.scale.dim() == 2 and isinstance(layer, _ConvNd) and layer.groups > 1
    # a weight that is computed, by a parametrization say, has no place of its own
    return (own or _name(layer) == _SAME) and width == len(found.shift) and not mixes and "weight" in layer._parameters


def _own_step(layer: _ConvNd) -> bool:
    """Does a subclass of torch's convolution override the step that its forward pass leaves to it?"""
    step = next((cls for cls in type(layer).__mro__ if "_conv_forward" in vars(cls)), nn.Conv2d)
    return step.__module__.partition(".")[0] != "torch"


def absorbed(layer: nn.Module, found: ChannelMap) -> dict[str, nn.Parameter]:
    """The weight and bias with which the layer gives scale·y + shift in place of y."""
    assert isinstance(layer, (nn.Linear, _ConvNd))
    scale, bias = found.scale, found.shift
    if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
        own = wide(layer.bias)
        bias = bias + (scale @ own if scale.dim() == 2 else scale * own)
    weight = _scaled(layer, wide(layer.weight), scale)
    trains = layer.weight.requires_grad
    # of the layout of the old one, channels last say
    return {
        "weight": nn.Parameter(torch.empty_like(layer.weight).copy_(weight), trains),
        "bias": nn.Parameter(bias.to(layer.weight), trains),
    }


def _scaled(layer: Kernel, weight: Tensor, scale: Tensor) -> Tensor:
    transposed = isinstance(layer, _ConvTransposeNd)
    if scale.dim() == 2:
        return torch.einsum("oc,ic...->io..." if transposed else "oc,c...->o...", scale, weight)
    if not transposed:
        return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    groups, taps = layer.groups, weight.shape[2:]
    parts = weight.reshape(groups, -1, layer.out_channels // groups, *taps)
    return (parts * scale.reshape(groups, 1, -1, *[1] * len(taps))).reshape(weight.shape)


@torch.no_grad()
def plain_convolution(conv: nn.Module) -> nn.Conv2d | str | None:
    """A Conv2d with the kernel that `conv` computes of its weight; None if it computes none; or why there is none."""
    name = _name(conv)
    ours = isinstance(conv, NormalizedKernel)
    if not (ours or name in (*_STANDARDIZED, *_SCALED)):
        return None
    assert isinstance(conv, nn.Conv2d)
    if ours and author_of_forward(conv) != "normlab":
        return "its forward pass is its own"
    if has_hooks(conv):
        return "it has hooks"
    if getattr(conv, "same_pad", False):
        return "it pads by the size of its input, as no nn.Conv2d does"
    kernel = conv.effective_weight() if isinstance(conv, NormalizedKernel) else _standardized(conv, name in _SCALED)
    shape = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    plain = nn.Conv2d(*shape, bias=False, padding_mode=conv.padding_mode, device="meta")  # pyright: ignore
    plain._parameters["weight"] = nn.Parameter(kernel.detach(), conv.weight.requires_grad)
    plain.bias = conv.bias
    return plain.train(conv.training)


def _standardized(conv: nn.Conv2d, scaled: bool) -> Tensor:
    """As timm's layers do in their forward pass."""
    gain = (conv.gain * conv.scale).view(-1) if scaled else None  # pyright: ignore
    flat = conv.weight.reshape(1, conv.out_channels, -1)
    kernel = nn.functional.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0, eps=float(conv.eps))  # pyright: ignore
    return kernel.reshape_as(conv.weight)


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
