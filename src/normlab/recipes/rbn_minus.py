"""Representative BatchNorm without its pooling, in the paper's comparison."""

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.input_norm import SIGMA_RELU_PAPER
from normlab.recipes.scope import Norms
from normlab.recipes.values import Init


@RECIPES.register("rbn_minus")
def rbn_minus(
    input_norm: bool = True,
    init: Init = "fan_in",
    sigma_act: float = SIGMA_RELU_PAPER,
    *,
    norms: Norms = "batch",
    scope: str = "all",
) -> Recipe:
    """BASE (γ₀ = 1, c = 1) with RBN-minus for BatchNorm. Source: Davis and Frank, arXiv:2110.13989, sec. 4."""
    return Recipe(
        "rbn_minus",
        scale=1.0,
        input_norm=input_norm,
        init=init,
        sigma_act=sigma_act,
        norms=norms,
        scope=scope,
        to="rbn_minus",
    )
