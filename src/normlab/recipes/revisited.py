"""The recipe of "Revisiting Batch Norm Initialization": scales start small and learn slowly."""

from normlab.layers.batch import Formulation
from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.input_norm import SIGMA_RELU_PAPER
from normlab.recipes.scope import Norms
from normlab.recipes.values import Init, ZeroScale


@RECIPES.register("revisited")
def revisited(
    scale: float = 0.1,
    lr_divisor: float = 100.0,
    input_norm: bool = True,
    zero_scale: ZeroScale = "keep",
    formulation: Formulation = "standard",
    init: Init = "fan_in",
    sigma_act: float = SIGMA_RELU_PAPER,
    *,
    norms: Norms = "batch",
    scope: str = "all",
    scaled_eps: bool = False,
) -> Recipe:
    """γ₀ = `scale`, c = `lr_divisor`. Source: Davis and Frank, arXiv:2110.13989, secs. 3 and 4."""
    return Recipe(
        "revisited",
        scale=scale,
        lr_divisor=lr_divisor,
        input_norm=input_norm,
        zero_scale=zero_scale,
        formulation=formulation,
        init=init,
        sigma_act=sigma_act,
        norms=norms,
        scope=scope,
        scaled_eps=scaled_eps,
    )
