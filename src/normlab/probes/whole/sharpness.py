"""Sharpness: how much higher the loss is a little way up its gradient, where SAM looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from normlab.errors import SpecError, UnknownName, came
from normlab.probes.whole.calls import as_number
from normlab.probes.whole.surface import Loss, norm_of, surface
from normlab.surgery import affine_params, norm_sites

Scope = Literal["all", "norm", "not_norm"]


@dataclass(frozen=True)
class Sharpness:
    """The loss at w and at w + ε, ε = ρ g / |g|.

    Args:
        loss: L(w), perturbed: L(w + ε); in units of the loss.
        gradient_norm: |g| of the parameters in scope.

    Source: Foret et al., arXiv:2010.01412, eq. 2; scope "norm": Mueller et al., arXiv:2306.04226.
    """

    rho: float
    loss: float
    perturbed: float
    gradient_norm: float

    @property
    def value(self) -> float:
        """L(w + ε) - L(w)."""
        return self.perturbed - self.loss

    @property
    def curvature(self) -> float:
        """What is left of it without the slope, ρ |g|: the second order, about ρ² gᵀHg / (2 |g|²)."""
        return self.value - self.rho * self.gradient_norm


def sharpness(
    model: nn.Module, loss: Loss, *, rho: float = 0.05, scope: Scope = "all", training: bool = True
) -> Sharpness:
    """Look from w in SAM's direction, on one batch.

    Args:
        loss: computes the loss on a fixed batch: `lambda: cross_entropy(model(x), y)`.
        rho: |ε|. scope: which parameters are moved; "norm" are γ and β of the normalization layers.
        training: norms use the batch, and their running statistics stay; False for eval mode.

    Raises:
        UnknownName: no such scope.
        SpecError: see `surface`; rho below 0; no parameter in scope.
    """
    if scope not in get_args(Scope):
        raise UnknownName("scope", scope, get_args(Scope))
    if not 0 <= as_number(rho) < float("inf"):
        raise SpecError(f"rho={came(rho)} should be a number, 0 or more")
    with surface(model, loss, training=training) as around:
        names = _in_scope(model, around.parameters, scope)
        start, gradient = around.gradient(names)
        length = norm_of(gradient)
        around.move(gradient, rho / length if length else 0.0)
        return Sharpness(float(rho), start, around.loss(), length)


def _in_scope(model: nn.Module, parameters: dict[str, nn.Parameter], scope: Scope) -> list[str]:
    pairs = [affine_params(site.module) for site in norm_sites(model) if not site.frozen]
    norm = {id(p) for pair in pairs for p in pair if isinstance(p, Tensor)}
    names = [n for n, p in parameters.items() if scope == "all" or (id(p) in norm) == (scope == "norm")]
    if not names:
        raise SpecError(f"scope={scope!r} has no parameter that is trained")
    return names
