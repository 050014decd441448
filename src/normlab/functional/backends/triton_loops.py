"""The four loops, for Triton to compile, over tiles [LONG, WIDE] of x: LONG values of each of WIDE pairs (n, c).

    length, pairs   values of a pair; pairs in a set: all N·C of them (rows), or the C of an example (columns)
    chunk, spans    values of a pair in a span; spans in a pair
    blocks          of WIDE pairs in a set; rows count each block as a set of its own
    UNIT            divides whichever of length and pairs is the one that varies fastest in memory

Sums are written [N, C, spans], one for each span. Sizes may pass 2^31, offsets within a tile may not.
"""

# Triton takes an annotation for a declaration of its own, so that most parameters can have none.
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

_kernel: Any = triton.jit(do_not_specialize_on_alignment=("spans", "blocks"))  # one binary for many of them


@_kernel
def moments(
    x,
    mean,
    var,
    length,
    pairs,
    chunk,
    spans,
    blocks,
    ROWS: tl.constexpr,
    UNIT: tl.constexpr,
    LONG: tl.constexpr,
    WIDE: tl.constexpr,
    ONCE: tl.constexpr,
):
    """Mean and biased variance of each span."""
    length, pairs = _aligned(length, pairs, ROWS, UNIT)
    origin, pair, there, span = _share(length, pairs, spans, blocks, ROWS, WIDE)
    begin = span * chunk
    end = tl.minimum(begin + chunk, length)
    center = tl.zeros((LONG, WIDE), tl.float32)
    square = tl.zeros((LONG, WIDE), tl.float32)
    if ONCE:
        start, at, inside = _tile(origin, begin, length, pairs, there, ROWS, LONG, WIDE)
        center += _load(x + start, at, inside)
    else:  # Welford's recurrence, for each place in the tile
        steps = 0.0
        for first in range(begin, end, LONG):
            start, at, inside = _tile(origin, first, length, pairs, there, ROWS, LONG, WIDE)
            steps += 1.0
            step = tl.where(inside, _load(x + start, at, inside) - center, 0.0)
            center += step * (1.0 / steps)
            square += step * step * ((steps - 1.0) / steps)
    # the law of total variance, over the places, which hold so many values each
    size = end - begin
    full = (size // LONG).to(tl.float32)
    held = tl.where(tl.arange(0, LONG)[:, None] < (size % LONG).to(tl.int32), full + 1, full)
    middle = tl.sum(held * center, 0, keep_dims=True) / size.to(tl.float32)
    apart = center - middle
    spread = tl.sum(square + held * apart * apart, 0, keep_dims=True) / size.to(tl.float32)
    tl.store(mean + pair * spans + span, middle, there)
    tl.store(var + pair * spans + span, spread, there)


@_kernel
def scale_shift(
    x,
    scale,
    shift,
    floor,
    residual,
    y,
    length,
    pairs,
    chunk,
    spans,
    blocks,
    ROWS: tl.constexpr,
    UNIT: tl.constexpr,
    LONG: tl.constexpr,
    WIDE: tl.constexpr,
):
    """y = max(scale·x + shift + residual, floor)."""
    length, pairs = _aligned(length, pairs, ROWS, UNIT)
    origin, pair, there, span = _share(length, pairs, spans, blocks, ROWS, WIDE)
    start, at, inside = _tile(origin, span * chunk, length, pairs, there, ROWS, LONG, WIDE)
    z = _load(scale, pair, there) * _load(x + start, at, inside) + _load(shift, pair, there)
    if residual is not None:
        z += _load(residual + start, at, inside)
    if floor is not None:
        low = _load(floor, pair, there)
        z = tl.where(z <= low, low, z)  # so that NaN passes
    tl.store(y + start + at, z, inside)


@_kernel
def grad_sums(
    g,
    x,
    center,
    scale,
    shift,
    floor,
    total,
    about,
    stopped,
    length,
    pairs,
    chunk,
    spans,
    blocks,
    ROWS: tl.constexpr,
    UNIT: tl.constexpr,
    LONG: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Σ g′, Σ g′·(x - center) and, with a floor, Σ (g - g′) of each span."""
    length, pairs = _aligned(length, pairs, ROWS, UNIT)
    origin, pair, there, span = _share(length, pairs, spans, blocks, ROWS, WIDE)
    middle = _load(center, pair, there)
    if floor is not None:
        a, b, low = _load(scale, pair, there), _load(shift, pair, there), _load(floor, pair, there)
    passed = tl.zeros((LONG, WIDE), tl.float32)
    product = tl.zeros((LONG, WIDE), tl.float32)
    rest = tl.zeros((LONG, WIDE), tl.float32)
    for first in range(span * chunk, tl.minimum((span + 1) * chunk, length), LONG):
        start, at, inside = _tile(origin, first, length, pairs, there, ROWS, LONG, WIDE)
        values, h = _load(x + start, at, inside), _load(g + start, at, inside)
        if floor is not None:
            shut = a * values + b <= low  # pyright: ignore[reportPossiblyUnboundVariable]
            rest += tl.where(shut, h, 0.0)
            h = tl.where(shut, 0.0, h)
        passed += h
        product += h * (values - middle)
    out = pair * spans + span
    tl.store(total + out, tl.sum(passed, 0, keep_dims=True), there)
    tl.store(about + out, tl.sum(product, 0, keep_dims=True), there)
    if floor is not None:
        tl.store(stopped + out, tl.sum(rest, 0, keep_dims=True), there)


@_kernel
def grad_input(
    g,
    x,
    scale,
    slope,
    center,
    offset,
    gate_scale,
    gate_shift,
    floor,
    dx,
    length,
    pairs,
    chunk,
    spans,
    blocks,
    ROWS: tl.constexpr,
    UNIT: tl.constexpr,
    LONG: tl.constexpr,
    WIDE: tl.constexpr,
):
    """dx = scale·g′ + slope·(x - center) + offset."""
    length, pairs = _aligned(length, pairs, ROWS, UNIT)
    origin, pair, there, span = _share(length, pairs, spans, blocks, ROWS, WIDE)
    start, at, inside = _tile(origin, span * chunk, length, pairs, there, ROWS, LONG, WIDE)
    values, h = _load(x + start, at, inside), _load(g + start, at, inside)
    if floor is not None:
        z = _load(gate_scale, pair, there) * values + _load(gate_shift, pair, there)
        h = tl.where(z <= _load(floor, pair, there), 0.0, h)
    pull = _load(slope, pair, there) * (values - _load(center, pair, there)) + _load(offset, pair, there)
    tl.store(dx + start + at, _load(scale, pair, there) * h + pull, inside)


@triton.jit
def _aligned(length, pairs, ROWS: tl.constexpr, UNIT: tl.constexpr):
    """The sizes as they are, but written so that the compiler sees how far loads are aligned."""
    if ROWS:
        return length // UNIT * UNIT, pairs
    else:  # noqa: RET505
        return length, pairs // UNIT * UNIT


@triton.jit
def _share(length, pairs, spans, blocks, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """This program's share: where it begins in x; its pairs, as places in [N, C], and which exist; its span."""
    program = tl.program_id(0)
    span = (program // blocks % spans).to(tl.int64)
    of_set = (program // blocks // spans).to(tl.int64)
    first = (of_set if ROWS else program % blocks) * WIDE
    place = first if ROWS else of_set * pairs + first
    origin = first * length if ROWS else of_set * length * pairs + first
    column = tl.arange(0, WIDE)[None, :]
    return origin, place + column, column < tl.minimum(pairs - first, WIDE).to(tl.int32), span


@triton.jit
def _tile(origin, first, length, pairs, there, ROWS: tl.constexpr, LONG: tl.constexpr, WIDE: tl.constexpr):
    """Where a tile begins in x, the offsets of its values from there, and which of them exist."""
    row, column = tl.arange(0, LONG)[:, None], tl.arange(0, WIDE)[None, :]
    inside = (row < tl.minimum(length - first, LONG).to(tl.int32)) & there
    if ROWS:
        return origin + first, column * length + row, inside
    else:  # noqa: RET505
        return origin + first * pairs, row * pairs + column, inside


@triton.jit
def _load(pointer, at, inside):
    return tl.load(pointer + at, inside, other=0).to(tl.float32)


INTERPRETED = not isinstance(moments, triton.JITFunction)
"""Was TRITON_INTERPRET=1 set when Triton was imported? Then NumPy runs the loops, on tensors of the CPU."""
