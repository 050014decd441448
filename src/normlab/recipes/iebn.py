"""Instance Enhancement BatchNorm in the paper's comparison."""

from typing import Unpack

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.values import Options


@RECIPES.register("iebn")
def iebn(**options: Unpack[Options]) -> Recipe:
    """BASE (γ₀ = 1, c = 1) with IEBN for BatchNorm.

    Source: Liang et al., AAAI 2020, arXiv:1908.04008; compared in Davis and Frank, arXiv:2110.13989, sec. 4.
    """
    return Recipe("iebn", scale=1.0, to="iebn", **options)
