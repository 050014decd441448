"""Convolutions in place of convolutions: plain ones, normlab's, and timm's standardized ones."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from normlab.errors import SpecError
from normlab.layers import CONVS, WeightNormConv2d
from normlab.layers.convolution import Convolution
from normlab.surgery.conversion.carry import Handover, named_tensors, put, settle
from normlab.surgery.conversion.targets import Target

_TIMM = "timm.layers.std_conv."
_FITS = {
    f"{_TIMM}StdConv2d": "weight_standardized",
    f"{_TIMM}StdConv2dSame": "weight_standardized",
    f"{_TIMM}ScaledStdConv2d": "scaled_weight_standardized",
    f"{_TIMM}ScaledStdConv2dSame": "scaled_weight_standardized",
}
"""Convolutions of timm, and ours of the same maths."""


def why_not(conv: nn.Module, target: Target) -> str | None:
    """The reason why this layer cannot be converted to the target, or None."""
    fits = _FITS.get(_name(conv))
    if fits is None and type(conv) is not nn.Conv2d and not isinstance(conv, Convolution):
        return "it may do more than nn.Conv2d"
    if not isinstance(vars(conv)["_parameters"].get("weight"), nn.Parameter):
        return "its weight is computed (pruned, or normalized?): remove that first"
    if getattr(conv, "same_pad", False):
        return "it pads according to the size of its input"
    return None if fits in (None, target.name) else f"its values keep their meaning in {fits} alone"


def make_convolution(target: Target, old: nn.Conv2d) -> nn.Module:
    """A convolution of the target's kind with the shape of `old`."""
    given: dict[str, Any] = {
        name: getattr(old, name)
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    }
    given |= {"bias": old.bias is not None, "padding_mode": old.padding_mode}
    carried: dict[str, Any] = {}
    if _name(old) in _FITS:
        carried["eps"] = old.eps
    if _name(old) in _FITS and hasattr(old, "gain"):
        carried["constant"] = float(old.scale) * math.sqrt(old.weight[0].numel())  # pyright: ignore[reportArgumentType]
    given |= {name: value for name, value in carried.items() if name not in target.named}
    return CONVS.create(target.text, **given, device=old.weight.device, dtype=old.weight.dtype)


def hand_over_kernel(old: nn.Module, new: nn.Module) -> Handover:
    """Give `new` the weight and bias of `old`, and its gain, whatever shape that has."""
    before, places = named_tensors(old), named_tensors(new)
    fits = [name for name, place in places.items() if name in before and place.numel() == before[name].numel()]
    for name in fits:
        put(new, name, _shaped(before[name], places[name]))
    if isinstance(new, WeightNormConv2d) and new.initial_gain is None and "gain" not in fits:
        new.reset_gain()
    reshaped = [f"{name} has another shape" for name in fits if before[name].shape != places[name].shape]
    return settle(old, new, before, {name: name for name in fits}, tuple(reshaped))


def _shaped(value: Tensor, place: Tensor) -> Tensor:
    if value.shape == place.shape:
        return value
    copy = value.detach().reshape(place.shape).clone()
    return nn.Parameter(copy, value.requires_grad) if isinstance(value, nn.Parameter) else copy


def check_convolution(old: nn.Module, target: Target) -> nn.Conv2d:
    """`old` as what it is.

    Raises:
        SpecError: it cannot be converted to the target; why.
    """
    reason = why_not(old, target)
    if reason is not None:
        raise SpecError(f"{type(old).__name__} cannot become {target.text}: {reason}")
    assert isinstance(old, nn.Conv2d)
    return old


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
