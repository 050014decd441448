"""Control: scales are not trained at all."""

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.input_norm import SIGMA_RELU_PAPER
from normlab.recipes.scope import Norms
from normlab.recipes.values import Init, ZeroScale


@RECIPES.register("frozen_scale")
def frozen_scale(
    scale: float = 1.0,
    input_norm: bool = True,
    zero_scale: ZeroScale = "keep",
    init: Init = "fan_in",
    sigma_act: float = SIGMA_RELU_PAPER,
    *,
    norms: Norms = "batch",
    scope: str = "all",
) -> Recipe:
    """γ stays at `scale`, that of the input's norm at scale · sigma_act: what `lr_divisor` tends to as it grows.

    1 is what airbench has; `frozen_scale(scale=0.1)` is the control of `revisited`. Scales of zeros are refused
    unless overwritten: they would switch their branch off for good.

    Source: Jordan, github.com/KellerJordan/cifar10-airbench (2024).
    """
    return Recipe(
        "frozen_scale",
        scale=scale,
        input_norm=input_norm,
        zero_scale=zero_scale,
        init=init,
        sigma_act=sigma_act,
        norms=norms,
        scope=scope,
        train_scale=False,
    )
