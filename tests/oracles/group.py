"""Group normalization (Wu and He 2018)."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, Undefined, affine

NUM_FEATURES = 32
EXAMPLES = [
    "group",
    "group(num_groups=4)",
    "group(num_groups=1, eps=0.1)",
    "group(num_groups=2, affine=False)",
    "group(num_groups=2, bias=False)",
    "group(num_groups=8, activation='relu')",
    "group(num_groups=8, ddof=1)",
    "group(num_groups=4, ddof=1, affine=False, activation='relu')",
    "group(one_value='bias')",
    "group(one_value='bias', ddof=1)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    groups = x.reshape(len(x), options["num_groups"], -1)
    ddof, values = options["ddof"], groups.shape[2]
    if values <= ddof or (values == 1 and options["one_value"] == "error"):
        raise Undefined("variance of one value")
    centred = groups - groups.mean(2, keepdims=True)
    var = (centred**2).sum(2, keepdims=True) / (values - ddof)
    return affine(options, state, (centred / np.sqrt(var + options["eps"])).reshape(x.shape)), state
