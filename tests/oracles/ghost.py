"""Ghost Batch Normalization (Hoffer et al. 2017): batch norm of one part of the batch after another."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, Undefined, affine, batch_moments, uses_batch

EXAMPLES = [
    "ghost",
    "ghost(ghost_size=2)",
    "ghost(ghost_size=2, momentum=None, activation='relu')",
    "ghost(ghost_size=1, eps=0.1, affine=False)",
    "ghost(ghost_size=2, bias=False, track_running_stats=False)",
    "ghost(ghost_size=2, momentum=0.9, momentum_convention='keep', running_var='biased')",
    "ghost(ghost_size=2, running_init=(1.0, 0.5), debias=True)",
    "ghost(ghost_size=1, batch1='running')",
    "ghost(ghost_size=2, guard_nonfinite=True)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    size, y = min(options["ghost_size"], len(x)), []
    if uses_batch(options, training, size * x[0, 0].size) and len(x) % size:
        raise Undefined("the batch is no multiple of the ghost size")
    for ghost in np.split(x, range(size, len(x), size)):
        mean, var, state = batch_moments(options, state, ghost, training)
        y.append((ghost - mean) / np.sqrt(var + options.get("eps", 1e-5)))
    return affine(options, state, np.concatenate(y)), state
