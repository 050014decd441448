"""Which layers are looked at, and their weight and bias against where they started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, UnknownName
from normlab.inputs import inside
from normlab.layers.convolution import Convolution
from normlab.probes import Target, drift
from normlab.surgery import norm_type

Initial = Mapping[str, Tensor]
MATRICES = (nn.Linear, nn.modules.conv._ConvNd)  # pyright: ignore[reportPrivateUsage]
_PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Affine:
    """γ or β of a layer, over its channels.

    Args:
        mean, spread: spread is the standard deviation, biased.
        drift: mean of the differences from the initial values, in which they may cancel. rms: root of the mean of their
            squares. largest: the largest absolute one.
    """

    mean: float
    spread: float
    drift: float
    rms: float
    largest: float


def targets(model: nn.Module) -> tuple[list[Target], str]:
    """All layers that normalize, their kernels or what they get; all convolutions and linear layers where none does.

    Returns:
        In the order of `model.named_modules()`, shared ones once; and what is to be said about the choice.

    Raises:
        SpecError: there is nothing to look at.
    """
    every = [Target(name, module, norm_type(module)) for name, module in model.named_modules()]
    norms = [at for at in every if at.norm is not None or isinstance(at.module, Convolution)]
    if norms:
        return norms, ""
    others = [at for at in every if isinstance(at.module, MATRICES)]
    if not others:
        raise SpecError(f"{type(model).__name__} has neither normalization layers nor convolutions nor linear layers")
    return others, f"no layer is known to normalize: these are the convolutions and linear layers{_hint(model)}"


def _hint(model: nn.Module) -> str:
    alike = sorted({type(module).__name__ for module in model.modules() if "norm" in type(module).__name__.lower()})
    return f"; normlab.register_norm_type makes {alike[0]} known" if alike else ""


def initial_values(initial: nn.Module | Mapping[str, Tensor] | None) -> Initial | None:
    """The state dict of a model, without what DDP and torch.compile put before its names.

    Raises:
        SpecError: neither of the two.
    """
    if initial is None:
        return None
    if isinstance(initial, nn.Module):
        return inside(initial).state_dict()
    if not isinstance(initial, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(f"initial should be a state dict, or a model as it was; got {type(initial).__name__}")
    found = dict(initial)
    for prefix in _PREFIXES:
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def affine(target: Target, role: str, initial: Initial | None) -> Affine | None:
    """γ ("weight") or β ("bias"); None where the layer has none.

    Without `initial`, a layer whose channels all have one value has not been trained, since training moves them apart:
    that value is its initial one, as recipes and zero-initialised branches have it. All others started at 1 and 0.

    Raises:
        UnknownName, SpecError: `initial` does not hold it, or in another shape.
    """
    if target.norm is None:
        return None
    name = getattr(target.norm, role)
    value = getattr(target.module, name, None)
    if not isinstance(value, Tensor) or not value.numel():
        return None
    value = value.detach()
    size = drift(value, 0.0)
    off = drift(value, _start(value, role) if initial is None else _of(initial, target, name, value))
    rms = torch.hypot(off["mean"], off["std"])
    return Affine(*(float(number) for number in (size["mean"], size["std"], off["mean"], rms, off["max"])))


def _start(value: Tensor, role: str) -> float:
    first = value.flatten()[0]
    return float(first) if bool((value == first).all()) else float(role == "weight")


def _of(initial: Initial, target: Target, name: str, value: Tensor) -> Tensor:
    key = f"{target.name}.{name}" if target.name else name
    if key not in initial:
        raise UnknownName("initial value", key, [known for known in initial if known.endswith(name)])
    start = initial[key]
    if start.shape != value.shape:
        raise SpecError(f"initial: {key} is {list(start.shape)} there, and {list(value.shape)} in the model")
    return start
