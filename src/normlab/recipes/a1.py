"""The recipe `revisited` with the formulation A1 of BatchNorm, which scales the shift as well."""

from typing import Unpack

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.values import ScaleOptions


@RECIPES.register("a1")
def a1(scale: float = 0.1, lr_divisor: float = 100.0, **options: Unpack[ScaleOptions]) -> Recipe:
    """y = γ (x̂ + β). Of BatchNorm alone: norms="all" is an error.

    Source: Davis and Frank, arXiv:2110.13989, sec. 3.
    """
    return Recipe("a1", scale=scale, lr_divisor=lr_divisor, formulation="a1", **options)
