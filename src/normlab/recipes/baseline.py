"""The paper's BASE: scales start at 1 and learn at the full rate; the input is normalized all the same."""

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.input_norm import SIGMA_RELU_PAPER
from normlab.recipes.scope import Norms
from normlab.recipes.values import Init


@RECIPES.register("baseline")
def baseline(
    input_norm: bool = True,
    init: Init = "fan_in",
    sigma_act: float = SIGMA_RELU_PAPER,
    *,
    norms: Norms = "batch",
    scope: str = "all",
) -> Recipe:
    """γ₀ = 1, c = 1. Source: Davis and Frank, arXiv:2110.13989, sec. 4."""
    return Recipe(
        "baseline",
        scale=1.0,
        lr_divisor=1.0,
        input_norm=input_norm,
        init=init,
        sigma_act=sigma_act,
        norms=norms,
        scope=scope,
    )
