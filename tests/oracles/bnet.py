"""BNET (Xu et al. 2020): batch norm, then a convolution of each channel by itself, by its definition."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, Undefined, activated, batch_moments, grid

EXAMPLES = [
    "bnet",
    "bnet(kernel_size=1)",
    "bnet(kernel_size=5, init='default')",
    "bnet(init='kaiming', bias=False)",
    "bnet(dims=1, kernel_size=5)",
    "bnet(dims=3, momentum=None, eps=0.1, activation='relu')",
    "bnet(affine=False)",
    "bnet(track_running_stats=False)",
    "bnet(dims=3, kernel_size=1, momentum=0.9, momentum_convention='keep', running_var='biased')",
    "bnet(running_init=(1.0, 0.5), debias=True, guard_nonfinite=True)",
    "bnet(batch1='running')",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    if x.ndim not in (2, 2 + options["dims"]):
        raise Undefined("a kernel of another number of dimensions")
    mean, var, after = batch_moments(options, state, x, training)
    y = (x - mean) / np.sqrt(var + options.get("eps", 1e-5))
    if "weight" in state:
        y = convolved(options, state, y.reshape(*y.shape, *[1] * options["dims"]) if y.ndim == 2 else y).reshape(
            x.shape
        )
    return activated(options, y), after


def convolved(options: Options, state: State, x: ndarray) -> ndarray:
    k, dims = options["kernel_size"], options["dims"]
    padded = np.pad(x, [(0, 0), (0, 0), *[(k // 2, k // 2)] * dims])
    y = np.zeros_like(x) + grid(state.get("bias", np.zeros(x.shape[1])), x)
    for tap in np.ndindex(*[k] * dims):
        window = tuple(slice(t, t + size) for t, size in zip(tap, x.shape[2:], strict=True))
        y += grid(state["weight"][(slice(None), 0, *tap)], x) * padded[(slice(None), slice(None), *window)]
    return y
