"""Control: scales are not trained at all."""

from typing import Unpack

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.values import Options, ZeroScale


@RECIPES.register("frozen_scale")
def frozen_scale(scale: float = 1.0, zero_scale: ZeroScale = "keep", **options: Unpack[Options]) -> Recipe:
    """γ stays at `scale`, that of the input's norm at scale · sigma_act: what `lr_divisor` tends to as it grows.

    1 is what airbench has; `frozen_scale(scale=0.1)` is the control of `revisited`. Scales of zeros are refused
    unless overwritten: they would switch their branch off for good.

    Source: Jordan, github.com/KellerJordan/cifar10-airbench (2024).
    """
    return Recipe("frozen_scale", scale=scale, zero_scale=zero_scale, train_scale=False, **options)
