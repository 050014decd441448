"""l_p-norm batch norm (Santurkar et al. 2018): center by the mean, divide by a norm."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, affine, grid, running, space, track, uses_batch

EXAMPLES = [
    "lp",
    "lp(p=1)",
    "lp(p='inf')",
    "lp(p=2, centred=True, momentum=None)",
    "lp(p=1, centred=True, eps=0.1, activation='relu')",
    "lp(p='inf', centred=True, affine=False)",
    "lp(bias=False, track_running_stats=False)",
    "lp(p=1, momentum=0.9, momentum_convention='keep')",
    "lp(p=1, running_init=(1.0, 0.5), debias=True, guard_nonfinite=True)",
    "lp(p='inf', batch1='running')",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    # the norm takes the place that a variance has elsewhere, and is kept as it is
    options, values = {**options, "running_var": "biased"}, x.size // x.shape[1]
    kept = {("running_var" if key == "running_norm" else key): value for key, value in state.items()}
    if uses_batch(options, training, values):
        mean = x.mean((0, *space(x)))
        norm = size(options["p"], x - grid(mean, x) if options["centred"] else x)
        kept = track(options, kept, values, mean, norm) if training else kept
    else:
        mean, norm = running(options, kept, "mean"), running(options, kept, "var")
    y = affine(options, state, (x - grid(mean, x)) / (grid(norm, x) + options.get("eps", 1e-5)))
    return y, {("running_norm" if key == "running_var" else key): value for key, value in kept.items()}


def size(p: float | str, z: ndarray) -> ndarray:
    axes = (0, *space(z))
    if p == "inf":
        return np.abs(z).max(axes)
    return (np.abs(z) ** p).mean(axes) ** (1 / p)
