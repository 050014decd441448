"""RBN-minus (Davis and Frank 2021): batch norm times a learned gate per channel, the same for every example."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, affine, batch_moments, grid, sigmoid

EXAMPLES = [
    "rbn_minus",
    "rbn_minus(eps=0.1, momentum=None, activation='relu')",
    "rbn_minus(affine=False)",
    "rbn_minus(bias=False)",
    "rbn_minus(track_running_stats=False)",
    "rbn_minus(momentum=0.9, momentum_convention='keep', running_var='biased')",
    "rbn_minus(running_init=(1.0, 0.5), debias=True)",
    "rbn_minus(batch1='running', guard_nonfinite=True)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    mean, var, after = batch_moments(options, state, x, training)
    gate = grid(sigmoid(state["gate_bias"]), x)
    return affine(options, state, gate * (x - mean) / np.sqrt(var + options.get("eps", 1e-5))), after
