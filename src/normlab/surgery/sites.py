"""The one place that knows which modules normalize and which of their parameters are weight (γ) and bias (β)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]

from normlab.errors import SpecError, UnknownName
from normlab.layers.batch import BatchNorm

Kind = Literal["batch", "instance", "group", "layer", "rms"]


@dataclass(frozen=True)
class NormType:
    """What a type of module is: which moments it uses, and the names of its weight and bias."""

    kind: Kind
    weight: str = "weight"
    bias: str = "bias"


@dataclass(frozen=True)
class Site:
    """A normalization layer in a model.

    Args:
        name: its first name in `model.named_modules()`; empty for the model itself.
        weight: the attribute that holds γ, bias: the one that holds β; their values may be None.
    """

    name: str
    module: nn.Module
    kind: Kind
    weight: str
    bias: str


class Affine(NamedTuple):
    """γ and β of a layer; None where it has none."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None


_TYPES: dict[type[nn.Module], NormType] = {}


def register_norm_type(cls: type[nn.Module], *, kind: Kind, weight: str = "weight", bias: str = "bias") -> None:
    """Say that `cls` and its subclasses normalize.

    Args:
        kind: batch-type layers are those that recipes act on.
        weight: the attribute that holds γ, bias: the one that holds β; a layer need not have them.

    Raises:
        UnknownName: a kind that is not one of the five.
    """
    if kind not in get_args(Kind):
        raise UnknownName("kind of norm", kind, get_args(Kind))
    _TYPES[cls] = NormType(kind, weight, bias)


register_norm_type(BatchNorm, kind="batch")
register_norm_type(_BatchNorm, kind="batch")
register_norm_type(_InstanceNorm, kind="instance")
register_norm_type(nn.GroupNorm, kind="group")
register_norm_type(nn.LayerNorm, kind="layer")
register_norm_type(nn.RMSNorm, kind="rms")


def norm_type(module: nn.Module) -> NormType | None:
    """What is known of this module's type or its nearest known base; None for what does not normalize."""
    return next((_TYPES[base] for base in type(module).__mro__ if base in _TYPES), None)


def is_norm(module: nn.Module) -> bool:
    """Does it normalize, by type?"""
    return norm_type(module) is not None


def norm_sites(model: nn.Module) -> list[Site]:
    """All normalization layers in the order of `model.named_modules()`, the model itself included, shared ones once."""
    found = ((name, module, norm_type(module)) for name, module in model.named_modules())
    return [Site(name, module, t.kind, t.weight, t.bias) for name, module, t in found if t is not None]


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
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        raise SpecError(f"{name} of {type(module).__name__} is computed (a parametrization?): remove that first")
    return value
