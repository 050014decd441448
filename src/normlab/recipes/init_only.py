"""Ablation: scales start small, but learn at the full rate."""

from typing import Unpack

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.values import ScaleOptions


@RECIPES.register("init_only")
def init_only(scale: float = 0.1, **options: Unpack[ScaleOptions]) -> Recipe:
    """γ₀ = `scale`, c = 1. Source: Davis and Frank, arXiv:2110.13989, sec. 4."""
    return Recipe("init_only", scale=scale, **options)
