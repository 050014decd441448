"""EvoNorm's two formulas over rows [N·C, L] (contiguous) and columns [N, L, C] (channels_last), for numba to compile.

    swish  y = a·x·σ(v·x) + b
    ratio  y = a·x / max(v·x + rise, low) + b

The vectors a, v, b (and low, rise) come stacked, [k, N·C] or [k, N, C]. A forward loop writes y. A backward loop writes
e, the part of ∂L/∂x that does not go through the vectors, and the vectors' gradients, sums over *S, stacked likewise.
`fastmath` is that of the loops of `normalize`.
"""

# numba compares the arguments of an overload with those of what it stands for, annotations included.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false, reportUnknownLambdaType=false

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

Array = Any  # numpy's, of float32 or float64; numba reads no annotations

_FAST = {"reassoc", "contract", "nsz", "arcp"}
_OPTIONS: dict[str, Any] = {"parallel": True, "nogil": True, "cache": True, "fastmath": _FAST}


@njit(fastmath=_FAST)
def _exp32(z):
    """e^z as 2^k times a polynomial (Cephes): a call of the C library would keep the loops from using vectors."""
    f = np.float32
    near = min(max(z, f(-87)), f(88))
    biased = np.int32(near * f(1.44269504) + f(127.5))
    k = f(biased - 127)
    r = near - k * f(0.693359375) + k * f(2.12194440e-4)
    p = f(1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + f(c)
    power = np.int32(biased << 23).view(f)
    return z if math.isnan(z) else (p * r * r + r + f(1)) * power


def _exp(z):
    """e^z; what is compiled has the overload."""
    raise NotImplementedError


@overload(_exp)
def _overload_exp(z):  # pyright: ignore[reportUnusedFunction]
    if z == types.float32:
        return lambda z: _exp32(z)  # noqa: PLW0108
    return lambda z: math.exp(z)  # noqa: PLW0108


@njit(**_OPTIONS)
def swish_rows(x: Array, vectors: Array, y: Array) -> None:
    """Forward, rows."""
    one = x.dtype.type(1)
    for r in prange(x.shape[0]):
        a, v, b = vectors[0, r], vectors[1, r], vectors[2, r]
        for i in range(x.shape[1]):
            t = x[r, i]
            y[r, i] = a * t / (one + _exp(-v * t)) + b


@njit(**_OPTIONS)
def swish_columns(x: Array, vectors: Array, y: Array) -> None:
    """Forward, columns."""
    one = x.dtype.type(1)
    for n in prange(x.shape[0]):
        a, v, b = vectors[0, n], vectors[1, n], vectors[2, n]
        for i in range(x.shape[1]):
            for c in range(x.shape[2]):
                t = x[n, i, c]
                y[n, i, c] = a[c] * t / (one + _exp(-v[c] * t)) + b[c]


@njit(**_OPTIONS)
def swish_back_rows(g: Array, x: Array, vectors: Array, e: Array, sums: Array) -> None:
    """Backward, rows."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for r in prange(x.shape[0]):
        a, v = vectors[0, r], vectors[1, r]
        sum_a, sum_v, sum_b = zero, zero, zero
        for i in range(x.shape[1]):
            t = x[r, i]
            s = one / (one + _exp(-v * t))
            gs = g[r, i] * s
            bend = a * gs * t * (one - s)  # ∂L/∂(v·x)
            sum_a += gs * t
            sum_v += bend * t
            sum_b += g[r, i]
            e[r, i] = a * gs + v * bend
        sums[0, r] = sum_a
        sums[1, r] = sum_v
        sums[2, r] = sum_b


@njit(**_OPTIONS)
def swish_back_columns(g: Array, x: Array, vectors: Array, e: Array, sums: Array, blocks: int) -> None:
    """Backward, columns."""
    one = x.dtype.type(1)
    width = -(-x.shape[2] // blocks)
    for job in prange(x.shape[0] * blocks):
        n, first = job // blocks, (job % blocks) * width
        here = slice(first, first + width)
        a, v = vectors[0, n, here], vectors[1, n, here]
        sums[:, n, here] = 0
        sum_a, sum_v, sum_b = sums[0, n, here], sums[1, n, here], sums[2, n, here]
        for i in range(x.shape[1]):
            xs, gs, es = x[n, i, here], g[n, i, here], e[n, i, here]
            for c in range(a.shape[0]):
                t = xs[c]
                s = one / (one + _exp(-v[c] * t))
                h = gs[c] * s
                bend = a[c] * h * t * (one - s)
                sum_a[c] += h * t
                sum_v[c] += bend * t
                sum_b[c] += gs[c]
                es[c] = a[c] * h + v[c] * bend


@njit(fastmath=_FAST)
def _held(z: float, low: float) -> bool:
    """Is the maximum of z and low low? Also where that is NaN, so that it shows."""
    return z < low or math.isnan(low)


@njit(**_OPTIONS)
def ratio_rows(x: Array, vectors: Array, y: Array) -> None:
    """Forward, rows."""
    for r in prange(x.shape[0]):
        a, v, b, w, h = vectors[0, r], vectors[1, r], vectors[2, r], vectors[3, r], vectors[4, r]
        for i in range(x.shape[1]):
            t = x[r, i]
            z = v * t + h
            y[r, i] = a * t / (w if _held(z, w) else z) + b


@njit(**_OPTIONS)
def ratio_columns(x: Array, vectors: Array, y: Array) -> None:
    """Forward, columns."""
    for n in prange(x.shape[0]):
        a, v, b, w, h = vectors[0, n], vectors[1, n], vectors[2, n], vectors[3, n], vectors[4, n]
        for i in range(x.shape[1]):
            for c in range(x.shape[2]):
                t = x[n, i, c]
                z = v[c] * t + h[c]
                y[n, i, c] = a[c] * t / (w[c] if _held(z, w[c]) else z) + b[c]


@njit(**_OPTIONS)
def ratio_back_rows(g: Array, x: Array, vectors: Array, e: Array, sums: Array) -> None:
    """Backward, rows."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for r in prange(x.shape[0]):
        a, v, w, h = vectors[0, r], vectors[1, r], vectors[3, r], vectors[4, r]
        sum_a, sum_v, sum_b, sum_low, sum_rise = zero, zero, zero, zero, zero
        for i in range(x.shape[1]):
            t = x[r, i]
            z = v * t + h
            held = _held(z, w)
            inverse = one / (w if held else z)
            gd = g[r, i] * inverse
            bend = -a * gd * t * inverse  # ∂L/∂ of the maximum
            passed = zero if held else bend
            sum_a += gd * t
            sum_v += passed * t
            sum_b += g[r, i]
            sum_low += bend - passed
            sum_rise += passed
            e[r, i] = a * gd + v * passed
        sums[0, r] = sum_a
        sums[1, r] = sum_v
        sums[2, r] = sum_b
        sums[3, r] = sum_low
        sums[4, r] = sum_rise


@njit(**_OPTIONS)
def ratio_back_columns(g: Array, x: Array, vectors: Array, e: Array, sums: Array, blocks: int) -> None:
    """Backward, columns."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    width = -(-x.shape[2] // blocks)
    for job in prange(x.shape[0] * blocks):
        n, first = job // blocks, (job % blocks) * width
        here = slice(first, first + width)
        a, v = vectors[0, n, here], vectors[1, n, here]
        w, h = vectors[3, n, here], vectors[4, n, here]
        sums[:, n, here] = 0
        sum_a, sum_v, sum_b = sums[0, n, here], sums[1, n, here], sums[2, n, here]
        sum_low, sum_rise = sums[3, n, here], sums[4, n, here]
        for i in range(x.shape[1]):
            xs, gs, es = x[n, i, here], g[n, i, here], e[n, i, here]
            for c in range(a.shape[0]):
                t = xs[c]
                z = v[c] * t + h[c]
                held = _held(z, w[c])
                inverse = one / (w[c] if held else z)
                gd = gs[c] * inverse
                bend = -a[c] * gd * t * inverse
                passed = zero if held else bend
                sum_a[c] += gd * t
                sum_v[c] += passed * t
                sum_b[c] += gs[c]
                sum_low[c] += bend - passed
                sum_rise[c] += passed
                es[c] = a[c] * gd + v[c] * passed
