"""Noisy batch norm (Santurkar et al. 2018, appendix): noise on what batch norm gives, in training.

The examples are those in which nothing is left to chance; tests of the noise give it to `forward`.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, activated, affine, batch_moments

SILENT = "mean_range=0.0, scale_range=1.0, spread=0.0"
EXAMPLES = [
    f"noisy({SILENT})",
    f"noisy({SILENT}, per='channel')",
    f"noisy({SILENT}, spread_is='variance', eps=0.1, activation='relu', momentum=None)",
    f"noisy({SILENT}, affine=False, track_running_stats=False)",
    f"noisy({SILENT}, momentum=0.9, momentum_convention='keep', running_var='biased')",
    f"noisy({SILENT}, running_init=(1.0, 0.5), debias=True, guard_nonfinite=True)",
    f"noisy({SILENT}, bias=False, batch1='running')",
]


def forward(
    options: Options, state: State, x: ndarray, training: bool, noise: tuple[ndarray, ndarray] | None = None
) -> tuple[ndarray, State]:
    mean, var, after = batch_moments(options, state, x, training)
    y = affine({**options, "activation": None}, state, (x - mean) / np.sqrt(var + options.get("eps", 1e-5)))
    if training and noise is not None:
        scale, shift = noise
        y = scale * y + shift
    return activated(options, y), after
