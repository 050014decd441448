"""Instance normalization (Ulyanov et al. 2016); with running moments, as torch averages them over the examples."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, Undefined, affine, grid, moments, running, space, track

EXAMPLES = [
    "instance",
    "instance(affine=True)",
    "instance(affine=True, bias=False, eps=0.1)",
    "instance(affine=True, one_value='bias', activation='relu')",
    "instance(track_running_stats=True)",
    "instance(track_running_stats=True, affine=True, momentum=None)",
    "instance(track_running_stats=True, momentum=0.8, momentum_convention='keep', running_var='biased')",
    "instance(track_running_stats=True, running_init=(1.0, 0.5), debias=True, activation='relu')",
    "instance(track_running_stats=True, guard_nonfinite=True)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    tracked, positions = options["track_running_stats"], x[0, 0].size
    if tracked and not training:
        mean, var = (grid(running(options, state, name), x) for name in ("mean", "var"))
        return affine(options, state, (x - mean) / np.sqrt(var + options["eps"])), state
    if positions == 1 and (tracked or options["one_value"] == "error"):
        raise Undefined("variance of one value")
    mean, var = moments(x, space(x))
    after = track(options, state, positions, mean.mean(0), var.mean(0)) if tracked else state
    return affine(options, state, (x - mean) / np.sqrt(var + options["eps"])), after
