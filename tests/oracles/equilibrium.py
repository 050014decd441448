"""Channel Equilibrium (Shao et al. 2020), the block as in the authors' code, after batch norm."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from tests.oracles.common import Options, State, Undefined, activated, affine, batch_moments, grid, share, sigmoid

NUM_FEATURES = 8
EXAMPLES = [
    "equilibrium",
    "equilibrium(group_size=4)",
    "equilibrium(standardize=False, group_size=4)",
    "equilibrium(reduction=2, group_size=3, iterations=5, activation='relu')",
    "equilibrium(iterations=0, eps=0.1, momentum=None, affine=False)",
    "equilibrium(group_size=1, bias=False, track_running_stats=False)",
    "equilibrium(group_size=4, momentum=0.9, momentum_convention='keep', running_var='biased')",
    "equilibrium(running_init=(1.0, 0.5), debias=True, guard_nonfinite=True)",
    "equilibrium(standardize=False, debias=True)",
]


def forward(options: Options, state: State, x: ndarray, training: bool) -> tuple[ndarray, State]:
    if x[0, 0].size == 1:
        raise Undefined("unbiased variance of one position")
    mean, var, after = batch_moments(options, state, x, training)
    z = x
    if options["standardize"]:
        z = affine({**options, "activation": None}, state, (x - mean) / np.sqrt(var + options.get("eps", 1e-5)))
    r = z.reshape(*z.shape[:2], -1).var(2, ddof=1)
    eps = options.get("eps", 1e-5)
    p, s = whitener(options, z), np.sqrt(np.maximum(r.mean(keepdims=True).ravel(), eps))
    if not training and options.get("track_running_stats", True):
        p, s = state["running_wm"], np.maximum(scale(options, state), np.sqrt(eps))
    elif training and "running_wm" in state:
        a = share(options, int(after["num_batches_tracked"]))
        after |= {key: (1 - a) * state[key] + a * new for key, new in (("running_wm", p), ("running_scale", s))}
    whole = np.zeros((z.shape[1], z.shape[1]))  # all groups in one matrix
    for number, block in enumerate(p):
        here = slice(number * len(block), (number + 1) * len(block))
        whole[here, here] = block
    blend = sigmoid(state["blend"][0])
    y = blend * np.einsum("cd,nd...->nc...", whole, z) + (1 - blend) * grid(attention(state, r) / s, z) * z
    return activated(options, y), after


def whitener(options: Options, z: ndarray) -> ndarray:
    """P of each group, [groups, size, size]."""
    size = min(options["group_size"], z.shape[1])
    while z.shape[1] % size:
        size //= 2
    columns = np.moveaxis(z, 1, 0).reshape(-1, size, z.size // z.shape[1])
    found = []
    for group in columns:
        sigma = np.cov(group, bias=True).reshape(size, size) + options.get("eps", 1e-5) * np.eye(size)
        p, sigma = np.eye(size), sigma / np.trace(sigma)
        for _ in range(options["iterations"]):
            p = 1.5 * p - 0.5 * np.linalg.matrix_power(p, 3) @ sigma
        found.append(p)
    return np.array(found)


def attention(state: State, r: ndarray) -> ndarray:
    inner = r @ state["squeeze.weight"].T
    inner = (inner - inner.mean(1, keepdims=True)) / np.sqrt(inner.var(1, keepdims=True) + 1e-5)
    inner = inner * state["attention_weight"] + state["attention_bias"]
    return sigmoid(np.maximum(inner, 0) @ state["excite.weight"].T)


def scale(options: Options, state: State) -> ndarray:
    """The running scale; without the part that is its initial value 1, if `debias`."""
    value, count = state["running_scale"], int(state["num_batches_tracked"])
    if not options.get("debias", False) or options.get("momentum", 0.1) is None or count == 0:
        return value
    left = (1 - share(options, count)) ** count
    return (value - left) / (1 - left)
