"""Meta Normalization (slides of W. Shao): mean and variance of the values in each set, taken one by one."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, Undefined, affine

EXAMPLES = [
    "meta",
    "meta(U='ones', activation='relu')",
    "meta(V='ones', eps=0.1)",
    "meta(U='ones', V='ones', affine=False)",
    "meta(U=[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], bias=False)",
    "meta(U=[[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1], [1, 1, 0, 0]])",
    "meta(V=[[1, 1, 0, 0, 0, 1], [0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0], [1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1], "
    "[0, 0, 0, 0, 0, 1]])",
    "meta(U='ones', V=[[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0], "
    "[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]])",
    "meta(U=[[1, 0, 1, 0], [1, 1, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0]], V='ones', one_value='bias')",
    "meta(one_value='bias')",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    n_examples, channels = x.shape[:2]
    u, v = sets(options["U"], n_examples), sets(options["V"], channels)
    if len(u) != n_examples:
        raise Undefined("sets of another batch size")
    y = np.empty_like(x)
    for n, c in np.ndindex(n_examples, channels):
        values = x[np.ix_(u[n] == 1, v[:, c] == 1)]
        if values.size == 1 and options["one_value"] == "error":
            raise Undefined("variance of one value")
        y[n, c] = (x[n, c] - values.mean()) / np.sqrt(values.var() + options.get("eps", 1e-5))
    return affine(options, state, y), state


def sets(given: str | list[list[int]], size: int) -> ndarray:
    if isinstance(given, str):
        return {"identity": np.eye(size), "ones": np.ones((size, size))}[given]
    return np.array(given)
