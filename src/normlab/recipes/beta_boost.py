"""Control from the speed runs on CIFAR-10: shifts learn many times faster than everything else."""

from typing import Unpack

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.values import Options, ZeroScale


@RECIPES.register("beta_boost")
def beta_boost(
    factor: float = 64.0,
    train_scale: bool = False,
    scale: float = 1.0,
    zero_scale: ZeroScale = "keep",
    **options: Unpack[Options],
) -> Recipe:
    """β learns at lr · `factor`; γ stays at `scale`, or with `train_scale` learns at lr.

    airbench has 64 and untrained scales of 1. It also decays β, by (weight decay) / 64 so that the decay of a step is
    that of a weight; here shifts never decay, as in the other recipes. It uses eps = 1e-12.

    Source: Jordan, github.com/KellerJordan/cifar10-airbench (2024), airbench94.py.
    """
    return Recipe("beta_boost", scale=scale, zero_scale=zero_scale, train_scale=train_scale, factor=factor, **options)
