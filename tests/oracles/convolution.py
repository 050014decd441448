"""The convolution that the oracles of convolutions share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def rows(v: ndarray) -> ndarray:
    """One row per output channel."""
    return v.astype(np.float64).reshape(len(v), -1)


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def conv2d(options: dict[str, Any], x: ndarray, kernel: ndarray, bias: ndarray | None) -> ndarray:
    """Cross-correlation, by its definition: a sum over input channels and taps."""
    stride, dilation = pair(options.get("stride", 1)), pair(options.get("dilation", 1))
    groups = options.get("groups", 1)
    (c_out, c_group, *taps) = kernel.shape
    reach = [d * (k - 1) for d, k in zip(dilation, taps, strict=True)]
    x = np.pad(x, [(0, 0), (0, 0), *_margins(options, reach)], MODES[options.get("padding_mode", "zeros")])
    height, width = ((x.shape[2 + i] - reach[i] - 1) // stride[i] + 1 for i in range(2))
    y = np.zeros((len(x), c_out, height, width))
    for o in range(c_out):
        first = o // (c_out // groups) * c_group
        for i, a, b in np.ndindex(c_group, *taps):
            top, left = a * dilation[0], b * dilation[1]
            seen = x[:, first + i, top :: stride[0], left :: stride[1]][:, :height, :width]
            y[:, o] += kernel[o, i, a, b] * seen
    return y if bias is None else y + bias.reshape(-1, 1, 1)


def _margins(options: dict[str, Any], reach: list[int]) -> list[tuple[int, int]]:
    padding = options.get("padding", 0)
    if padding == "same":
        return [(r // 2, r - r // 2) for r in reach]
    return [(p, p) for p in ((0, 0) if padding == "valid" else pair(padding))]
