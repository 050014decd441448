"""Instance-Level Meta Normalization (Jia et al. 2019): scale and shift predicted from the moments of key groups."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, Undefined, activated, grid, sigmoid

NUM_FEATURES = 32
EXAMPLES = [
    "ilm",
    "ilm(num_groups=4, key_group_size=8)",
    "ilm(num_groups=4, key_group_size=4, eps=0.1, activation='relu')",
    "ilm(backbone='instance', key_group_size=2, embedding=3)",
    "ilm(backbone='layer', key_group_size=4, reduction=2)",
    "ilm(num_groups=4, affine=False)",
    "ilm(num_groups=2, bias=False)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    channels, size = x.shape[1], options["key_group_size"]
    groups = {"group": options["num_groups"], "instance": channels, "layer": 1}[options["backbone"]]
    key_mean, key_var = (v[..., 0] for v in moments(x, channels // size)[1:])
    encoder = state["encoder.weight"]
    g = sigmoid(np.maximum(key_var @ encoder.T, 0) @ state["decode_weight.weight"].T).repeat(size, 1)
    b = np.tanh(np.maximum(key_mean @ encoder.T, 0) @ state["decode_bias.weight"].T).repeat(size, 1)
    values, mean, var = moments(x, groups)
    xhat = ((values - mean) / np.sqrt(var + options.get("eps", 1e-5))).reshape(x.shape)
    gamma = state.get("weight", np.zeros(1)) + g
    beta = state.get("bias", np.zeros(1)) + b
    return activated(options, grid(gamma, x) * xhat + grid(beta, x)), state


def moments(x: ndarray, groups: int) -> tuple[ndarray, ndarray, ndarray]:
    """The values of each group, [N, groups, values], their mean and their unbiased variance."""
    values = x.reshape(len(x), groups, -1)
    if values.shape[2] == 1:
        raise Undefined("unbiased variance of one value")
    return values, values.mean(2, keepdims=True), values.var(2, keepdims=True, ddof=1)
