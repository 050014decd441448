"""Representative BatchNorm in the paper's comparison."""

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.input_norm import SIGMA_RELU_PAPER
from normlab.recipes.scope import Norms
from normlab.recipes.values import Init


@RECIPES.register("rbn")
def rbn(
    center: bool = False,
    input_norm: bool = True,
    init: Init = "fan_in",
    sigma_act: float = SIGMA_RELU_PAPER,
    *,
    norms: Norms = "batch",
    scope: str = "all",
) -> Recipe:
    """BASE (γ₀ = 1, c = 1) with RBN for BatchNorm: its scaling, and with `center` its centering too.

    Source: Gao et al., CVPR 2021; scaling alone: Davis and Frank, arXiv:2110.13989, sec. 4.
    """
    return Recipe(
        "rbn",
        scale=1.0,
        input_norm=input_norm,
        init=init,
        sigma_act=sigma_act,
        norms=norms,
        scope=scope,
        to=f"rbn(center={center})",
        center=center,
    )
