"""The four loops over rows [N·C, L] (contiguous) and over columns [N, L, C] (channels_last), for numba to compile.

`fastmath` may reorder sums, so that they use the machine's vectors, but knows of NaN and infinity. Moments are taken in
two passes over a stretch that stays in cache, and stretches are joined by Chan's rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

Array = Any  # numpy's, of float32 or float64; numba reads no annotations

_OPTIONS: dict[str, Any] = {
    "parallel": True,
    "nogil": True,
    "cache": True,
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}
_STRETCH = 1 << 14  # values


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
def moments_columns(x: Array, mean: Array, var: Array) -> None:
    """Mean and biased variance of each column."""
    kind = x.dtype.type
    n_examples, length, channels = x.shape
    rows = max(1, 2 * _STRETCH // channels)
    for n in prange(n_examples):
        work = np.empty((3, channels), x.dtype)
        guess, off, square, center, spread = work[0], work[1], work[2], mean[n], var[n]
        for c in range(channels):
            center[c] = spread[c] = 0
        for done in range(0, length, rows):
            last = min(length, done + rows)
            size = kind(last - done)
            for c in range(channels):
                guess[c] = off[c] = square[c] = 0
            for i in range(done, last):
                for c in range(channels):
                    guess[c] += x[n, i, c]
            for c in range(channels):
                guess[c] /= size
            for i in range(done, last):
                for c in range(channels):
                    d = x[n, i, c] - guess[c]
                    off[c] += d
                    square[c] += d * d
            share = size / kind(last)
            for c in range(channels):
                step = guess[c] + off[c] / size - center[c]
                spread[c] += square[c] - off[c] * off[c] / size + step * step * kind(done) * share
                center[c] += step * share
        for c in range(channels):
            spread[c] /= kind(length)


@njit(**_OPTIONS)
def scale_shift_rows(
    x: Array, scale: Array, shift: Array, floor: Array, other: Array, has_other: bool, y: Array
) -> None:
    """max(scale·x + shift + other, floor)."""
    for r in prange(x.shape[0]):
        a, b, low = scale[r], shift[r], floor[r]
        if has_other:
            for i in range(x.shape[1]):
                z = a * x[r, i] + b + other[r, i]
                y[r, i] = low if z <= low else z
        else:
            for i in range(x.shape[1]):
                z = a * x[r, i] + b
                y[r, i] = low if z <= low else z


@njit(**_OPTIONS)
def scale_shift_columns(
    x: Array, scale: Array, shift: Array, floor: Array, other: Array, has_other: bool, y: Array
) -> None:
    """max(scale·x + shift + other, floor)."""
    for n in prange(x.shape[0]):
        a, b, low = scale[n], shift[n], floor[n]
        for i in range(x.shape[1]):
            if has_other:
                for c in range(x.shape[2]):
                    z = a[c] * x[n, i, c] + b[c] + other[n, i, c]
                    y[n, i, c] = low[c] if z <= low[c] else z
            else:
                for c in range(x.shape[2]):
                    z = a[c] * x[n, i, c] + b[c]
                    y[n, i, c] = low[c] if z <= low[c] else z


@njit(**_OPTIONS)
def grad_sums_rows(
    g: Array,
    x: Array,
    center: Array,
    scale: Array,
    shift: Array,
    floor: Array,
    total: Array,
    about: Array,
    stopped: Array,
) -> None:
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
        total[r] = passed
        about[r] = product
        stopped[r] = rest


@njit(**_OPTIONS)
def grad_sums_columns(
    g: Array,
    x: Array,
    center: Array,
    scale: Array,
    shift: Array,
    floor: Array,
    total: Array,
    about: Array,
    stopped: Array,
) -> None:
    """Σ g′, Σ g′·(x - center), Σ (g - g′)."""
    kind = x.dtype.type
    channels = x.shape[2]
    for n in prange(x.shape[0]):
        m, a, b, low = center[n], scale[n], shift[n], floor[n]
        passed, product, rest = total[n], about[n], stopped[n]
        for c in range(channels):
            passed[c] = product[c] = rest[c] = 0
        for i in range(x.shape[1]):
            for c in range(channels):
                shut = a[c] * x[n, i, c] + b[c] <= low[c]
                h = kind(0) if shut else g[n, i, c]
                passed[c] += h
                product[c] += h * (x[n, i, c] - m[c])
                rest[c] += g[n, i, c] - h


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
def grad_input_columns(
    g: Array, x: Array, scale: Array, slope: Array, center: Array, offset: Array, shift: Array, floor: Array, dx: Array
) -> None:
    """scale·g′ + slope·(x - center) + offset."""
    kind = x.dtype.type
    for n in prange(x.shape[0]):
        a, k, m, o, b, low = scale[n], slope[n], center[n], offset[n], shift[n], floor[n]
        for i in range(x.shape[1]):
            for c in range(x.shape[2]):
                h = kind(0) if a[c] * x[n, i, c] + b[c] <= low[c] else g[n, i, c]
                dx[n, i, c] = a[c] * h + k[c] * (x[n, i, c] - m[c]) + o[c]
