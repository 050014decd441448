"""The one place that knows which modules normalize and which of their parameters are weight (γ) and bias (β)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]

from normlab.errors import SpecError, UnknownName, came, require
from normlab.layers import BNET, BatchLayer, GroupNorm, InstanceNorm, Layer, LayerNorm
from normlab.surgery.known import Features, Kind, NormType, foreign


@dataclass(frozen=True)
class Site:
    """A normalization layer in a model.

    Args:
        name: its first name in `model.named_modules()`; empty for the model itself.
        weight: the attribute that holds γ, bias: the one that holds β; their values may be None.
        frozen: its weight and bias are buffers: nothing trains it.
    """

    name: str
    module: nn.Module
    kind: Kind
    weight: str
    bias: str
    frozen: bool = False


class Affine(NamedTuple):
    """γ and β of a layer; None where it has none that can be trained."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None


_TYPES: dict[type[nn.Module], NormType] = {}


def register_norm_type(
    cls: type[nn.Module],
    *,
    kind: Kind,
    weight: str = "weight",
    bias: str = "bias",
    features: Features = "first",
    tail: tuple[str, ...] = (),
) -> None:
    """Say that `cls` and its subclasses normalize, and that `convert` may put another norm in their place.

    Args:
        kind: batch-type layers are those that recipes act on; "other" is a norm that is none of the five.
        weight: the attribute that holds γ itself, bias: the one that holds β; a layer need not have them. A norm that
            multiplies by 1 + weight, as Gemma's does, cannot be declared: its values mean something else.
        features: the dimension of the input that they belong to: "first" after the batch, [N, C, ...], or "last".
        tail: children that the layer applies to what it has normalized, such as an activation, in this order.

    Raises:
        UnknownName: a kind that is not one of the six, or features that are neither first nor last.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(f"register_norm_type takes a class of modules; got {came(cls)}")
    for option, value, known in (("kind of norm", kind, Kind), ("features", features, Features)):
        if value not in get_args(known):
            raise UnknownName(option, value, get_args(known))
    _TYPES[cls] = NormType(kind, weight, bias, features, tail=tail)


register_norm_type(Layer, kind="other")
register_norm_type(BatchLayer, kind="batch")
register_norm_type(BNET, kind="batch", weight="none")  # its weight is a convolution kernel
register_norm_type(InstanceNorm, kind="instance")
register_norm_type(GroupNorm, kind="group")
register_norm_type(LayerNorm, kind="layer")
register_norm_type(_BatchNorm, kind="batch")
register_norm_type(nn.SyncBatchNorm, kind="batch")
register_norm_type(_InstanceNorm, kind="instance")
register_norm_type(nn.GroupNorm, kind="group")
register_norm_type(nn.LayerNorm, kind="layer", features="last")
register_norm_type(nn.RMSNorm, kind="rms", features="last")


def norm_type(module: nn.Module) -> NormType | None:
    """What is known of this module's type or its nearest known base; None for what does not normalize."""
    return known_type(type(module))


def known_type(cls: type) -> NormType | None:
    """What is known of this class or its nearest known base; None for what does not normalize."""
    return next(filter(None, map(_known, cls.__mro__)), None)


def _known(cls: type) -> NormType | None:
    return _TYPES.get(cls) or foreign(cls)


def overrides_forward(module: nn.Module) -> bool:
    """Does a subclass of the nearest known type compute something else than that type, for all that is known?"""
    below = _below_known(type(module))
    return not isinstance(module, Layer) and any("forward" in vars(cls) for cls in below)


def _below_known(cls: type) -> Iterator[type]:
    for base in cls.__mro__:
        if _known(base) is not None:
            return
        yield base


def is_norm(module: nn.Module) -> bool:
    """Does it normalize, by type?"""
    return norm_type(module) is not None


def norm_sites(model: nn.Module) -> list[Site]:
    """All normalization layers in the order of `model.named_modules()`, the model itself included, shared ones once."""
    require(model, nn.Module, "a torch module is wanted")
    found = ((name, module, norm_type(module)) for name, module in model.named_modules())
    return [Site(name, module, t.kind, t.weight, t.bias, t.frozen) for name, module, t in found if t is not None]


def affine_params(module: nn.Module) -> Affine:
    """The weight and bias of a normalization layer.

    Raises:
        SpecError: not a known normalization layer, or its weight or bias is computed from other parameters, so that
            writing to it would have no effect.
    """
    known = norm_type(module)
    if known is None:
        raise SpecError(f"{type(module).__name__} is no known normalization layer; register_norm_type makes it one")
    return Affine(_parameter(module, known.weight), _parameter(module, known.bias))


def _parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    value = getattr(module, name, None)
    if name in module._buffers:  # pyright: ignore[reportPrivateUsage]
        return None
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        raise SpecError(f"{name} of {type(module).__name__} is computed (a parametrization?): remove that first")
    return value
