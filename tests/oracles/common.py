"""What the oracles share: sums over axes, broadcasting, and torch's running average.

A module `tests/oracles/<name>.py` has `EXAMPLES`, spec strings of which the first is the default, and `forward`. It may
have `NUM_FEATURES` (6 otherwise), `RANKS`, where the layer takes inputs of these ranks alone, `STATE`, values of
buffers by spec, and `CONSTANTS_OF_X = True`, where the backward pass takes for constant what depends on x. Where the
paper's formula has no value, or the layer should refuse the input, `forward` raises `Undefined`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

Options = dict[str, Any]
State = dict[str, ndarray]


class Undefined(Exception):
    """The formula has no value for this input; the layer should raise SpecError."""


def grid(v: ndarray, x: ndarray) -> ndarray:
    """[C] or [N, C] → what broadcasts to x [N, C, *S]."""
    v = np.asarray(v)
    v = v[None] if v.ndim == 1 else v
    return v.reshape(*v.shape, *[1] * (x.ndim - 2))


def space(x: ndarray) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def moments(x: ndarray, axes: tuple[int, ...], ddof: int = 0) -> tuple[ndarray, ndarray]:
    """Mean and variance over the axes, which are kept."""
    if not axes:
        return x, np.zeros_like(x)
    return x.mean(axes, keepdims=True), x.var(axes, keepdims=True, ddof=ddof)


def affine(options: Options, state: State, xhat: ndarray) -> ndarray:
    """weight·x̂ + bias, as far as there are any; then the activation."""
    if "weight" in state:
        xhat = xhat * grid(state["weight"], xhat)
    if "bias" in state:
        xhat = xhat + grid(state["bias"], xhat)
    return activated(options, xhat)


def activated(options: Options, y: ndarray) -> ndarray:
    return np.maximum(y, 0) if options.get("activation") == "relu" else y


def sigmoid(t: ndarray) -> ndarray:
    return (1 + np.tanh(t / 2)) / 2  # which does not overflow


def share(options: Options, count: int) -> float:
    """Weight of the newest batch, which is the `count`-th."""
    momentum = options.get("momentum", 0.1)
    if momentum is None:
        return 1 / count
    return momentum if options.get("momentum_convention", "torch") == "torch" else 1 - momentum


def track(
    options: Options, state: State, values: int, mean: ndarray | None = None, var: ndarray | None = None
) -> State:
    """The state after a batch with this mean and biased variance [C] of `values` values."""
    after = {key: np.array(value) for key, value in state.items()}
    if "num_batches_tracked" not in state:
        return after
    after["num_batches_tracked"] = state["num_batches_tracked"] + 1
    a = share(options, int(after["num_batches_tracked"]))
    if mean is not None:
        after["running_mean"] = (1 - a) * state["running_mean"] + a * mean.ravel()
    if var is not None:
        bessel = values / (values - 1) if options.get("running_var", "unbiased") == "unbiased" else 1.0
        after["running_var"] = (1 - a) * state["running_var"] + a * var.ravel() * bessel
    return after


def uses_batch(options: Options, training: bool, values: int = 2) -> bool:
    """Are the statistics those of the batch, of `values` values per channel?"""
    if not training and options.get("track_running_stats", True):
        return False
    if values == 1 and options.get("batch1", "error") == "error":
        raise Undefined("variance of one value")
    return values > 1


def running(options: Options, state: State, name: str) -> ndarray:
    """Running "mean" or "var" [C]; without the part that is its initial value, if `debias`."""
    value, count = state[f"running_{name}"], int(state["num_batches_tracked"])
    if not options.get("debias", False) or options.get("momentum", 0.1) is None or count == 0:
        return value
    first = dict(zip(("mean", "var"), options.get("running_init", (0.0, 1.0)), strict=True))[name]
    left = (1 - share(options, count)) ** count
    return (value - left * first) / (1 - left)


def batch_moments(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, ndarray, State]:
    """Mean and variance to normalize by, broadcasting to x, and the state after."""
    values = x.size // x.shape[1]
    if not uses_batch(options, training, values):
        mean, var = (grid(running(options, state, name), x) for name in ("mean", "var"))
        return mean, var, {k: np.array(v) for k, v in state.items()}
    mean, var = moments(x, (0, *space(x)))
    return mean, var, track(options, state, values, mean, var) if training else state
