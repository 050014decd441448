"""Training recipes: initial values, parameter groups and input normalization; `recipe` builds one by name."""

from normlab.recipes import baseline as baseline  # each file named here registers its recipe
from normlab.recipes import init_only as init_only
from normlab.recipes import lr_only as lr_only
from normlab.recipes import revisited as revisited
from normlab.recipes.base import RECIPES, Recipe, recipe
from normlab.recipes.groups import check_cover
from normlab.recipes.input_norm import SIGMA_RELU, SIGMA_RELU_PAPER, InputNormalized
from normlab.recipes.prepare import ScalePlan

__all__ = [
    "RECIPES",
    "SIGMA_RELU",
    "SIGMA_RELU_PAPER",
    "InputNormalized",
    "Recipe",
    "ScalePlan",
    "check_cover",
    "recipe",
]
