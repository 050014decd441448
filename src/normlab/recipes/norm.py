"""Another normalizer, and nothing else."""

from normlab.recipes.base import RECIPES, Recipe
from normlab.recipes.input_norm import SIGMA_RELU_PAPER
from normlab.recipes.scope import Norms
from normlab.recipes.values import Init


@RECIPES.register("norm")
def norm(
    to: str,
    input_norm: bool = False,
    init: Init = "keep",
    sigma_act: float = SIGMA_RELU_PAPER,
    *,
    norms: Norms = "batch",
    scope: str = "all",
) -> Recipe:
    """Convert: `norm(to="switch")`, `norm(to="group(num_groups=8)")`; a convolution: `norm(to="weight_standardized")`.

    Initial values are the model's own. To differ from `baseline` by the normalizer alone: input_norm=True,
    init="fan_in".

    Args:
        norms, scope: which layers to convert; for a convolution spec, every convolution that can be.
    """
    return Recipe(
        "norm", scale=None, input_norm=input_norm, init=init, sigma_act=sigma_act, norms=norms, scope=scope, to=to
    )
