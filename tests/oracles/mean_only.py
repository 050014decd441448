"""Mean-only batch normalization (Salimans and Kingma 2016): subtract the batch's mean."""

from __future__ import annotations

from numpy import ndarray

from tests.oracles.common import Options, State, affine, grid, running, space, track, uses_batch

EXAMPLES = [
    "mean_only",
    "mean_only(momentum=None, activation='relu')",
    "mean_only(affine=False)",
    "mean_only(bias=False)",
    "mean_only(track_running_stats=False)",
    "mean_only(momentum=0.9, momentum_convention='keep')",
    "mean_only(running_init=(1.0, 0.5), debias=True)",
    "mean_only(batch1='running', guard_nonfinite=True)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    values, after = x.size // x.shape[1], state
    if uses_batch(options, training, values):
        mean = x.mean((0, *space(x)), keepdims=True)
        after = track(options, state, values, mean=mean) if training else state
    else:
        mean = grid(running(options, state, "mean"), x)
    return affine(options, state, x - mean), after
