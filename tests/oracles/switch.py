"""Switchable Normalization (Luo et al. 2018): exact moments, and those of the authors' code."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, Undefined, affine, grid, moments, running, space, track, uses_batch

EXAMPLES = [
    "switch",
    "switch(eps=0.1, activation='relu', bias=False)",
    "switch(affine=False, momentum=None)",
    "switch(last=True)",
    "switch(using_in=False)",
    "switch(using_bn=False)",
    "switch(using_in=False, using_bn=False)",
    "switch(track_running_stats=False)",
    "switch(moving_average=False)",
    "switch(variance='official', momentum=0.9, momentum_convention='keep', running_var='biased', "
    "running_init=(0.0, 0.0))",
    "switch(variance='official', moving_average=False)",
    "switch(variance='official', using_in=False)",
    "switch(variance='official', using_bn=False)",
    "switch(running_init=(1.0, 0.5), debias=True)",
    "switch(batch1='running', guard_nonfinite=True)",
]

Pair = tuple[ndarray, ndarray]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    found, after = parts(options, state, x, training)
    y = blended(options, found, softmax(state["mean_logits"]), softmax(state["var_logits"]), x)
    return affine(options, state, y), after


def blended(options: Options, found: list[Pair], p: ndarray, q: ndarray, x: ndarray) -> ndarray:
    mean = sum(weight * part[0] for weight, part in zip(p, found, strict=True))
    var = sum(weight * part[1] for weight, part in zip(q, found, strict=True))
    return (x - mean) / np.sqrt(var + options.get("eps", 1e-5))


def softmax(z: ndarray) -> ndarray:
    return np.exp(z) / np.exp(z).sum()


def parts(options: Options, state: State, x: ndarray, training: bool) -> tuple[list[Pair], State]:
    """(mean, variance) of the instance, layer and batch part, as far as they are in use; and the state after."""
    with_in, official = options.get("using_in", True), options["variance"] == "official"
    axes = {"in": space(x), "ln": tuple(range(1, x.ndim)), "bn": (0, *space(x))}
    if official and with_in:
        if x[0, 0].size == 1:
            raise Undefined("unbiased variance of one position")
        found = of_second_moments(x)
    else:
        ddof = 1 if official else 0
        if ddof and x[0].size == 1:
            raise Undefined("unbiased variance of one value")
        found = {key: moments(x, over, ddof) for key, over in axes.items() if key != "in" or with_in}
    kept = [found[key] for key in ("in", "ln") if key in found]
    if not options.get("using_bn", True):
        return kept, state
    batch, after = batch_part(options, state, x, training, found["bn"])
    return [*kept, batch], after


def of_second_moments(x: ndarray) -> dict[str, Pair]:
    """As the authors: layer and batch variance from mean squares, in which the instance variance is unbiased."""
    mean, var = moments(x, space(x), 1)
    found = {"in": (mean, var)}
    for key, axis in (("ln", 1), ("bn", 0)):
        # mean(v + μ²) - (mean μ)² is mean v + variance of μ, which loses no digits far from zero
        found[key] = mean.mean(axis, keepdims=True), var.mean(axis, keepdims=True) + mean.var(axis, keepdims=True)
    return found


def batch_part(options: Options, state: State, x: ndarray, training: bool, batch: Pair) -> tuple[Pair, State]:
    values, mean, var = x.size // x.shape[1], *batch
    summed = not options.get("moving_average", True)
    if not uses_batch(options, training, values):
        if summed:
            count = max(1, int(state["num_batches_tracked"]))
            mean, second = state["running_mean"] / count, state["running_var"] / count
            return (grid(mean, x), grid(np.maximum(second - mean**2, 0), x)), state
        return (grid(running(options, state, "mean"), x), grid(running(options, state, "var"), x)), state
    if not training or "running_mean" not in state:
        return batch, state
    if summed:
        newest = {"running_mean": mean.ravel(), "running_var": (var + mean**2).ravel(), "num_batches_tracked": 1}
        return batch, state | {key: state[key] + value for key, value in newest.items()}
    if options["variance"] == "official" and not options.get("using_in", True):
        options = options | {"running_var": "biased"}  # which it is not: it is stored as it is
    return batch, track(options, state, values, mean, var)
