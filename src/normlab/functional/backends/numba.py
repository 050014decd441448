"""CPU, float32 and float64, contiguous and channels_last in any rank: the four loops, compiled, on torch's threads.

Compiled for a dtype at first use and cached on disk. OpenMP runs them, since numba's own scheduler aborts when two
threads of a program call it at once; GNU's OpenMP does not survive a fork, so a forked child leaves them alone.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import numba
import torch
from numba.core import config
from torch import Tensor

from normlab.errors import Unavailable
from normlab.functional.backends import Factors, Gate, channels_last
from normlab.functional.backends import numba_loops as loops
from normlab.functional.moments import Moments, pool

_DTYPES = (torch.float32, torch.float64)
_log = logging.getLogger("normlab")
_compiled: set[tuple[str, torch.dtype, bool]] = set()
_forked = False


def _after_fork() -> None:
    global _forked  # noqa: PLW0603
    _forked = True


def _start_threads() -> None:
    """Start numba's threads, which sleep while they have nothing to do.

    torch has threads of its own, and waiting ones of numba's would spin on the cores that those want. OpenMP reads the
    variable once, when numba loads its own copy of it.
    """
    config.THREADING_LAYER = "omp"  # pyright: ignore[reportAttributeAccessIssue]
    told, threads = os.environ.get("OMP_WAIT_POLICY"), torch.get_num_threads()
    os.environ["OMP_WAIT_POLICY"] = told or "passive"
    try:
        numba.set_num_threads(1)
    except ValueError as error:
        raise Unavailable(f"numba finds no OpenMP library (on Debian: apt install libgomp1): {error}") from None
    finally:
        torch.set_num_threads(threads)  # starting sets OpenMP's number of threads, and torch's with it
        if told is None:
            del os.environ["OMP_WAIT_POLICY"]


_start_threads()
os.register_at_fork(after_in_child=_after_fork)


def refuses(x: Tensor) -> str | None:
    """Why these loops cannot take x; None where they can."""
    if x.device.type != "cpu":
        return f"numba runs on the CPU; x is on {x.device}"
    if x.dtype not in _DTYPES:
        return f"numba takes float32 and float64; x is {x.dtype}"
    if _forked:
        return "this process was forked, and OpenMP does not survive that"
    return None


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over *S: [N, C, *S] → [N, C], [N, C]."""
    n, c = x.shape[:2]
    if is_rows(x):
        mean, var = x.new_empty(n, c), x.new_empty(n, c)
        run(loops.moments_rows, x, as_rows(x), _flat(mean), _flat(var))
        return mean, var
    parts = _parts(x)
    mean, var = x.new_zeros(n, parts, c), x.new_zeros(n, parts, c)
    run(loops.moments_columns, x, _cut(as_columns(x), parts), _stack(mean), _stack(var))
    pooled = pool(Moments(mean, var, 1), 1)
    return pooled.mean[:, 0], pooled.var[:, 0]


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor, floor: Tensor | None, residual: Tensor | None) -> Tensor:
    """max(scale·x + shift + residual, floor), laid out as x."""
    y = torch.empty_like(x)
    floor = _no_floor(scale) if floor is None else floor
    rows, vectors = is_rows(x), (scale, shift, floor)
    look = as_rows if rows else as_columns
    small = map(_flat, vectors) if rows else (v.detach().numpy() for v in vectors)
    other = None if residual is None else look(residual)
    run(loops.scale_shift_rows if rows else loops.scale_shift_columns, x, look(x), *small, other, look(y))
    return y


def grad_sums(g: Tensor, x: Tensor, center: Tensor, gate: Gate | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Σ g′, Σ g′·(x - center) and Σ (g - g′), each [N, C]."""
    n, c = x.shape[:2]
    parts = 1 if is_rows(x) else _parts(x)
    sums = x.new_zeros(3, n, parts, c)
    vectors = (center, *(gate or (center, center, _no_floor(center))))
    if is_rows(x):
        run(loops.grad_sums_rows, x, as_rows(g), as_rows(x), *map(_flat, vectors), *map(_flat, sums))
    else:
        whole = (_cut(as_columns(v), parts) for v in (g, x))
        small = (_stack(v[:, None].expand(n, parts, c)) for v in vectors)
        run(loops.grad_sums_columns, x, *whole, *small, *map(_stack, sums))
    total, about, stopped = sums[:, :, 0] if parts == 1 else sums.sum(2)
    return total, about, stopped if gate else None


def grad_input(g: Tensor, x: Tensor, factors: Factors, gate: Gate | None) -> Tensor:
    """scale·g′ + slope·(x - center) + offset, laid out as x."""
    dx = torch.empty_like(x)
    vectors = (*factors, *(gate[1:] if gate else (factors.scale, _no_floor(factors.scale))))
    if is_rows(x):
        run(loops.grad_input_rows, x, as_rows(g), as_rows(x), *map(_flat, vectors), as_rows(dx))
    else:
        arrays = (v.detach().numpy() for v in vectors)
        run(loops.grad_input_columns, x, as_columns(g), as_columns(x), *arrays, as_columns(dx))
    return dx


def run(kernel: Callable[..., None], x: Tensor, *arguments: Any) -> None:
    """Call a loop that reads x, on torch's number of threads; tell if it had to be compiled first."""
    most: int = config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
    numba.set_num_threads(min(torch.get_num_threads(), most))
    key = kernel.__name__, x.dtype, any(argument is None for argument in arguments)
    if key in _compiled:
        return kernel(*arguments)
    start = time.perf_counter()
    kernel(*arguments)
    _compiled.add(key)
    if time.perf_counter() - start > 1:
        _log.warning("compiled %s for %s in %.1f s; cached for next time", *key[:2], time.perf_counter() - start)
    return None


def _no_floor(like: Tensor) -> Tensor:
    return torch.full_like(like, -torch.inf)


def is_rows(x: Tensor) -> bool:
    """Is each (n, c) a row of its own? Otherwise the channels are the columns."""
    return x.is_contiguous() or not channels_last(x)


def as_rows(x: Tensor) -> Any:
    """The memory of x as [N·C, L]."""
    return x.detach().reshape(x.shape[0] * x.shape[1], -1).numpy()


def as_columns(x: Tensor) -> Any:
    """The memory of x as [N, L, C]."""
    return x.detach().movedim(1, -1).reshape(x.shape[0], -1, x.shape[1]).numpy()


def _flat(vector: Tensor) -> Any:
    return vector.detach().reshape(-1).numpy()


def channel_blocks(x: Tensor) -> int:
    """Into how many blocks of channels a batch of few examples is cut, so that every thread has work."""
    wanted = -(-torch.get_num_threads() // x.shape[0])
    return max(1, min(wanted, x.shape[1] // 16))


def _parts(x: Tensor) -> int:
    """Into how many equal parts the positions of each example are cut, so that every thread has work."""
    wanted, length = -(-torch.get_num_threads() // x.shape[0]), x.shape[2:].numel()
    return next(parts for parts in range(wanted, 0, -1) if length % parts == 0)


def _cut(columns: Any, parts: int) -> Any:
    return columns.reshape(columns.shape[0] * parts, -1, columns.shape[2])


def _stack(vectors: Tensor) -> Any:
    return vectors.detach().reshape(-1, vectors.shape[-1]).numpy()
