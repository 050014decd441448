"""The paper's BASE: scales start at 1 and learn at the full rate; the input is normalized all the same."""

from typing import Unpack

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.values import Options


@RECIPES.register("baseline")
def baseline(**options: Unpack[Options]) -> Recipe:
    """γ₀ = 1, c = 1. Source: Davis and Frank, arXiv:2110.13989, sec. 4."""
    return Recipe("baseline", scale=1.0, **options)
