"""Representative BatchNorm in the paper's comparison."""

from typing import Unpack

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.values import Options


@RECIPES.register("rbn")
def rbn(center: bool = False, **options: Unpack[Options]) -> Recipe:
    """BASE (γ₀ = 1, c = 1) with RBN for BatchNorm: its scaling, and with `center` its centering too.

    Source: Gao et al., CVPR 2021; scaling alone: Davis and Frank, arXiv:2110.13989, sec. 4.
    """
    return Recipe("rbn", scale=1.0, to=f"rbn(center={center})", center=center, **options)
