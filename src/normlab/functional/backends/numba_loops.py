"""The four loops over rows [N·C, L] (contiguous) and over columns [N, L, C] (channels_last), for numba to compile.

Those over columns are a serial loop over one example and a parallel one that calls it: numba takes a third less time to
compile the two than one loop that is both. Over rows there is little to win, and short rows feel the call.

`fastmath` may reorder sums, so that they use the machine's vectors, but knows of NaN and infinity. Moments are taken in
two passes over a stretch that stays in cache, and stretches are joined by Chan's rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

Array = Any  # numpy's, of float32 or float64; numba reads no annotations

_SERIAL: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
_PARALLEL: dict[str, Any] = {**_SERIAL, "parallel": True, "cache": True, "no_cpython_wrapper": False}
_STRETCH = 1 << 14  # values


@njit(**_PARALLEL)
def moments_rows(x: Array, mean: Array, var: Array) -> None:
    """Mean and biased variance of each row."""
    kind = x.dtype.type
    for r in prange(x.shape[0]):
        done, center, spread = 0, kind(0), kind(0)
        while done < x.shape[1]:
            piece = x[r, done : done + _STRETCH]
            size = kind(piece.shape[0])
            total = kind(0)
            for i in range(piece.shape[0]):
                total += piece[i]
            guess = total / size
            off, square = kind(0), kind(0)
            for i in range(piece.shape[0]):
                d = piece[i] - guess
                off += d
                square += d * d
            share = size / kind(done + piece.shape[0])
            step = guess + off / size - center
            spread += square - off * off / size + step * step * kind(done) * share
            center += step * share
            done += piece.shape[0]
        mean[r] = center
        var[r] = spread / kind(x.shape[1])


@njit(**_SERIAL)
def _moments_columns(x: Array, center: Array, spread: Array) -> None:
    kind = x.dtype.type
    length, channels = x.shape
    rows = max(1, 2 * _STRETCH // channels)
    for done in range(0, length, rows):
        last = min(length, done + rows)
        size = kind(last - done)
        share = size / kind(last)
        work = np.zeros((3, channels), x.dtype)
        guess, off, square = work[0], work[1], work[2]
        for i in range(done, last):
            for c in range(channels):
                guess[c] += x[i, c] / size
        for i in range(done, last):
            for c in range(channels):
                d = x[i, c] - guess[c]
                off[c] += d
                square[c] += d * d
        for c in range(channels):
            slip = off[c] / size
            step = guess[c] + slip - center[c]
            spread[c] += share * (square[c] / size - slip * slip - spread[c] + step * step * (1 - share))
            center[c] += step * share


@njit(**_PARALLEL)
def moments_columns(x: Array, mean: Array, var: Array) -> None:
    """Mean and biased variance of each column, into arrays of zeros."""
    for n in prange(x.shape[0]):
        _moments_columns(x[n], mean[n], var[n])


@njit(**_PARALLEL)
def scale_shift_rows(x: Array, scale: Array, shift: Array, floor: Array, other: Array | None, y: Array) -> None:
    """max(scale·x + shift + other, floor)."""
    for r in prange(x.shape[0]):
        a, b, low = scale[r], shift[r], floor[r]
        for i in range(x.shape[1]):
            z = a * x[r, i] + b
            if other is not None:  # compiled anew for None: there is no test in the loop
                z += other[r, i]
            y[r, i] = low if z <= low else z


@njit(**_SERIAL)
def _scale_shift_columns(x: Array, a: Array, b: Array, low: Array, other: Array | None, n: int, y: Array) -> None:
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            z = a[c] * x[i, c] + b[c]
            if other is not None:
                z += other[n, i, c]
            y[i, c] = low[c] if z <= low[c] else z


@njit(**_PARALLEL)
def scale_shift_columns(x: Array, scale: Array, shift: Array, floor: Array, other: Array | None, y: Array) -> None:
    """max(scale·x + shift + other, floor)."""
    for n in prange(x.shape[0]):
        _scale_shift_columns(x[n], scale[n], shift[n], floor[n], other, n, y[n])


@njit(**_PARALLEL)
def grad_sums_rows(g: Array, x: Array, center: Array, scale: Array, shift: Array, floor: Array, sums: Array) -> None:
    """Σ g′, Σ g′·(x - center), Σ (g - g′)."""
    kind = x.dtype.type
    for r in prange(x.shape[0]):
        m, a, b, low = center[r], scale[r], shift[r], floor[r]
        passed, product, rest = kind(0), kind(0), kind(0)
        for i in range(x.shape[1]):
            shut = a * x[r, i] + b <= low
            h = kind(0) if shut else g[r, i]
            passed += h
            product += h * (x[r, i] - m)
            rest += g[r, i] - h
        sums[0, r] = passed
        sums[1, r] = product
        sums[2, r] = rest


@njit(**_SERIAL)
def _grad_sums_columns(
    g: Array, x: Array, m: Array, a: Array, b: Array, low: Array, passed: Array, product: Array, rest: Array
) -> None:
    kind = x.dtype.type
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            shut = a[c] * x[i, c] + b[c] <= low[c]
            h = kind(0) if shut else g[i, c]
            passed[c] += h
            product[c] += h * (x[i, c] - m[c])
            rest[c] += g[i, c] - h


@njit(**_PARALLEL)
def grad_sums_columns(g: Array, x: Array, center: Array, scale: Array, shift: Array, floor: Array, sums: Array) -> None:
    """Σ g′, Σ g′·(x - center), Σ (g - g′), into arrays of zeros."""
    for n in prange(x.shape[0]):
        m, a, b, low = center[n], scale[n], shift[n], floor[n]
        _grad_sums_columns(g[n], x[n], m, a, b, low, sums[0, n], sums[1, n], sums[2, n])


@njit(**_PARALLEL)
def grad_input_rows(
    g: Array, x: Array, scale: Array, slope: Array, center: Array, offset: Array, shift: Array, floor: Array, dx: Array
) -> None:
    """scale·g′ + slope·(x - center) + offset."""
    kind = x.dtype.type
    for r in prange(x.shape[0]):
        a, k, m, o, b, low = scale[r], slope[r], center[r], offset[r], shift[r], floor[r]
        for i in range(x.shape[1]):
            h = kind(0) if a * x[r, i] + b <= low else g[r, i]
            dx[r, i] = a * h + k * (x[r, i] - m) + o


@njit(**_SERIAL)
def _grad_input_columns(
    g: Array, x: Array, a: Array, k: Array, m: Array, o: Array, b: Array, low: Array, dx: Array
) -> None:
    kind = x.dtype.type
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            h = kind(0) if a[c] * x[i, c] + b[c] <= low[c] else g[i, c]
            dx[i, c] = a[c] * h + k[c] * (x[i, c] - m[c]) + o[c]


@njit(**_PARALLEL)
def grad_input_columns(
    g: Array, x: Array, scale: Array, slope: Array, center: Array, offset: Array, shift: Array, floor: Array, dx: Array
) -> None:
    """scale·g′ + slope·(x - center) + offset."""
    for n in prange(x.shape[0]):
        _grad_input_columns(g[n], x[n], scale[n], slope[n], center[n], offset[n], shift[n], floor[n], dx[n])
