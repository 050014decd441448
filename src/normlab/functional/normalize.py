"""From activations to instance moments, and from (scale, shift) to activations: the only two places that read them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from normlab.errors import SpecError, UnknownName
from normlab.functional import backends
from normlab.functional.backends import Factors, Gate, eager
from normlab.functional.moments import Moments

Activation = Literal["relu"]
AffineMap = Callable[[Moments], tuple[Tensor, Tensor]]


def normalize(
    x: Tensor,
    affine: AffineMap,
    *,
    activation: Activation | None = None,
    floor: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """y = act(scale·x + shift + residual), where (scale, shift) = affine(moments of x over *S).

    Two passes over x in the forward direction and two in the backward one, whatever `affine` does: it is ordinary
    torch on [N, C], and autograd takes care of it. The first pass is left out if `affine` never looks at the moments.

    Args:
        x: [N, C, *S]; floating point.
        affine: gets the instance moments, mean and biased variance [N, C], in float32 or wider; gives scale and shift,
            each [N, C] or what broadcasts to it.
        activation: "relu" in the same pass.
        floor: [C] or what broadcasts to [N, C]: y is nowhere below it, as in a thresholded linear unit.
        residual: of the shape of x, added before the activation.

    Returns:
        y of the shape, dtype and layout of x.

    Raises:
        SpecError: an input of other shape or type than said.
    """
    check_input(x, residual)
    backend, choice = backends.select(x)
    link = _Link()
    moments = InstanceMoments(x, backend, link)
    with _full_precision(x):
        scale, shift = affine(moments)
    backends.note(choice)  # only now: there may be a norm inside `affine`
    low = floor_of(activation, floor, scale)
    if backend is eager:
        return eager.scale_shift(x, _rows(scale), _rows(shift), None if low is None else _rows(low), residual)
    center, token = moments.taken()
    vectors = (grid(v, x) for v in (scale, shift, low))
    return _ScaleShift.apply(x if token is None else x.detach(), token, center, *vectors, residual, backend, link)


def check_input(x: Tensor, residual: Tensor | None = None) -> None:
    """Refuse what is not [N, C, *S] of floating point numbers, and a residual that does not fit."""
    if not x.is_floating_point():
        raise SpecError(f"normalization takes floating point numbers; got {x.dtype}. Convert first: x.float()")
    if x.dim() < 2:
        raise SpecError(f"normalization takes [N, C, *S]; got {list(x.shape)}. One example needs a batch: x[None]")
    if x.numel() == 0:
        raise SpecError(f"there is nothing to normalize in an input {list(x.shape)}: skip empty batches")
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise SpecError(
            f"the residual should be as x, {list(x.shape)} of {x.dtype}; got {list(residual.shape)} of {residual.dtype}"
        )


def floor_of(activation: Activation | None, floor: Tensor | None, like: Tensor) -> Tensor | None:
    """What y may not fall below: 0 for relu; None where there is no bound."""
    if activation is None:
        return floor
    if activation != "relu":
        raise UnknownName("activation", activation, get_args(Activation))
    if floor is not None:
        raise SpecError("activation='relu' is a floor of 0; give one or the other")
    return like.new_zeros(1, 1)


def _full_precision(x: Tensor) -> AbstractContextManager[Any]:
    # under autocast a matmul on [N, C] would run in bfloat16, and statistics should not
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


class InstanceMoments(Moments):
    """Mean and variance over *S of each example and channel, [N, C]; computed when first asked for."""

    __slots__ = ("_backend", "_found", "_link", "_x")

    def __init__(self, x: Tensor, backend: ModuleType, link: _Link) -> None:
        self._x, self._backend, self._link = x, backend, link
        self._found: tuple[Tensor, Tensor, Tensor | None] | None = None

    def _computed(self) -> tuple[Tensor, Tensor, Tensor | None]:
        found = self._found
        if found is None:
            if self._backend is eager:
                found = (*eager.moments(self._x), None)
            else:
                found = _TakeMoments.apply(self._x, self._backend, self._link)
            self._found = found
        return found

    @property
    def shape(self) -> torch.Size:
        """[N, C]."""
        return self._x.shape[:2]

    @property
    def size(self) -> torch.Size:
        """Shape of x."""
        return self._x.shape

    @property
    def mean(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[N, C]."""
        return self._computed()[0]

    @property
    def var(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[N, C], biased."""
        return self._computed()[1]

    @property
    def count(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Positions in a map."""
        shape = self._x.shape
        return shape[2:].numel() if len(shape) > 2 else 1

    def taken(self) -> tuple[Tensor | None, Tensor | None]:
        """(mean, token) if somebody asked for the moments; the token carries ∂L/∂y to the node that took them."""
        if self._found is None:
            return None, None
        mean, _, token = self._found
        return mean.detach(), token if token is not None and token.requires_grad else None


class _Link:
    """What the node that ends the computation tells, in the backward pass, the node that began it.

    The gradient of x needs one pass over g and x, and the factors in it are known only after autograd has been
    through the algebra on [N, C]. So the last node hands g on as it is, under the token, and leaves here what to
    multiply it by.
    """

    __slots__ = ("gate", "scale", "source")

    source: Callable[[], Any]  # weak: the first node's context, which holds this link
    scale: Tensor
    gate: Gate | None


class _TakeMoments(torch.autograd.Function):
    """First node: x → mean, var, token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, backend: ModuleType, link: _Link) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = backend.moments(x)
        ctx.save_for_backward(x, mean)
        ctx.backend, ctx.link = backend, link
        link.source = weakref.ref(ctx)
        ctx.set_materialize_grads(False)
        return mean, var, x.new_zeros(()).expand(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, None, None]:
        d_mean, d_var, g = grads
        x, mean = ctx.saved_tensors
        count = x.shape[2:].numel()
        zeros = torch.zeros_like(mean)
        slope = zeros if d_var is None else d_var * (2 / count)
        offset = zeros if d_mean is None else d_mean / count
        scale, gate = (zeros, None) if g is None else (ctx.link.scale, ctx.link.gate)
        backend = eager if torch.is_grad_enabled() else ctx.backend
        factors = Factors(scale, slope, mean, offset)
        return backend.grad_input(x if g is None else laid_out(g, x), x, factors, gate), None, None


class _ScaleShift(torch.autograd.Function):
    """Last node: x, scale, shift → y. With a token, x's gradient is left to the first node."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        token: Tensor | None,
        center: Tensor | None,
        scale: Tensor,
        shift: Tensor,
        floor: Tensor | None,
        residual: Tensor | None,
        backend: ModuleType,
        link: _Link,
    ) -> Tensor:
        if residual is not None:
            residual = laid_out(residual, x)
        y = backend.scale_shift(x, scale, shift, floor, residual)
        # with a residual, only y still knows where the floor held it up
        kept = y if residual is not None and floor is not None else None
        ctx.save_for_backward(x, center, scale, shift, floor, kept)
        ctx.deferred, ctx.backend, ctx.link = token is not None, backend, link
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, center, scale, shift, floor, y = ctx.saved_tensors
        backend = ctx.backend
        if torch.is_grad_enabled():  # a second derivative will be asked for: compose, and keep the way back to x
            backend, x = eager, ctx.link.source().saved_tensors[0] if ctx.deferred else x
        raw = g = laid_out(grads[0], x)
        gate = None if floor is None or y is not None else Gate(scale, shift, floor)
        if y is not None and floor is not None:
            g = reopen(g, y, floor)
        d_scale, d_shift, d_floor = _sums(backend, g, x, center, gate, ctx.needs_input_grad[3:6])
        if y is not None and ctx.needs_input_grad[5]:
            d_floor = (raw - g).sum(tuple(range(2, x.dim())), dtype=scale.dtype)
        d_x = d_token = None
        if ctx.deferred:
            d_token, ctx.link.scale, ctx.link.gate = g, scale, gate
        elif ctx.needs_input_grad[0]:
            zeros = torch.zeros_like(scale)
            d_x = backend.grad_input(g, x, Factors(scale, zeros, zeros, zeros), gate)
        d_residual = g if ctx.needs_input_grad[6] else None
        if gate is not None and d_residual is not None:
            d_residual = eager.gated(g, x, gate)
        return d_x, d_token, None, d_scale, d_shift, d_floor, d_residual, None, None


