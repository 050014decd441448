"""Backends: the passes that read activations, written once for each kind of machine.

A backend is a module with the four loops below and `refuses`; x is [N, C, *S], the others are [N, C] and contiguous,
in the dtype that `stats_dtype` names.

    moments(x)                                     → mean, var
    scale_shift(x, scale, shift, floor, residual)  → y = max(scale·x + shift + residual, floor)
    grad_sums(g, x, center, gate)                  → Σ g′, Σ g′·(x - center), Σ (g - g′)
    grad_input(g, x, factors, gate)                → scale·g′ + slope·(x - center) + offset

Here g′ is g where the floor let y through: g where scale·x + shift > floor, else 0.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from normlab.errors import Unavailable, UnknownName

NAMES = ("eager", "numba", "triton")


class Gate(NamedTuple):
    """What tells, value by value, whether the floor let y through: scale·x + shift > floor."""

    scale: Tensor
    shift: Tensor
    floor: Tensor


class Factors(NamedTuple):
    """∂L/∂x = scale·g′ + slope·(x - center) + offset."""

    scale: Tensor
    slope: Tensor
    center: Tensor
    offset: Tensor


class Choice(NamedTuple):
    """Which backend ran, and why that one."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class _State(threading.local):
    forced: str | None = None
    last: Choice | None = None


_state = _State()


@contextmanager
def use_backend(name: str) -> Generator[None]:
    """Run the passes on `name` inside the block: "eager", "numba" or "triton".

    What that backend cannot do is an error inside the block, never another backend. For the current thread only. What
    has no such passes, a matrix product or a convolution inside a layer, is torch's in any case.

    Raises:
        UnknownName: no such backend.
        Unavailable: its package is missing; or, at a call, the input is not one it takes.
    """
    if name not in NAMES:
        raise UnknownName("backend", name, NAMES)
    if name != "eager":
        _load(name)
    before, _state.forced = _state.forced, name
    try:
        yield
    finally:
        _state.forced = before


def backend() -> Choice | None:
    """Which backend the last normalization of this thread ran on, and why; None before the first.

    Inside `torch.compile` nothing is recorded: there the eager operations are traced and compiled.
    """
    return _state.last


def stats_dtype(dtype: torch.dtype) -> torch.dtype:
    """What statistics of activations of this dtype are computed in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def select(x: Tensor) -> tuple[ModuleType, Choice]:
    """The backend for x: what was asked for, or by device, dtype, layout and size.

    Raises:
        Unavailable: the backend asked for cannot take x; says why.
    """
    choice = _choose(x)
    return _load(choice.name), choice


def note(choice: Choice) -> None:
    """Let `backend()` tell of this choice."""
    if not torch.compiler.is_compiling():
        _state.last = choice


def forced() -> str | None:
    """The backend that `use_backend` asks for, if any."""
    return _state.forced


def _choose(x: Tensor) -> Choice:
    forced = _state.forced
    if forced == "eager":
        return Choice("eager", "use_backend asks for it")
    if forced is not None:
        why_not = refusal(forced, x)
        if why_not is not None:
            raise Unavailable(f"backend {forced!r} was asked for and cannot run: {why_not}. use_backend('eager') can.")
        return Choice(forced, "use_backend asks for it")
    wanted = "triton" if x.is_cuda else "numba"
    why_not = refusal(wanted, x)
    if why_not is None and x.dim() == 2:
        why_not = "[N, C] has no positions to take moments over"
    if why_not is None and wanted == "numba" and x.numel() < SMALL:
        why_not = f"{x.numel()} values are too few for numba to be faster (fewer than {SMALL})"
    if why_not is not None:
        return Choice("eager", why_not)
    return Choice(wanted, f"{x.dtype} on {x.device.type}, {x.numel()} values")


SMALL = 1 << 14
"""Fewer values than this run on eager: there the calls cost more than the passes."""


def refusal(name: str, x: Tensor) -> str | None:
    """Why backend `name` cannot take x; None where it can."""
    why_not = traced(x)
    if why_not is not None:
        return why_not
    if x.numel() == 0:
        return f"there are no values in {list(x.shape)}"
    if not _is_dense(x):
        return f"x is neither contiguous nor channels_last (shape {list(x.shape)}, strides {list(x.stride())})"
    try:
        return _load(name).refuses(x)
    except Unavailable as error:
        return str(error)


def traced(x: Tensor) -> str | None:
    """Why x must be left to composed operations; None for plain tensors outside of torch's tracers."""
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return "torch is tracing, and eager operations are what it traces"
    if type(x) is not Tensor and type(x) is not torch.nn.Parameter:
        return f"x is a {type(x).__name__}, not a plain tensor"
    if torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore
        return "inside torch.func"
    if torch.autograd.forward_ad._current_level >= 0:  # pyright: ignore
        return "inside forward-mode differentiation"
    return None


def channels_last(x: Tensor) -> bool:
    """Is the channel the dimension that varies fastest, and everything dense?"""
    return x.movedim(1, -1).is_contiguous()


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or channels_last(x)


def _load(name: str) -> ModuleType:
    # imported when first wanted: numba takes half a second, triton needs a GPU
    if name == "eager":
        from normlab.functional.backends import eager

        return eager
    try:
        if name == "numba":
            from normlab.functional.backends import numba

            return numba
        from normlab.functional.backends import triton
    except ImportError as error:
        raise Unavailable(f"backend {name!r} needs the package {name}: {error}; pip install {name}") from None
    return triton
