"""BatchNorm starts where the authors' code starts; all that it computes is replayed in tests/golden."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normlab.layers.batch import BatchNorm
from tests.golden import load

FACTOR = load("bn_gradient_factor_init")
INITIAL = [
    ("bn_scaleinit_g0.1", {"scale": 0.1}),
    ("bn_scaleinit_g1.0", {}),
    ("bn_input_norm", {"scale": 0.1 * 0.58, "bias": False}),
    ("bn_form_a2_init", {"formulation": "a2"}),
]


@pytest.mark.parametrize(("name", "options"), INITIAL, ids=lambda value: value if isinstance(value, str) else "")
def test_initial_values_are_the_authors(name, options):
    case = load(name)
    stored = case.by_role("param")
    if "gamma0" not in case.canonical:  # the formula cases draw their scale, and say so nowhere
        options = {**options, "scale": float(stored["gamma"][0])}
    layer = BatchNorm(case.channels, dtype=torch.float64, **options)
    layer.reset_parameters()
    zeros = torch.zeros(case.channels)
    case.assert_close(zeros if layer.bias is None else layer.bias.detach(), stored["beta"], "beta")
    if "alpha" in stored:
        case.assert_close(layer.inner_weight.detach(), stored["alpha"], "alpha")
    if "gamma0" in case.canonical:
        case.assert_close(layer.weight.detach(), stored["gamma"], "gamma")


def test_gradient_factor_does_not_depend_on_the_initial_scale_beyond_the_first_layer():
    factor, gamma0 = FACTOR.arrays["factor"], FACTOR.arrays["gamma0"]  # [gamma0, layer, channel]
    for row in factor[1:]:
        FACTOR.assert_close(row[1:], factor[0, 1:], "layers fed by a BatchNorm")
    FACTOR.assert_close(factor[:, 0] / gamma0[:, None], np.broadcast_to(factor[0, 0] / gamma0[0], factor[:, 0].shape))
