"""Weight centering: W = V - mean V per output channel."""

from __future__ import annotations

from typing import Any

from numpy import ndarray

from tests.oracles.convolution import conv2d, rows

EXAMPLES = [
    "weight_centered",
    "weight_centered(bias=False, stride=2, groups=2)",
    "weight_centered(padding_mode='circular', dilation=2)",
]


def forward(
    options: dict[str, Any], state: dict[str, ndarray], x: ndarray, training: bool
) -> tuple[ndarray, dict[str, ndarray]]:
    return conv2d(options, x, kernel(options, state), state.get("bias")), state


def kernel(options: dict[str, Any], state: dict[str, ndarray]) -> ndarray:
    v = rows(state["weight"])
    return (v - v.mean(1, keepdims=True)).reshape(state["weight"].shape)
