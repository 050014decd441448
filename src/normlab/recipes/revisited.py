"""The recipe of "Revisiting Batch Norm Initialization": scales start small and learn slowly."""

from typing import Unpack

from normlab.layers.batch import Formulation
from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.values import ScaleOptions


@RECIPES.register("revisited")
def revisited(
    scale: float = 0.1,
    lr_divisor: float = 100.0,
    formulation: Formulation = "standard",
    **options: Unpack[ScaleOptions],
) -> Recipe:
    """γ₀ = `scale`, c = `lr_divisor`. Source: Davis and Frank, arXiv:2110.13989, secs. 3 and 4."""
    return Recipe("revisited", scale=scale, lr_divisor=lr_divisor, formulation=formulation, **options)
