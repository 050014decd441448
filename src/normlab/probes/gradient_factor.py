"""The gradient factor γ/σ of a layer, by which all gradients are multiplied on their way back through it."""

from __future__ import annotations

import torch
from torch import Tensor

from normlab.probes.base import PROBES, Probe
from normlab.probes.standard import why_not


def gradient_factor(var: Tensor, weight: Tensor | None, eps: float | Tensor) -> Tensor:
    """The mean of |γ| / √(σ² + eps) over everything that is normalized separately.

        ∂L/∂x = [γ / √(σ² + eps)] f,   f = g - mean g - x̂ mean(g x̂)

    Args:
        var: σ², biased. weight: γ, which broadcasts to it; None for 1.

    Returns:
        [], in units of 1/x.

    Source: Davis and Frank, arXiv:2110.13989, Eq. 12.
    """
    rstd = torch.rsqrt(var.detach() + eps)
    return (rstd if weight is None else rstd * weight.detach().abs()).mean()


@PROBES.register("gradient_factor")
def gradient_factor_probe() -> Probe:
    """`gradient_factor` of the layer by the moments of what it gets; gates and corrections are left out."""
    return Probe("gradient_factor", "standard", lambda _, s: gradient_factor(s.var, s.weight, s.eps), why_not)
