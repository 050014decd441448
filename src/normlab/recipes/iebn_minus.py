"""Instance Enhancement BatchNorm without its pooling, in the paper's comparison."""

from typing import Unpack

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.values import Options


@RECIPES.register("iebn_minus")
def iebn_minus(**options: Unpack[Options]) -> Recipe:
    """BASE (γ₀ = 1, c = 1) with IEBN-minus for BatchNorm. Source: Davis and Frank, arXiv:2110.13989, sec. 4."""
    return Recipe("iebn_minus", scale=1.0, to="iebn_minus", **options)
