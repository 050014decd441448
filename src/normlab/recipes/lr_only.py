"""Ablation: scales start at 1, but learn slowly."""

from typing import Unpack

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.values import Options


@RECIPES.register("lr_only")
def lr_only(lr_divisor: float = 100.0, **options: Unpack[Options]) -> Recipe:
    """γ₀ = 1, c = `lr_divisor`. Source: Davis and Frank, arXiv:2110.13989, sec. 4."""
    return Recipe("lr_only", scale=1.0, lr_divisor=lr_divisor, **options)
