"""Where SAM and ASAM look for a higher loss: the perturbation ε of each parameter."""

# The foreach functions are torch's own way to write an optimizer, and have no public name.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

Adaptive = Literal["elementwise", "layerwise"]
P = Literal[2, "inf"]

TINY = 1e-16


def perturbation(
    gradients: list[Tensor],
    weights: list[Tensor],
    *,
    rho: float,
    adaptive: Adaptive | None,
    p: P,
    eta: float,
) -> tuple[list[Tensor], float | Tensor]:
    """ε for each gradient g, as directions and the number to multiply them by; |·| is the 2-norm over all of them.

        p = 2:    ε = ρ T² g / (|T g| + 1e-16)
        p = inf:  ε = ρ T sign(g)

    with T = |w| + η elementwise, |w|₂ (1 + η) for all entries of a tensor layerwise, 1 where there is no w. ε stays
    the same when all gradients are multiplied by the same positive number.

    Args:
        weights: w, the parameters of the first len(weights) gradients; of the others T is 1.

    Source: Foret et al., arXiv:2010.01412, eq. 2; Kwon et al., arXiv:2102.11600, eq. 10 and 11; layerwise as in the
    code of Mueller et al., arXiv:2306.04226, where η is a factor.
    """
    factors = _factors(weights, adaptive, eta)
    if p == "inf":
        return _times_factors(list(torch._foreach_sign(gradients)), factors), rho
    steps = _times_factors(gradients, factors)
    scale = rho / (_joint_norm(steps) + TINY)
    if factors:  # those steps are new tensors, no gradients
        torch._foreach_mul_(steps[: len(factors)], factors)
    return steps, scale


def _factors(weights: list[Tensor], adaptive: Adaptive | None, eta: float) -> list[Tensor]:
    if adaptive is None or not weights:
        return []
    if adaptive == "elementwise":
        sizes = list(torch._foreach_abs(weights))
        torch._foreach_add_(sizes, eta)
        return sizes
    return list(torch._foreach_mul(torch._foreach_norm(weights, 2), 1 + eta))


def _times_factors(values: list[Tensor], factors: list[Tensor]) -> list[Tensor]:
    """The first values times the factors, in new tensors; the others as they are."""
    n = len(factors)
    return [*torch._foreach_mul(values[:n], factors), *values[n:]] if n else values


def _joint_norm(values: list[Tensor]) -> Tensor:
    """In float32 or wider, since the square of a half number is easily none; on the device of the first value."""
    dtype = functools.reduce(torch.promote_types, {value.dtype for value in values}, torch.float32)
    norms = torch._foreach_norm(values, 2, dtype=dtype)
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
