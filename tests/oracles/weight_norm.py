"""Weight Normalization (Salimans and Kingma 2016): W = g V / |V| per output channel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from tests.oracles.convolution import conv2d, rows

EXAMPLES = [
    "weight_norm",
    "weight_norm(eps=1e-05, eps_mode='norm', initial_gain=1.0)",
    "weight_norm(eps=0.1, stride=2, groups=2)",
    "weight_norm(eps=0.1, eps_mode='norm', bias=False, padding_mode='replicate')",
]


def forward(
    options: dict[str, Any], state: dict[str, ndarray], x: ndarray, training: bool
) -> tuple[ndarray, dict[str, ndarray]]:
    return conv2d(options, x, kernel(options, state), state.get("bias")), state


def kernel(options: dict[str, Any], state: dict[str, ndarray]) -> ndarray:
    v, eps = rows(state["weight"]), options["eps"]
    squared = np.einsum("oi,oi->o", v, v)
    length = {"root": np.sqrt(squared + eps), "norm": np.sqrt(squared) + eps}[options["eps_mode"]]
    return (v * (state["gain"] / length)[:, None]).reshape(state["weight"].shape)
