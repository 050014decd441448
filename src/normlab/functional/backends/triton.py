"""CUDA, float32, bfloat16 and float16, contiguous and channels_last in any rank: the four loops, in Triton.

One loop serves both layouts. A *pair* is one (n, c). Where x is contiguous the pairs are rows, one after the other;
where it is channels_last they are columns, side by side in each example. A program takes a tile, some values of some
pairs, and sums by walking with it along a span of *S. Where one span for all of *S would leave the GPU idle there are
several, joined afterwards. Nothing is added atomically: equal inputs give equal bits.
"""

from __future__ import annotations

from functools import cache
from math import gcd
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from normlab.functional.backends import Factors, Gate
from normlab.functional.backends import triton_loops as loops

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_CHANNELS = 1 << 25  # more would take a tile of columns beyond the reach of 32 bits
# multiply-add is fused: Triton warns, where this is not said, that its default will change
_OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
_TILE = 2048  # values: 16 for each thread; twice as many need more registers than there are
_LINE = 64  # pairs side by side: 128 bytes of bfloat16
_PROGRAMS = 2048  # about two for each place on a GPU with 132 multiprocessors
_WALK = 4  # tiles, before a span is worth sums of its own
_NO_GATE = (None, None, None)


class _Plan(NamedTuple):
    """How x is cut into programs; `triton_loops` says what the sizes are."""

    programs: int
    sizes: tuple[int, int, int, int, int]
    constants: dict[str, Any]

    @property
    def spans(self) -> int:
        return self.sizes[3]


def refuses(x: Tensor) -> str | None:
    """Why these loops cannot take x; None where they can."""
    if not x.is_cuda and not (loops.INTERPRETED and x.device.type == "cpu"):
        return f"triton runs on CUDA; x is on {x.device}"
    if x.dtype not in _DTYPES:
        return f"the triton loops take float32, bfloat16 and float16; x is {x.dtype}"
    if x.shape[1] > _CHANNELS:
        return f"the triton loops take up to {_CHANNELS} channels; x has {x.shape[1]}"
    return None if loops.INTERPRETED else _unfit(x.device)


@cache
def _unfit(device: torch.device) -> str | None:
    """Why this GPU cannot run what Triton compiles."""
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return f"triton needs compute capability 8.0; {torch.cuda.get_device_name(device)} is older"
    try:
        triton.runtime.driver.active.get_current_target()
    except Exception as error:  # Triton builds its driver here, with whatever compiler it finds
        return f"triton does not start: {error}"
    return None


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over *S: [N, C, *S] → [N, C], [N, C]."""
    plan = _plan(x, walks=True)
    mean, var = (x.new_empty((*x.shape[:2], plan.spans), dtype=torch.float32) for _ in range(2))
    length, _, chunk, *_ = plan.sizes
    _launch(loops.moments, plan, x, mean, var, ONCE=chunk == plan.constants["LONG"])
    if plan.spans == 1:
        return mean[..., 0], var[..., 0]
    share = torch.full_like(mean[0, 0], chunk / length)
    share[-1] = 1 - (plan.spans - 1) * chunk / length
    joined = mean[..., 0] + ((mean - mean[..., :1]) * share).sum(-1)
    return joined, ((var + (mean - joined[..., None]) ** 2) * share).sum(-1)


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor, floor: Tensor | None, residual: Tensor | None) -> Tensor:
    """max(scale·x + shift + residual, floor), laid out as x."""
    y = torch.empty_like(x)
    _launch(loops.scale_shift, _plan(x), x, scale, shift, floor, residual, y)
    return y


def grad_sums(g: Tensor, x: Tensor, center: Tensor, gate: Gate | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Σ g′, Σ g′·(x - center) and, with a gate, Σ (g - g′), each [N, C]."""
    plan = _plan(x, walks=True)
    sums = x.new_empty((3 if gate else 2, *x.shape[:2], plan.spans), dtype=torch.float32)
    stopped = sums[2] if gate else None
    _launch(loops.grad_sums, plan, g, x, center, *(gate or _NO_GATE), sums[0], sums[1], stopped)
    sums = sums[..., 0] if plan.spans == 1 else sums.sum(-1)
    return sums[0], sums[1], sums[2] if gate else None


def grad_input(g: Tensor, x: Tensor, factors: Factors, gate: Gate | None) -> Tensor:
    """scale·g′ + slope·(x - center) + offset, laid out as x."""
    dx = torch.empty_like(x)
    _launch(loops.grad_input, _plan(x), g, x, *factors, *(gate or _NO_GATE), dx)
    return dx


def _plan(x: Tensor, *, walks: bool = False) -> _Plan:
    """A program for each tile; or, where it walks, for as many tiles as leave the GPU busy."""
    n, c, length = x.shape[0], x.shape[1], x.shape[2:].numel()
    rows = x.is_contiguous()
    sets, pairs = (1, n * c) if rows else (n, c)
    side_by_side = 1 if rows else min(_above(c), _LINE)
    long = min(_above(length), _TILE // side_by_side)
    wide = min(_above(pairs), _TILE // long)
    blocks, tiles = _parts(pairs, wide), _parts(length, long)
    spans = min(_parts(_PROGRAMS, sets * blocks), _parts(tiles, _WALK)) if walks else tiles
    chunk = _parts(tiles, spans) * long
    spans = _parts(length, chunk)
    unit = gcd(length if rows else pairs, 16)
    sizes = (length, pairs, chunk, spans, 1 if rows else blocks)
    return _Plan(sets * blocks * spans, sizes, {"ROWS": rows, "UNIT": unit, "LONG": long, "WIDE": wide})


def _parts(whole: int, part: int) -> int:
    return -(-whole // part)


def _above(size: int) -> int:
    """The power of two that is not smaller."""
    return 1 << (size - 1).bit_length()


def _launch(loop: Any, plan: _Plan, x: Tensor, *tensors: Tensor | None, **constants: bool) -> None:
    with torch.cuda.device_of(x):
        loop[(plan.programs,)](x, *tensors, *plan.sizes, **plan.constants, **constants, **_OPTIONS)
