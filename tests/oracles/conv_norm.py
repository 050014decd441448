"""ConvNorm (Liu et al. 2021): full convolution, V in the frequency domain, truncation, stride, r-kernel, BN."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from tests.oracles.convolution import conv2d, pair

EXAMPLES = [
    "conv_norm",
    "conv_norm(affine=False, bn=False, bias=False, stride=2)",
    "conv_norm(affine=False, bn=True, groups=2)",
    "conv_norm(bn=False, eps=0.1, stride=(1, 2))",
    "conv_norm(running_V=True)",
    "conv_norm(running_V=True, momentum=0.25, bn=False)",
]


def forward(
    options: dict[str, Any], state: dict[str, ndarray], x: ndarray, training: bool
) -> tuple[ndarray, dict[str, ndarray]]:
    state = {name: value.astype(np.float64) for name, value in state.items()}
    a, k = state["weight"], state["weight"].shape[2:]
    full = conv2d({"padding": (k[0] - 1, k[1] - 1), "groups": options["groups"]}, x, a, state.get("bias"))
    v = _v(a, full.shape[2:], options["eps"])
    if options["running_V"]:
        current, v = v, v if training else _whole(state["running_V"], full.shape[3])
        state |= _running(options, state, current, full.shape) if training else {}
    z = np.fft.ifft2(v * np.fft.fft2(full)).real
    y = _truncate(options, z, k)
    if options["affine"]:
        own = {"padding": ((k[0] - 1) // 2, (k[1] - 1) // 2), "groups": y.shape[1]}
        y = conv2d(own, y, state["affine_conv.weight"], state["affine_conv.bias"])
    return _batch_norm(state, y, training) if options["bn"] else (y, state)


def _v(a: ndarray, size: tuple[int, ...], eps: float) -> ndarray:
    """[Co, H', W'], from the Fourier sum itself."""
    spectrum = np.einsum("ha,oiab,wb->oihw", _waves(size[0], a.shape[2]), a, _waves(size[1], a.shape[3]))
    return ((np.abs(spectrum) ** 2).sum(1) + eps) ** -0.5


def _waves(frequencies: int, taps: int) -> ndarray:
    return np.exp(-2j * np.pi * np.outer(np.arange(frequencies), np.arange(taps)) / frequencies)


def _running(
    options: dict[str, Any], state: dict[str, ndarray], current: ndarray, shape: tuple[int, ...]
) -> dict[str, ndarray]:
    t = state["num_batches_tracked"] + 1
    ramp = max((1 + np.cos(np.pi * min(t, 40000) / 40000)) / 2, 0.01)
    newest = ramp if options["momentum"] is None else options["momentum"]
    pointwise = state["weight"].shape[2:] == (1, 1)
    stored = current[:, :1, :1] if pointwise else current[:, :, : shape[3] // 2 + 1]
    size = np.array([0, 0] if pointwise else shape[2:])
    running = newest * stored + (1 - newest) * state["running_V"]
    return {"running_V": running, "num_batches_tracked": t, "running_size": size}


def _whole(half: ndarray, width: int) -> ndarray:
    """All frequencies from the non-negative ones: V(-f) = V(f)."""
    if half.ndim == 1 or half.shape[2] == 1:
        return half
    rows = -np.arange(half.shape[1])
    columns = np.arange(width // 2 + 1, width)
    return np.concatenate([half, half[:, rows][:, :, width - columns]], axis=2)


def _truncate(options: dict[str, Any], z: ndarray, k: tuple[int, ...]) -> ndarray:
    padding, stride = pair(options["padding"]), pair(options["stride"])
    for axis in (0, 1):
        t = k[axis] - 1 - padding[axis]
        z = np.take(z, range(t, z.shape[2 + axis] - t, stride[axis]), axis=2 + axis)
    return z


def _batch_norm(state: dict[str, ndarray], y: ndarray, training: bool) -> tuple[ndarray, dict[str, ndarray]]:
    name, m = "batch_norm.", y.size // y.shape[1]
    mean, var = state[f"{name}running_mean"], state[f"{name}running_var"]
    if training:
        batch_mean, batch_var = y.mean((0, 2, 3)), y.var((0, 2, 3))
        state |= {
            f"{name}running_mean": 0.9 * mean + 0.1 * batch_mean,
            f"{name}running_var": 0.9 * var + 0.1 * batch_var * m / (m - 1),
            f"{name}num_batches_tracked": state[f"{name}num_batches_tracked"] + 1,
        }
        mean, var = batch_mean, batch_var
    y = (y - mean.reshape(-1, 1, 1)) / np.sqrt(var + 1e-5).reshape(-1, 1, 1)
    weight, bias = state.get(f"{name}weight", np.ones(1)), state.get(f"{name}bias", np.zeros(1))
    return y * weight.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1), state
