"""Batch normalization (Ioffe and Szegedy 2015), and the formulations of Davis and Frank (2021)."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, activated, batch_moments, grid

EXAMPLES = [
    "batch",
    "batch(eps=0.1, momentum=0.5)",
    "batch(momentum=None, activation='relu')",
    "batch(affine=False)",
    "batch(bias=False)",
    "batch(track_running_stats=False)",
    "batch(momentum=0.9, momentum_convention='keep', running_var='biased')",
    "batch(running_init=(1.0, 0.5), debias=True)",
    "batch(guard_nonfinite=True)",
    "batch(batch1='running')",
    "batch(scale=0.1)",
    "batch(formulation='a1', activation='relu')",
    "batch(formulation='a2', scale=0.5)",
    "batch(formulation='a2', bias=False)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    mean, var, after = batch_moments(options, state, x, training)
    xhat = (x - mean) / np.sqrt(var + options["eps"])
    gamma, beta = (grid(state.get(name, default), x) for name, default in (("weight", ones(x)), ("bias", 0 * ones(x))))
    alpha = grid(state.get("inner_weight", ones(x)), x)
    y = {
        "standard": gamma * xhat + beta,
        "a1": gamma * (xhat + beta),
        "a2": gamma * (alpha * xhat + beta),
    }[options["formulation"]]
    return activated(options, y), after


def ones(x: ndarray) -> ndarray:
    return np.ones(x.shape[1])
