"""Scaled weight standardization (Brock et al. 2021): standardized kernels times gain · constant / √fan_in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from tests.oracles.convolution import conv2d
from tests.oracles.weight_standardized import kernel as standardized

EXAMPLES = [
    "scaled_weight_standardized",
    "scaled_weight_standardized(eps=1e-05, eps_mode='std')",
    "scaled_weight_standardized(constant='relu_timm', stride=2, groups=2)",
    "scaled_weight_standardized(constant='identity', bias=False, dilation=2)",
    "scaled_weight_standardized(constant=1.5, padding_mode='replicate')",
]
CONSTANTS = {"relu": np.sqrt(2 / (1 - 1 / np.pi)), "relu_timm": 1.7139588594436646, "identity": 1.0}


def forward(
    options: dict[str, Any], state: dict[str, ndarray], x: ndarray, training: bool
) -> tuple[ndarray, dict[str, ndarray]]:
    return conv2d(options, x, kernel(options, state), state.get("bias")), state


def kernel(options: dict[str, Any], state: dict[str, ndarray]) -> ndarray:
    constant = CONSTANTS.get(options["constant"], options["constant"])
    fan_in = np.prod(state["weight"].shape[1:])
    gain = state["gain"].astype(np.float64).reshape(-1, 1, 1, 1)
    return gain * constant * fan_in**-0.5 * standardized(options, state)
