"""What a probe is: one quantity of a layer, measured where the layer's tensors pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from normlab.functional.backends import stats_dtype
from normlab.registry import Registry
from normlab.surgery import Affine, affine_params
from normlab.surgery.known import NormType

Place = Literal["before", "standard", "after", "cosines", "gradient", "parameters"]
Reference = tuple[Tensor, Tensor]
Values = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True)
class Target:
    """A layer to measure at.

    Args:
        name: its first name in `model.named_modules()`; empty for the model itself.
        norm: what is known of it if it normalizes; None for other layers, such as convolutions.
    """

    name: str
    module: nn.Module
    norm: NormType | None

    @property
    def channel(self) -> int:
        """The dimension of its tensors that tells the channel: 1, or -1 where features come last."""
        last = isinstance(self.module, nn.Linear) if self.norm is None else self.norm.features == "last"
        return -1 if last else 1

    def affine(self) -> Affine:
        """Weight and bias; None of both for a layer that does not normalize.

        Raises:
            SpecError: they are computed from other parameters.
        """
        return Affine(None, None) if self.norm is None else affine_params(self.module)


def _takes_any(_: Target) -> str | None:
    return None


@dataclass(frozen=True)
class Probe:
    """One quantity.

    Args:
        place: where it is measured.
            "before": what is normalized: the input of a norm; the output of any other layer.
            "standard": "before", standardized by the layer's own moments; `measure` gets a `Standard`.
            "after": the output, behind the activation module that takes it directly, if there is one; functional
                activations, such as `F.relu`, are not seen, and the output before them is measured.
            "cosines": the cosine matrix [N, N] of "after".
            "gradient": ∂L/∂ of "before"; the quantity is in proportion to it.
            "parameters": weight or bias, before the first pass of a step; `measure` gets a `Reference`.
        measure: target and tensor → a number [], or several by name; runs without autograd and autocast.
        refuses: why it cannot be measured at a target; None if it can.
        reference: "parameters" only: the parameter of a target, and what to compare it with.
        squares: the passes of a step add up as √Σ value², as norms of parts do; else as the mean over the examples.
    """

    name: str
    place: Place
    measure: Callable[[Target, Any], Values]
    refuses: Callable[[Target], str | None] = _takes_any
    reference: Callable[[Target], Reference] | None = None
    squares: bool = False


PROBES: Registry[Probe] = Registry("probe")


def wide(x: Tensor) -> Tensor:
    """x in float32, or float64 where it is that, and not differentiated: what all quantities are computed in."""
    return x.detach().to(stats_dtype(x.dtype))


def undefined(x: Tensor) -> Tensor:
    """NaN, for a quantity that such an x does not have."""
    return x.new_full((), float("nan"), dtype=stats_dtype(x.dtype))
