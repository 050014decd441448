"""Weight standardization (Qiao et al. 2019): each output channel's kernel with mean 0 and variance 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from tests.oracles.convolution import conv2d, rows

EXAMPLES = [
    "weight_standardized",
    "weight_standardized(eps=1e-3, stride=2, groups=2)",
    "weight_standardized(eps=1e-2, eps_mode='std', bias=False, padding_mode='reflect')",
]


def forward(
    options: dict[str, Any], state: dict[str, ndarray], x: ndarray, training: bool
) -> tuple[ndarray, dict[str, ndarray]]:
    return conv2d(options, x, kernel(options, state), state.get("bias")), state


def kernel(options: dict[str, Any], state: dict[str, ndarray]) -> ndarray:
    v, eps = rows(state["weight"]), options["eps"]
    centred = v - v.sum(1, keepdims=True) / v.shape[1]
    variance = (centred**2).sum(1, keepdims=True) / v.shape[1]
    divisor = {"root": np.sqrt(variance + eps), "std": np.sqrt(variance) + eps}[options["eps_mode"]]
    return (centred / divisor).reshape(state["weight"].shape)
