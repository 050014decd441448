"""The recipe `revisited` with the formulation A2 of BatchNorm, which scales the shift as well."""

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.input_norm import SIGMA_RELU_PAPER
from normlab.recipes.scope import Norms
from normlab.recipes.values import Init, ZeroScale


@RECIPES.register("a2")
def a2(
    scale: float = 0.1,
    lr_divisor: float = 100.0,
    input_norm: bool = True,
    zero_scale: ZeroScale = "keep",
    init: Init = "fan_in",
    sigma_act: float = SIGMA_RELU_PAPER,
    *,
    norms: Norms = "batch",
    scope: str = "all",
    scaled_eps: bool = False,
) -> Recipe:
    """y = γ (α x̂ + β), α = 1 at first and at the full rate. Of BatchNorm alone: norms="all" is an error.

    Source: Davis and Frank, arXiv:2110.13989, sec. 3.
    """
    return Recipe(
        "a2",
        scale=scale,
        lr_divisor=lr_divisor,
        input_norm=input_norm,
        zero_scale=zero_scale,
        formulation="a2",
        init=init,
        sigma_act=sigma_act,
        norms=norms,
        scope=scope,
        scaled_eps=scaled_eps,
    )
