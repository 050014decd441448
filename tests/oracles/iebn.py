"""Instance Enhancement BatchNorm (Liang et al. 2020): batch norm, and a gate on the means of the input."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, affine, batch_moments, grid, sigmoid
from tests.oracles.rbn import pooled

EXAMPLES = [
    "iebn",
    "iebn(eps=0.1, momentum=None, activation='relu')",
    "iebn(affine=False)",
    "iebn(bias=False)",
    "iebn(track_running_stats=False)",
    "iebn(momentum=0.9, momentum_convention='keep', running_var='biased')",
    "iebn(running_init=(1.0, 0.5), debias=True)",
    "iebn(batch1='running', guard_nonfinite=True)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    mean, var, after = batch_moments(options, state, x, training)
    gate = sigmoid(grid(state["gate_weight"], x) * pooled(x) + grid(state["gate_bias"], x))
    return affine(options, state, gate * (x - mean) / np.sqrt(var + options.get("eps", 1e-5))), after
