"""Filter Response Normalization and its thresholded linear unit (Singh and Krishnan 2020)."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, affine, grid
from tests.oracles.rbn import pooled

EXAMPLES = [
    "frn",
    "frn(tlu=False)",
    "frn(eps=0.1, bias=False)",
    "frn(affine=False, tlu=False)",
    "frn(learn_eps='channel')",
    "frn(learn_eps='layer', eps=0.0)",
    "frn(learn_eps='layer', affine=False)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    eps = options["eps"] + np.abs(state.get("learned_eps", np.zeros(1)))
    z = affine(options, state, x / np.sqrt(pooled(x**2) + grid(eps, x)))
    return np.maximum(z, grid(state["threshold"], x)) if "threshold" in state else z, state
