"""The two autograd nodes between which a normalizer's algebra stands, and that share one backward pass over x."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from normlab.functional import backends
from normlab.functional.backends import Factors, Gate, eager
from normlab.functional.moments import Moments


class Link:
    """What the node that ends the computation tells, in the backward pass, the node that began it.

    The gradient of x needs one pass over g and x, and the factors in it are known only after autograd has been
    through the algebra on [N, C]. So the last node hands g on as it is, under the token, and leaves here what to
    multiply it by.
    """

    __slots__ = ("_left", "source")

    source: Callable[[], Any]  # weak: the first node's context, which holds this link
    _left: tuple[Tensor, Gate | None]

    def leave(self, scale: Tensor, gate: Gate | None) -> None:
        """What the first node is to multiply g by, and where."""
        if not torch.is_grad_enabled():
            # what leads back to the first node would make a cycle of it and this link, and memory that is never freed
            scale, gate = scale.detach(), None if gate is None else Gate(*(part.detach() for part in gate))
        self._left = scale, gate

    def take(self) -> tuple[Tensor, Gate | None]:
        """What was left, once."""
        left = self._left
        del self._left
        return left


class TakeMoments(torch.autograd.Function):
    """First node: x → mean, var, token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, backend: ModuleType, link: Link) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance [N, C], and a token of the shape of x without memory of its own."""
        mean, var = backend.moments(x)
        ctx.save_for_backward(x, mean)
        ctx.backend, ctx.link = backend, link
        link.source = weakref.ref(ctx)
        ctx.set_materialize_grads(False)
        return mean, var, x.new_zeros(()).expand(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, None, None]:
        """∂L/∂x, all of it: through the moments, and what the last node left to be done."""
        d_mean, d_var, g = grads
        x, mean = ctx.saved_tensors
        count = x.shape[2:].numel()
        zeros = torch.zeros_like(mean)
        slope = zeros if d_var is None else d_var * (2 / count)
        offset = zeros if d_mean is None else d_mean / count
        scale, gate = (zeros, None) if g is None else ctx.link.take()
        backend = eager if torch.is_grad_enabled() else ctx.backend
        factors = Factors(scale, slope, mean, offset)
        return backend.grad_input(x if g is None else laid_out(g, x), x, factors, gate), None, None


class ScaleShift(torch.autograd.Function):
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
        link: Link,
    ) -> Tensor:
        """max(scale·x + shift + residual, floor)."""
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
        """Gradients of scale, shift, floor and residual; of x only without a token."""
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
            d_token = g
            ctx.link.leave(scale, gate)
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


def grid(vector: Tensor | None, x: Tensor) -> Tensor | None:
    """The vector as [N, C] in the dtype of the statistics, contiguous."""
    if vector is None:
        return None
    shape, dtype = x.shape[:2], backends.stats_dtype(x.dtype)
    if vector.shape != shape:  # torch takes its time for what there is not to do
        vector = vector.expand(shape)
    return vector.to(dtype).contiguous() if vector.dtype != dtype else vector.contiguous()


class InstanceMoments(Moments):
    """Mean and variance over *S of each example and channel, [N, C]; computed when first asked for."""

    __slots__ = ("_backend", "_found", "_link", "_x")

    def __init__(self, x: Tensor, backend: ModuleType, link: Link) -> None:
        self._x, self._backend, self._link = x, backend, link
        self._found: tuple[Tensor, Tensor, Tensor | None] | None = None

    def _computed(self) -> tuple[Tensor, Tensor, Tensor | None]:
        found = self._found
        if found is None:
            if self._backend is eager:
                found = (*eager.moments(self._x), None)
            else:
                found = TakeMoments.apply(self._x, self._backend, self._link)
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
