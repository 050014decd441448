"""Ablation: scales start at 1, but learn slowly."""

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.input_norm import SIGMA_RELU_PAPER
from normlab.recipes.scope import Norms
from normlab.recipes.values import Init


@RECIPES.register("lr_only")
def lr_only(
    lr_divisor: float = 100.0,
    input_norm: bool = True,
    init: Init = "fan_in",
    sigma_act: float = SIGMA_RELU_PAPER,
    *,
    norms: Norms = "batch",
    scope: str = "all",
) -> Recipe:
    """γ₀ = 1, c = `lr_divisor`. Source: Davis and Frank, arXiv:2110.13989, sec. 4."""
    return Recipe(
        "lr_only",
        scale=1.0,
        lr_divisor=lr_divisor,
        input_norm=input_norm,
        init=init,
        sigma_act=sigma_act,
        norms=norms,
        scope=scope,
    )
