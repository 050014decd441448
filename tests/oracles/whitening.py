"""Stochastic Whitening BatchNorm (Zhang et al. 2021)."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, affine, batch_moments, uses_batch

CONSTANTS_OF_X = True
EXAMPLES = [
    "whitening",
    "whitening(alpha=0.01)",
    "whitening(criterion='fro', alpha=0.05, activation='relu')",
    "whitening(criterion='fro', eps=0.1, momentum=None)",
    "whitening(alpha=0.01, affine=False)",
    "whitening(alpha=0.01, bias=False, track_running_stats=False)",
    "whitening(alpha=0.01, momentum=0.95, momentum_convention='keep', running_var='biased')",
    "whitening(running_init=(1.0, 0.5), debias=True, guard_nonfinite=True)",
    "whitening(alpha=0.01, batch1='running')",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    mean, var, after = batch_moments(options, state, x, training)
    xhat = (x - mean) / np.sqrt(var + options["eps"])
    columns = np.moveaxis(xhat, 1, 0).reshape(x.shape[1], -1)
    if training and uses_batch(options, training, columns.shape[1]):
        after = {**after, "whitening": stepped(options, state["whitening"], columns @ columns.T / columns.shape[1])}
    y = np.einsum("cd,nd...->nc...", after["whitening"], xhat)
    return affine(options, state, y), after


def stepped(options: Options, w: ndarray, s: ndarray) -> ndarray:
    gap = w @ s @ w.T - np.eye(len(w))
    step = gap @ w
    if options["criterion"] == "fro":
        step = step @ s / np.linalg.norm(gap)
    w = w - options["alpha"] * step
    return (w + w.T) / 2
