"""The recipe `revisited` with the formulation A2 of BatchNorm, which scales the shift as well."""

from typing import Unpack

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.values import ScaleOptions


@RECIPES.register("a2")
def a2(scale: float = 0.1, lr_divisor: float = 100.0, **options: Unpack[ScaleOptions]) -> Recipe:
    """y = γ (α x̂ + β), α = 1 at first and at the full rate. Of BatchNorm alone: norms="all" is an error.

    Source: Davis and Frank, arXiv:2110.13989, sec. 3.
    """
    return Recipe("a2", scale=scale, lr_divisor=lr_divisor, formulation="a2", **options)
