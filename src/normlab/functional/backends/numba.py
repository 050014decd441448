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

_DTYPES = (torch.float32, torch.float64)
_log = logging.getLogger("normlab")
_compiled: set[tuple[str, torch.dtype]] = set()
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
    told = os.environ.get("OMP_WAIT_POLICY")
    os.environ["OMP_WAIT_POLICY"] = told or "passive"
    try:
        numba.set_num_threads(1)
    except ValueError as error:
        raise Unavailable(f"numba finds no OpenMP library (on Debian: apt install libgomp1): {error}") from None
    finally:
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
    mean, var = x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])
    if _is_rows(x):
        _run(loops.moments_rows, x, _rows(x), _flat(mean), _flat(var))
    else:
        _run(loops.moments_columns, x, _columns(x), mean.numpy(), var.numpy(), _blocks(x))
    return mean, var


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor, floor: Tensor | None, residual: Tensor | None) -> Tensor:
    """max(scale·x + shift + residual, floor), laid out as x."""
    y = torch.empty_like(x)
    floor = _no_floor(scale) if floor is None else floor
    other = x if residual is None else residual
    vectors = scale, shift, floor
    if _is_rows(x):
        _run(loops.scale_shift_rows, x, _rows(x), *map(_flat, vectors), _rows(other), residual is not None, _rows(y))
    else:
        arrays = (v.detach().numpy() for v in vectors)
        _run(loops.scale_shift_columns, x, _columns(x), *arrays, _columns(other), residual is not None, _columns(y))
    return y


def grad_sums(g: Tensor, x: Tensor, center: Tensor, gate: Gate | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Σ g′, Σ g′·(x - center) and Σ (g - g′), each [N, C]."""
    sums = tuple(x.new_empty(x.shape[:2]) for _ in range(3))
    vectors = (center, *(gate or (center, center, _no_floor(center))))
    if _is_rows(x):
        _run(loops.grad_sums_rows, x, _rows(g), _rows(x), *map(_flat, vectors), *map(_flat, sums))
    else:
        arrays = (v.detach().numpy() for v in (*vectors, *sums))
        _run(loops.grad_sums_columns, x, _columns(g), _columns(x), *arrays, _blocks(x))
    return sums[0], sums[1], sums[2] if gate else None


def grad_input(g: Tensor, x: Tensor, factors: Factors, gate: Gate | None) -> Tensor:
    """scale·g′ + slope·(x - center) + offset, laid out as x."""
    dx = torch.empty_like(x)
    vectors = (*factors, *(gate[1:] if gate else (factors.scale, _no_floor(factors.scale))))
    if _is_rows(x):
        _run(loops.grad_input_rows, x, _rows(g), _rows(x), *map(_flat, vectors), _rows(dx))
    else:
        arrays = (v.detach().numpy() for v in vectors)
        _run(loops.grad_input_columns, x, _columns(g), _columns(x), *arrays, _columns(dx))
    return dx


def _run(kernel: Callable[..., None], x: Tensor, *arguments: Any) -> None:
    most: int = config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
    numba.set_num_threads(min(torch.get_num_threads(), most))
    key = kernel.__name__, x.dtype
    if key in _compiled:
        return kernel(*arguments)
    start = time.perf_counter()
    kernel(*arguments)
    _compiled.add(key)
    if time.perf_counter() - start > 1:
        _log.warning("compiled %s for %s in %.1f s; cached for next time", *key, time.perf_counter() - start)
    return None


def _no_floor(like: Tensor) -> Tensor:
    return torch.full_like(like, -torch.inf)


def _is_rows(x: Tensor) -> bool:
    """Is each (n, c) a row of its own? Otherwise the channels are the columns."""
    return x.is_contiguous() or not channels_last(x)


def _rows(x: Tensor) -> Any:
    return x.detach().reshape(x.shape[0] * x.shape[1], -1).numpy()


def _columns(x: Tensor) -> Any:
    return x.detach().movedim(1, -1).reshape(x.shape[0], -1, x.shape[1]).numpy()


def _flat(vector: Tensor) -> Any:
    return vector.detach().reshape(-1).numpy()


def _blocks(x: Tensor) -> int:
    """Into how many blocks of channels a batch of few examples is cut, so that every thread has work."""
    wanted = -(-torch.get_num_threads() // x.shape[0])
    return max(1, min(wanted, x.shape[1] // 16))
