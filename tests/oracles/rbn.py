"""Representative BatchNorm (Gao et al. 2021): centering, batch norm of what was centred, and a gate on its means."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, affine, batch_moments, grid, sigmoid, space

EXAMPLES = [
    "rbn",
    "rbn(center=False)",
    "rbn(eps=0.1, momentum=None, activation='relu')",
    "rbn(affine=False)",
    "rbn(bias=False, center=False)",
    "rbn(track_running_stats=False)",
    "rbn(momentum=0.9, momentum_convention='keep', running_var='biased')",
    "rbn(running_init=(1.0, 0.5), debias=True)",
    "rbn(batch1='running', guard_nonfinite=True)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    if options["center"]:
        x = x + grid(state["center_weight"], x) * pooled(x)
    mean, var, after = batch_moments(options, state, x, training)
    xhat = (x - mean) / np.sqrt(var + options.get("eps", 1e-5))
    gate = sigmoid(grid(state["gate_weight"], x) * pooled(xhat) + grid(state["gate_bias"], x))
    return affine(options, state, gate * xhat), after


def pooled(x: ndarray) -> ndarray:
    return x.mean(space(x), keepdims=True) if x.ndim > 2 else x
