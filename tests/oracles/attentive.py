"""Attentive Normalization (Li, Sun and Wu 2020): affine maps mixed by an attention on each example's moments."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, Undefined, activated, batch_moments, grid, sigmoid, space, track

EXAMPLES = [
    "attentive",
    "attentive(mode=0)",
    "attentive(mode=1, num_affine=3, activation='relu')",
    "attentive(mode=2, attend='mean', eps=0.1, momentum=None)",
    "attentive(mode=3, num_affine=4)",
    "attentive(mode=4, track_running_stats=False)",
    "attentive(mode=5, momentum=0.9, momentum_convention='keep', running_var='biased')",
    "attentive(mode=6, running_init=(1.0, 0.5), debias=True)",
    "attentive(mode=0, attend='mean', batch1='running', guard_nonfinite=True)",
    "attentive(backbone='group', num_groups=2, mode=0)",
    "attentive(backbone='group', num_groups=3, mode=2, attention_norm='group')",
    "attentive(backbone='group', num_groups=3, mode=3, attention_norm='group', attention_groups=2)",
    "attentive(mode=6, attention_norm='group', num_affine=3, attend='mean')",
    "attentive(mode=5, num_affine=4, attention_norm='group', attention_groups=2)",
]
LINEAR = {0: 1, 1: 2, 2: 1, 3: 2, 4: 1, 5: 1, 6: 1}  # how many linear maps
NORM = (2, 3, 5, 6)  # each with a norm after it


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    weights, after = attention(options, state, x, training)
    if options["backbone"] == "batch":
        mean, var, other = batch_moments(options, state, x, training)
        changed = ("running_mean", "running_var", "num_batches_tracked")
        after |= {key: other[key] for key in changed if key in other}
        xhat = (x - mean) / np.sqrt(var + options.get("eps", 1e-5))
    else:
        xhat = in_groups(x, options["num_groups"], options.get("eps", 1e-5))
    return activated(options, grid(weights @ state["weights"], x) * xhat + grid(weights @ state["biases"], x)), after


def attention(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    """The weights of the affine maps, [N, K]."""
    mode, after, step = options["mode"], dict(state), 0
    a = x.reshape(*x.shape[:2], -1).mean(2)
    if options["attend"] == "rsd":
        if x[0, 0].size == 1:
            raise Undefined("unbiased variance of one position")
        a = a / np.sqrt(x.var(space(x), ddof=1) + 1e-3)
    for number in range(LINEAR[mode]):
        if number:
            a, step = np.maximum(a, 0), step + 1
        a, step = a @ state[f"attention.{step}.weight"].T + state.get(f"attention.{step}.bias", 0), step + 1
        if mode in NORM:
            own = {key.split(".")[2]: value for key, value in after.items() if key.startswith(f"attention.{step}.")}
            a, own = inner_norm(options, own, a, training)
            after |= {f"attention.{step}.{key}": value for key, value in own.items()}
            step += 1
    return end(mode, a), after


def inner_norm(options: Options, own: State, a: ndarray, training: bool) -> tuple[ndarray, State]:
    if options["attention_norm"] == "group":
        a = in_groups(a, options["attention_groups"], 1e-5)
    else:
        mean, var = own["running_mean"], own["running_var"]
        if training:
            if len(a) == 1:
                raise Undefined("variance of one value")
            mean, var = a.mean(0), a.var(0)
            own = track({}, own, len(a), mean, var)
        a = (a - mean) / np.sqrt(var + 1e-5)
    return a * own["weight"] + own["bias"], own


def in_groups(x: ndarray, groups: int, eps: float) -> ndarray:
    values = x.reshape(len(x), groups, -1)
    if values.shape[2] == 1:
        raise Undefined("variance of one value")
    return ((values - values.mean(2, keepdims=True)) / np.sqrt(values.var(2, keepdims=True) + eps)).reshape(x.shape)


def end(mode: int, a: ndarray) -> ndarray:
    if mode == 6:
        return np.exp(a) / np.exp(a).sum(1, keepdims=True)
    return sigmoid(a) if mode in (0, 1, 5) else np.clip(a + 3, 0, 6) / 6