def _sums(
    backend: ModuleType, g: Tensor, x: Tensor, center: Tensor | None, gate: Gate | None, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of scale, shift and floor."""
    if not any(needed):
        return None, None, None
    at = x.new_zeros(x.shape[:2], dtype=backends.stats_dtype(x.dtype)) if center is None else center
    total, about_center, stopped = backend.grad_sums(g, x, at, gate)
    # Σ g·x, from values near 0: x itself may be far from it
    return (about_center if center is None else torch.addcmul(about_center, center, total)), total, stopped


def reopen(g: Tensor, y: Tensor, floor: Tensor) -> Tensor:
    """g where y is above the floor, else 0."""
    return torch.where(y <= eager.wide(floor, y), 0, g)


def laid_out(g: Tensor, x: Tensor) -> Tensor:
    """g with the strides that x has: gradients come in whatever layout their maker chose."""
    if g.stride() == x.stride() and g.dtype == x.dtype:
        return g
    return torch.empty_like(x).copy_(g) if not torch.is_grad_enabled() else g


def _rows(vector: Tensor) -> Tensor:
    return vector if vector.dim() == 2 else vector.expand(1, -1)


def grid(vector: Tensor | None, x: Tensor) -> Tensor | None:
    """The vector as [N, C] in the dtype of the statistics, contiguous."""
    if vector is None:
        return None
    return vector.to(backends.stats_dtype(x.dtype)).expand(x.shape[:2]).contiguous()
