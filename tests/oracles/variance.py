"""Variance Normalization (Daneshmand et al. 2020): divide by the batch's standard deviation, and do not centre."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, affine, grid, running, space, track, uses_batch

EXAMPLES = [
    "variance",
    "variance(eps=0.1, momentum=None, activation='relu')",
    "variance(affine=False)",
    "variance(bias=False)",
    "variance(track_running_stats=False)",
    "variance(momentum=0.9, momentum_convention='keep', running_var='biased')",
    "variance(running_init=(1.0, 0.5), debias=True)",
    "variance(batch1='running', guard_nonfinite=True)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    values, after = x.size // x.shape[1], state
    if uses_batch(options, training, values):
        var = x.var((0, *space(x)), keepdims=True)
        after = track(options, state, values, var=var) if training else state
    else:
        var = grid(running(options, state, "var"), x)
    return affine(options, state, x / np.sqrt(var + options.get("eps", 1e-5))), after
