"""Group normalization, and what layer and instance normalization share with it: moments of each example alone."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import torch_kernels
from normlab.functional.normalize import Activation
from normlab.functional.pooled import normalize_pooled
from normlab.layers.base import NORMS, Layer, among

OneValue = Literal["error", "bias"]


@NORMS.register("group")
class GroupNorm(Layer):
    """Normalize each example by the moments of groups of neighbouring channels.

        μ, σ² over (C/G, *S) of each example and group,   y = γ (x - μ) / √(σ² + eps) + β        γ, β per channel

    Args:
        num_features: C, the number of channels.
        num_groups: G, which divides C.
        ddof: the variance is divided by (number of values - ddof); 1 is what Beyond BatchNorm's code does.
        lower: a G that does not divide C is lowered to the largest number that does; otherwise it is an error.
        one_value: a group of one value, whose variance is 0, is an "error", or gives the "bias" and nothing of x.

    Raises:
        SpecError: groups that do not divide the channels; on a call, groups of one value, or an input of another shape.

    Source: Wu and He, arXiv:1803.08494.
    """

    one_value: OneValue

    def __init__(
        self,
        num_features: int,
        num_groups: int = 32,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: Activation | None = None,
        ddof: Literal[0, 1] = 0,
        one_value: OneValue = "error",
        lower: bool = False,
    ) -> None:
        super().__init__(
            num_features, eps=eps, affine=affine, bias=bias, activation=activation, device=device, dtype=dtype
        )
        if lower:
            num_groups = next((g for g in range(num_groups, 0, -1) if num_features % g == 0), num_groups)
        check_divides(num_groups, num_features)
        among("one_value", one_value, ("error", "bias"))
        check_ddof(ddof)
        self.num_groups, self.ddof, self.one_value, self.lower = num_groups, ddof, one_value, lower

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize x [N, C, *S]; with a residual, add it before the activation."""
        self.check(x, residual)
        if self.ddof == 0:
            return by_groups(self, x, self.num_groups, self.one_value, residual)
        check_groups(x, self.num_groups, self.one_value, self.ddof)

        def affine_map(m: F.Moments) -> tuple[Tensor, Tensor]:
            pooled = F.pool_groups(m, self.num_groups)
            wider = F.Moments(pooled.mean, F.unbiased(pooled, self.ddof), pooled.count)
            return F.standardize(wider, self.weight, self.bias, self.eps)

        return F.normalize(x, affine_map, activation=self.activation, residual=residual)


def by_groups(layer: Layer, x: Tensor, groups: int, one_value: OneValue, residual: Tensor | None) -> Tensor:
    """The layer's weight and bias on x, normalized by the moments of `groups` groups of channels."""
    check_groups(x, groups, one_value)
    fused = layer.activation is not None or residual is not None
    if torch_kernels.preferred(x, "instance" if groups == layer.num_features else "group", fused=fused):
        y = torch_kernels.group_norm(x, groups, layer.weight, layer.bias, layer.eps)
        return torch_kernels.finish(y, layer.activation, residual)
    weight, bias, activation = layer.weight, layer.bias, layer.activation
    return normalize_pooled(x, groups, weight, bias, layer.eps, activation=activation, residual=residual)[0]


def check_divides(num_groups: int, num_features: int) -> None:
    """Refuse groups that do not divide the channels, naming the nearest number that does."""
    if num_groups < 1 or num_features % num_groups:
        fits = [g for g in range(1, num_features + 1) if num_features % g == 0]
        near = min(fits, key=lambda g: abs(g - num_groups))
        raise SpecError(f"num_groups={num_groups} does not divide num_features={num_features}; {near} does")


def check_ddof(ddof: int) -> None:
    """Refuse what is neither 0 nor 1."""
    if ddof not in (0, 1):
        raise SpecError(f"ddof={ddof} should be 0, for the biased variance, or 1, for the unbiased one")


def check_groups(x: Tensor, groups: int, one_value: OneValue, ddof: int = 0) -> None:
    """Refuse groups of too few values to have a variance."""
    values = x.shape[1:].numel() // groups
    if values > ddof and (values > 1 or one_value == "bias"):
        return
    raise SpecError(
        f"Expected more than {max(1, ddof)} value per group, got input size {x.shape} in {groups} groups: the "
        "variance of one value is 0, and all that is left of x is the bias. Use fewer groups, or one_value='bias'."
    )
