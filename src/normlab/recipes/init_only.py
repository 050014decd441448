"""Ablation: scales start small, but learn at the full rate."""

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.input_norm import SIGMA_RELU_PAPER
from normlab.recipes.scope import Norms
from normlab.recipes.values import Init, ZeroScale


@RECIPES.register("init_only")
def init_only(
    scale: float = 0.1,
    input_norm: bool = True,
    zero_scale: ZeroScale = "keep",
    init: Init = "fan_in",
    sigma_act: float = SIGMA_RELU_PAPER,
    *,
    norms: Norms = "batch",
    scope: str = "all",
    scaled_eps: bool = False,
) -> Recipe:
    """γ₀ = `scale`, c = 1. Source: Davis and Frank, arXiv:2110.13989, sec. 4."""
    return Recipe(
        "init_only",
        scale=scale,
        lr_divisor=1.0,
        input_norm=input_norm,
        zero_scale=zero_scale,
        init=init,
        sigma_act=sigma_act,
        norms=norms,
        scope=scope,
        scaled_eps=scaled_eps,
    )
