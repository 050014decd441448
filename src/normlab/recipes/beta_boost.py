"""Control from the speed runs on CIFAR-10: shifts learn many times faster than everything else."""

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.input_norm import SIGMA_RELU_PAPER
from normlab.recipes.scope import Norms
from normlab.recipes.values import Init, ZeroScale


@RECIPES.register("beta_boost")
def beta_boost(
    factor: float = 64.0,
    train_scale: bool = False,
    scale: float = 1.0,
    input_norm: bool = True,
    zero_scale: ZeroScale = "keep",
    init: Init = "fan_in",
    sigma_act: float = SIGMA_RELU_PAPER,
    *,
    norms: Norms = "batch",
    scope: str = "all",
) -> Recipe:
    """β learns at lr · `factor`; γ stays at `scale`, or with `train_scale` learns at lr.

    airbench has 64 and untrained scales of 1. It also decays β, by (weight decay) / 64 so that the decay of a step is
    that of a weight; here shifts never decay, as in the other recipes. It uses eps = 1e-12.

    Source: Jordan, github.com/KellerJordan/cifar10-airbench (2024), airbench94.py.
    """
    return Recipe(
        "beta_boost",
        scale=scale,
        input_norm=input_norm,
        zero_scale=zero_scale,
        init=init,
        sigma_act=sigma_act,
        norms=norms,
        scope=scope,
        train_scale=train_scale,
        factor=factor,
    )
