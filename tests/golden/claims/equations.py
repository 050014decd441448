"""Equations 5 to 16 of Davis and Frank: NumPy against the stored numbers, and BatchNorm's gradients against them."""

from __future__ import annotations

import numpy as np

from normlab.layers.batch import BatchNorm
from tests.golden.comparison import Comparison


def gradient(compare: Comparison) -> None:
    """Equations (5) to (12), step by step."""
    case = compare.case
    a, eps = case.arrays, case.meta["eps"]
    axes = (0, *range(2, a["x"].ndim))
    wide = (1, -1, *[1] * (a["x"].ndim - 2))
    m = a["x"].size // a["x"].shape[1]
    mu = a["x"].mean(axes)
    centred = a["x"] - mu.reshape(wide)
    var = (centred**2).mean(axes)
    root = np.sqrt(var + eps).reshape(wide)
    xhat = centred / root
    d_xhat = a["gamma"].reshape(wide) * a["dy"]  # (7)
    d_var = -0.5 * (var + eps) ** -1.5 * (d_xhat * centred).sum(axes)  # (8)
    d_mu = -(d_xhat / root).sum(axes) + d_var * (-2 / m) * centred.sum(axes)  # (9)
    dx = d_xhat / root + d_var.reshape(wide) * 2 * centred / m + d_mu.reshape(wide) / m  # (5), (6)
    d_gamma, d_beta = (a["dy"] * xhat).sum(axes), a["dy"].sum(axes)  # (10)
    factor = a["gamma"] / np.sqrt(var + eps)
    f = a["dy"] - a["dy"].mean(axes).reshape(wide) - xhat * (a["dy"] * xhat).mean(axes).reshape(wide)
    found = {
        "mu": mu, "var": var, "xhat": xhat, "d_xhat": d_xhat, "d_var": d_var, "d_mu": d_mu, "dx_eq11": dx,
        "d_gamma": d_gamma, "d_beta": d_beta, "gradient_factor": factor, "dx_eq12": factor.reshape(wide) * f,
    }  # fmt: skip
    for key, value in found.items():
        if key in a:
            compare.close(key, value)
    _by_the_layer(compare, eps)


def _by_the_layer(compare: Comparison, eps: float) -> None:
    case = compare.case
    layer = BatchNorm(case.channels, eps=eps, dtype=case.dtype)
    layer.load_state_dict({"weight": case.tensor("gamma"), "bias": case.tensor("beta")}, strict=False)
    x = case.tensor("x").requires_grad_()
    layer(x).backward(case.tensor("dy"))
    compare.used("x", "dy", "gamma", "beta")
    for key in ("dx_autograd", "dx_eq11", "dx_eq12"):
        compare.close(key, x.grad)
    assert layer.weight is not None
    assert layer.bias is not None
    compare.close("d_gamma", layer.weight.grad)
    compare.close("d_beta", layer.bias.grad)


def factor(compare: Comparison) -> None:
    """Equations (14) to (16): the gradient factor of each layer of a new net, for each initial scale."""
    case = compare.case
    weights = sorted((key for key in case.arrays if key.startswith("W")), key=lambda key: int(key[1:]))
    compare.used("x", "gamma0", "sigma", "factor", *weights)
    for row, gamma0 in enumerate(case.arrays["gamma0"].tolist()):
        z = case.tensor("x")
        for depth, key in enumerate(weights):
            x = z @ case.tensor(key).T
            layer = BatchNorm(x.shape[1], eps=1e-30, dtype=case.dtype, scale=gamma0)  # torch refuses 0
            sigma = x.std(0, correction=0)
            compare.against(f"sigma[{row}, {depth}]", sigma, case.arrays["sigma"][row, depth])
            compare.against(f"factor[{row}, {depth}]", gamma0 / sigma, case.arrays["factor"][row, depth])
            z = layer(x).relu().detach()


CHECKS = {("dx_eq12", "gamma"): gradient, ("factor", "gamma0"): factor}
"""By arrays that the case has, since a formula without a layer tells no kind."""
