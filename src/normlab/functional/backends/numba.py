"""CPU, float32 and float64, contiguous and channels_last in any rank: the four loops, compiled, on torch's threads.

Compiled for a dtype at first use and cached on disk. OpenMP runs them, since numba's own scheduler aborts when two
threads of a program call it at once; GNU's OpenMP does not survive a fork, so a forked child leaves them alone.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba.core import config
from torch import Tensor

from normlab.errors import Unavailable
from normlab.functional.backends import Factors, Gate, channels_last
from normlab.functional.backends import numba_loops as loops
from normlab.functional.moments import Moments, pool

_DTYPES = (torch.float32, torch.float64)
_log = logging.getLogger("normlab")
_GRAIN = 1 << 15  # values for each thread: to wake another costs more than it saves, and much more on a busy machine
_forked = False


class _Threads(threading.local):
    uses = 0


_this_thread = _Threads()


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
        run(loops.moments_rows, as_rows(x), _flat(mean), _flat(var))
        return mean, var
    parts = _parts(x)
    mean, var = x.new_zeros(n, parts, c), x.new_zeros(n, parts, c)
    run(loops.moments_columns, _cut(as_columns(x), parts), _stack(mean), _stack(var))
    pooled = pool(Moments(mean, var, 1), 1)
    return pooled.mean[:, 0], pooled.var[:, 0]


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor, floor: Tensor | None, residual: Tensor | None) -> Tensor:
    """max(scale·x + shift + residual, floor), laid out as x."""
    y, rows = torch.empty_like(x), is_rows(x)
    big, small = (as_rows, _flat) if rows else (as_columns, as_array)
    a, b = small(scale), small(shift)
    low = _no_floor(a.shape, a.dtype) if floor is None else small(floor)
    other = None if residual is None else big(residual)
    run(loops.scale_shift_rows if rows else loops.scale_shift_columns, big(x), a, b, low, other, big(y))
    return y


def grad_sums(g: Tensor, x: Tensor, center: Tensor, gate: Gate | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Σ g′, Σ g′·(x - center) and Σ (g - g′), each [N, C]."""
    n, c = x.shape[:2]
    if is_rows(x):
        sums, m = x.new_empty(3, n, c), _flat(center)
        run(loops.grad_sums_rows, as_rows(g), as_rows(x), m, *_gate(gate, m, _flat), as_array(sums).reshape(3, -1))
    else:
        parts = _parts(x)
        sums = x.new_zeros(3, n, parts, c)

        def small(vector: Tensor) -> Any:
            return _stack(vector[:, None].expand(n, parts, c))

        m, whole = small(center), (_cut(as_columns(v), parts) for v in (g, x))
        run(loops.grad_sums_columns, *whole, m, *_gate(gate, m, small), as_array(sums).reshape(3, -1, c))
        sums = sums.sum(2) if parts > 1 else sums[:, :, 0]
    total, about, stopped = sums.unbind()
    return total, about, stopped if gate else None


def grad_input(g: Tensor, x: Tensor, factors: Factors, gate: Gate | None) -> Tensor:
    """scale·g′ + slope·(x - center) + offset, laid out as x."""
    dx, rows = torch.empty_like(x), is_rows(x)
    big, small = (as_rows, _flat) if rows else (as_columns, as_array)
    vectors = [small(factor) for factor in factors]
    loop = loops.grad_input_rows if rows else loops.grad_input_columns
    run(loop, big(g), big(x), *vectors, *_gate(gate, vectors[0], small)[1:], big(dx))
    return dx


def run(kernel: Any, *arguments: Any) -> None:
    """Call a loop on torch's number of threads, or fewer for little work; tell if it had to be compiled first."""
    most: int = config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
    threads = min(torch.get_num_threads(), most, -(-arguments[0].size // _GRAIN))
    if threads != _this_thread.uses:  # numba takes its time for what there is not to do
        numba.set_num_threads(threads)
        _this_thread.uses = threads
    known, start = len(kernel.overloads), time.perf_counter()
    kernel(*arguments)
    took = time.perf_counter() - start
    if took > 1 and len(kernel.overloads) > known:
        kind = arguments[0].dtype
        _log.warning("compiled %s for %s in %.1f s; cached for next time", kernel.__name__, kind, took)


@functools.lru_cache(maxsize=16)
def _no_floor(shape: tuple[int, ...], dtype: Any) -> Any:
    """A floor that nothing is below; nobody writes to it."""
    return np.full(shape, -np.inf, dtype)


def _gate(gate: Gate | None, like: Any, small: Callable[[Tensor], Any]) -> list[Any]:
    """Scale, shift and floor as arrays; without a gate, some that let everything through."""
    return [like, like, _no_floor(like.shape, like.dtype)] if gate is None else [small(part) for part in gate]


def is_rows(x: Tensor) -> bool:
    """Is each (n, c) a row of its own? Otherwise the channels are the columns."""
    return x.is_contiguous() or not channels_last(x)


def as_array(x: Tensor) -> Any:
    """The memory of x. numpy takes other views of it in a third of the time that torch needs."""
    return x.detach().numpy()


def as_rows(x: Tensor) -> Any:
    """The memory of x as [N·C, L]."""
    return as_array(x).reshape(x.shape[0] * x.shape[1], -1)


def as_columns(x: Tensor) -> Any:
    """The memory of x as [N, L, C]."""
    return as_array(x).reshape(x.shape[0], x.shape[1], -1).swapaxes(1, 2)


def _flat(vector: Tensor) -> Any:
    return as_array(vector).reshape(-1)


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
