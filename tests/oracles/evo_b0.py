"""EvoNorm-B0 (Liu et al. 2020)."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, Undefined, affine, grid, running, space, track, uses_batch

EXAMPLES = [
    "evo_b0",
    "evo_b0(ddof=1)",
    "evo_b0(nonlinearity=False)",
    "evo_b0(eps=0.1, momentum=None, activation='relu')",
    "evo_b0(affine=False)",
    "evo_b0(bias=False, track_running_stats=False)",
    "evo_b0(momentum=0.9, momentum_convention='keep', running_var='biased')",
    "evo_b0(running_init=(0.0, 0.5), debias=True, guard_nonfinite=True)",
    "evo_b0(batch1='running')",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    if not options["nonlinearity"]:
        return affine(options, state, x), state
    if options["ddof"] == x[0, 0].size:
        raise Undefined("unbiased variance of one position")
    eps, values = options.get("eps", 1e-5), x.size // x.shape[1]
    if uses_batch(options, training, values):
        var = x.var((0, *space(x)))
        state = track(options, state, values, var=var) if training else state
    else:
        var = running(options, state, "var")
    alone = x.var(space(x), ddof=options["ddof"], keepdims=True) if x.ndim > 2 else np.zeros_like(x)
    larger = np.maximum(np.sqrt(grid(var, x) + eps), grid(state["v"], x) * x + np.sqrt(alone + eps))
    return affine(options, state, x / larger), state
