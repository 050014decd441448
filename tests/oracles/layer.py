"""Layer normalization (Ba et al. 2016) of feature maps; an affine part per channel, or per channel and position."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, Undefined, activated, affine

EXAMPLES = [
    "layer",
    "layer(eps=0.1, activation='relu')",
    "layer(affine=False)",
    "layer(bias=False)",
    "layer(one_value='bias')",
    "layer(spatial=(3, 5))",
    "layer(spatial=(3, 5), bias=False, activation='relu')",
    "layer(spatial=(3, 5), affine=False)",
    "layer(spatial=())",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    spatial = options["spatial"]
    if spatial is not None and x.shape[2:] != spatial:
        raise Undefined("another resolution than the affine part has")
    if x[0].size == 1 and options["one_value"] == "error":
        raise Undefined("variance of one value")
    axes = tuple(range(1, x.ndim))
    centred = x - x.mean(axes, keepdims=True)
    xhat = centred / np.sqrt((centred**2).mean(axes, keepdims=True) + options["eps"])
    if spatial is None:
        return affine(options, state, xhat), state
    return activated(options, xhat * state.get("weight", 1) + state.get("bias", 0)), state
