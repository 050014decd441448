"""EvoNorm-S0 (Liu et al. 2020)."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, Undefined, affine, grid, sigmoid

NUM_FEATURES = 32
EXAMPLES = [
    "evo_s0",
    "evo_s0(num_groups=8)",
    "evo_s0(num_groups=1, ddof=1, activation='relu')",
    "evo_s0(nonlinearity=False)",
    "evo_s0(num_groups=4, eps=0.1, affine=False)",
    "evo_s0(num_groups=16, bias=False)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    if not options["nonlinearity"]:
        return affine(options, state, x), state
    values = x.reshape(len(x), options["num_groups"], -1)
    if values.shape[2] == 1:
        raise Undefined("variance of one value")
    std = np.sqrt(values.var(2, ddof=options["ddof"]) + options.get("eps", 1e-5))
    std = np.repeat(std, x.shape[1] // options["num_groups"], axis=1)
    return affine(options, state, x * sigmoid(grid(state["v"], x) * x) / grid(std, x)), state
