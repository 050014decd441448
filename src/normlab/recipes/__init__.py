"""Training recipes: initial values, parameter groups and input normalization; `recipe` builds one by name."""

from normlab.recipes import a1 as a1  # each file named here registers its recipe
from normlab.recipes import a2 as a2
from normlab.recipes import baseline as baseline
from normlab.recipes import beta_boost as beta_boost
from normlab.recipes import frozen_scale as frozen_scale
from normlab.recipes import iebn as iebn
from normlab.recipes import iebn_minus as iebn_minus
from normlab.recipes import init_only as init_only
from normlab.recipes import lr_only as lr_only
from normlab.recipes import norm as norm
from normlab.recipes import rbn as rbn
from normlab.recipes import rbn_minus as rbn_minus
from normlab.recipes import revisited as revisited
from normlab.recipes.attach import attach_rules
from normlab.recipes.base import RECIPES, Recipe, canonical, recipe
from normlab.recipes.explain import Explanation
from normlab.recipes.groups import check_cover
from normlab.recipes.input_norm import SIGMA_RELU, SIGMA_RELU_PAPER, InputNormalized
from normlab.recipes.prepare import ScalePlan
from normlab.recipes.verify import Finding

__all__ = [
    "RECIPES",
    "SIGMA_RELU",
    "SIGMA_RELU_PAPER",
    "Explanation",
    "Finding",
    "InputNormalized",
    "Recipe",
    "ScalePlan",
    "attach_rules",
    "canonical",
    "check_cover",
    "recipe",
]
