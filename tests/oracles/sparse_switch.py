"""Sparse Switchable Norm (Shao et al. 2019): Switchable Norm with SparsestMax weights, which freeze at a vertex."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, affine
from tests.oracles.switch import blended, parts

STATE = {
    "sparse_switch(eps=0.1)": {"radius": 0.3},
    "sparse_switch(centre='simplex')": {"radius": 0.55},
    "sparse_switch(bias=False)": {"radius": 0.55},
    "sparse_switch(affine=False)": {"radius": 0.9},
    "sparse_switch(activation='relu')": {"mean_fixed": 1.0},
    "sparse_switch(variance='official')": {"radius": 0.2},
}
EXAMPLES = [
    "sparse_switch",
    *STATE,
    "sparse_switch(momentum=0.997, momentum_convention='keep', running_var='biased', running_init=(0.0, 0.0))",
    "sparse_switch(track_running_stats=False)",
    "sparse_switch(momentum=None, batch1='running')",
    "sparse_switch(running_init=(1.0, 0.5), debias=True, guard_nonfinite=True)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    found, after = parts(options, state, x, training)
    after, weights = dict(after), []
    for name in ("mean", "var"):
        logits = state[f"{name}_logits"]
        frozen = state[f"{name}_fixed"] > 0
        p = (
            vertex(int(np.argmax(logits)), len(logits))
            if frozen
            else sparsestmax(logits, state["radius"].item(), options)
        )
        weights.append(p)
        if training and p.max() - p.min() > 1 - 1e-12:
            after |= {f"{name}_fixed": np.ones(1), f"{name}_logits": p}
    return affine(options, state, blended(options, found, *weights, x)), after


def vertex(index: int, size: int) -> ndarray:
    return np.eye(size)[index]


def sparsemax(z: ndarray) -> ndarray:
    """The nearest point of the simplex: some of the largest entries, all lowered by the same amount."""
    best = None
    for size in range(1, len(z) + 1):
        kept = np.argsort(-z)[:size]
        p = np.zeros(len(z))
        p[kept] = z[kept] - (z[kept].sum() - 1) / size
        if (p >= 0).all() and (best is None or ((p - z) ** 2).sum() < ((best - z) ** 2).sum()):
            best = p
    assert best is not None
    return best


def sparsestmax(z: ndarray, radius: float, options: Options) -> ndarray:
    """The authors' recursion, from the outside in: onto the simplex, onto the circle, and again on a side."""
    before = np.full(len(z), 1 / len(z))
    for level in range(len(z)):
        p = sparsemax(z)
        support = p > 1e-12
        centre = support / support.sum()
        if level > 0 or options["centre"] == "simplex":
            radius = np.sqrt(max(radius**2 - ((centre - before) ** 2).sum(), 0.0))
        distance = np.sqrt(((p - centre) ** 2).sum())
        if support.sum() == 1:
            return support.astype(float)
        if distance >= radius:
            return p
        z = centre + radius * (p - centre) / distance
        if (z >= 0).all():
            return z
        before = centre
    raise AssertionError("the last level has one entry")
