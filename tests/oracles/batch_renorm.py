"""Batch Renormalization (Ioffe 2017): batch norm, moved towards the running statistics within bounds."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, affine, batch_moments, grid, running, uses_batch

CONSTANTS_OF_X = True  # r and d
EXAMPLES = [
    "batch_renorm",
    "batch_renorm(rmax=1.5, dmax=0.5)",
    "batch_renorm(rmax=1.0, dmax=0.0)",
    "batch_renorm(rmax=1.1, dmax=9.0, eps=0.1, momentum=None, activation='relu')",
    "batch_renorm(affine=False)",
    "batch_renorm(bias=False)",
    "batch_renorm(momentum=0.9, momentum_convention='keep', running_var='biased')",
    "batch_renorm(running_init=(1.0, 0.5), debias=True)",
    "batch_renorm(batch1='running', guard_nonfinite=True)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    eps, rmax, dmax = options.get("eps", 1e-5), options["rmax"], options["dmax"]
    mean, var, after = batch_moments(options, state, x, training)
    xhat = (x - mean) / np.sqrt(var + eps)
    if uses_batch(options, training, x.size // x.shape[1]):
        before = np.sqrt(grid(running(options, state, "var"), x) + eps)
        r = np.clip(np.sqrt(var + eps) / before, 1 / rmax, rmax)
        d = np.clip((mean - grid(running(options, state, "mean"), x)) / before, -dmax, dmax)
        xhat = xhat * r + d
    return affine(options, state, xhat), after
