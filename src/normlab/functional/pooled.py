"""Batch and group normalization in closed form: moments pooled one way, so that autograd need not see the algebra."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from normlab.functional import backends
from normlab.functional.backends import Factors, Gate, eager
from normlab.functional.moments import Moments, pool, pool_batch, pool_groups, standardize
from normlab.functional.nodes import grid, laid_out, reopen
from normlab.functional.normalize import Activation, check_input, floor_of, normalize

BATCH = 0
"""In place of a number of groups: one set for each channel, across the batch."""


def normalize_pooled(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Moments]:
    """weight · (x - mean) / √(var + eps) + bias, with the moments of the batch or of groups of channels.

    Args:
        x: [N, C, *S].
        groups: number of groups of neighbouring channels, each with its moments in every example; or `BATCH`.
        weight: [C], bias: [C].
        activation, residual: as in `normalize`.

    Returns:
        y, and the pooled moments, [1, C] or [N, groups], not differentiated.
    """
    check_input(x, residual)
    backend, choice = backends.select(x)
    if backend is eager:
        return _composed(x, groups, weight, bias, eps, activation, residual)
    backends.note(choice)
    low = floor_of(activation, None, x.new_zeros((), dtype=backends.stats_dtype(x.dtype)))
    y, mean, var = _Pooled.apply(x, weight, bias, residual, None if low is None else grid(low, x), groups, eps, backend)
    return y, Moments(mean, var, _set_size(x, groups))


def _composed(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: Activation | None,
    residual: Tensor | None,
) -> tuple[Tensor, Moments]:
    pooled: list[Moments] = []

    def affine(m: Moments) -> tuple[Tensor, Tensor]:
        pooled.append(pool_batch(m) if groups == BATCH else pool_groups(m, groups))
        return standardize(pooled[0], weight, bias, eps)

    y = normalize(x, affine, activation=activation, residual=residual)
    return y, pooled[0].detach()


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        floor: Tensor | None,
        groups: int,
        eps: float,
        backend: ModuleType,
    ) -> tuple[Tensor, Tensor, Tensor]:
        means, variances = backend.moments(x)
        mean, var = _pool(means, variances, groups)
        rstd = torch.rsqrt(var + eps)
        scale, shift = _affine(mean, rstd, weight, bias, x)
        y = backend.scale_shift(x, scale, shift, floor, None if residual is None else laid_out(residual, x))
        kept = y if residual is not None and floor is not None else None
        ctx.save_for_backward(x, weight, bias, mean, rstd, floor, kept)
        ctx.groups, ctx.eps, ctx.backend, ctx.has_residual = groups, eps, backend, residual is not None
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd, floor, y = ctx.saved_tensors
        g = laid_out(grads[0], x)
        g = g if y is None else reopen(g, y, floor)
        d_residual = g if ctx.has_residual else None
        if torch.is_grad_enabled():  # a second derivative will be asked for
            relu = "relu" if floor is not None and y is None else None
            d_x, d_weight, d_bias = _composed_gradients(g, x, weight, bias, ctx.groups, ctx.eps, relu)
            return d_x, d_weight, d_bias, d_residual, None, None, None, None
        scale, shift = _affine(mean, rstd, weight, bias, x)
        gate = None if floor is None or y is not None else Gate(scale, shift, floor)
        center = _spread(mean, x)
        total, about, _ = ctx.backend.grad_sums(g, x, center, gate)
        d_weight = None if weight is None else (about * _spread(rstd, x)).sum(0).to(weight.dtype)
        d_bias = None if bias is None else total.sum(0).to(bias.dtype)
        d_x = None
        if ctx.needs_input_grad[0]:
            slope, offset = _pull_back(total, about, weight, rstd, ctx.groups, _set_size(x, ctx.groups))
            d_x = ctx.backend.grad_input(g, x, Factors(scale, _spread(slope, x), center, _spread(offset, x)), gate)
        return d_x, d_weight, d_bias, d_residual, None, None, None, None


def _composed_gradients(
    g: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float,
    activation: Activation | None,
) -> list[Tensor | None]:
    # aliases: one input may depend on another, and its part of the gradient is the outer graph's to add
    x = x.view_as(x)
    weight, bias = (None if v is None else v.view_as(v) for v in (weight, bias))
    inputs = [v for v in (x, weight, bias) if v is not None and v.requires_grad]
    with backends.use_backend("eager"):
        y, _ = _composed(x, groups, weight, bias, eps, activation, None)
    found = iter(torch.autograd.grad(y, inputs, g, create_graph=True))
    return [next(found) if v is not None and v.requires_grad else None for v in (x, weight, bias)]


def _pull_back(
    total: Tensor, about: Tensor, weight: Tensor | None, rstd: Tensor, groups: int, count: int
) -> tuple[Tensor, Tensor]:
    """(slope, offset) of ∂L/∂x = scale·g + slope·(x - mean) + offset: Eq. 12 of Davis and Frank."""
    if weight is not None:
        total, about = total * weight, about * weight
    if groups == BATCH:
        total, about = total.sum(0, keepdim=True), about.sum(0, keepdim=True)
    else:
        total, about = (v.reshape(*rstd.shape, -1).sum(2) for v in (total, about))
    return about * rstd**3 / -count, total * rstd / -count


def _pool(means: Tensor, variances: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    if groups == BATCH:
        m = pool(Moments(means, variances, 1), 0)
        return m.mean, m.var
    shape = (means.shape[0], groups, means.shape[1] // groups)
    m = pool(Moments(means.reshape(shape), variances.reshape(shape), 1), 2)
    return m.mean[:, :, 0], m.var[:, :, 0]


def _affine(mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
    scale, mean = _spread(rstd, x), _spread(mean, x)
    if weight is not None:
        scale = scale * weight.to(scale.dtype)
    shift = -mean * scale if bias is None else torch.addcmul(bias.to(scale.dtype), mean, scale, value=-1)
    return scale, shift


def _spread(pooled: Tensor, x: Tensor) -> Tensor:
    """[1, C] or [N, groups] → [N, C], contiguous."""
    n, c = x.shape[:2]
    if pooled.shape[0] == 1 and pooled.shape[1] == c:
        return pooled.expand(n, c).contiguous()
    return pooled[:, :, None].expand(n, pooled.shape[1], c // pooled.shape[1]).reshape(n, c)


def _set_size(x: Tensor, groups: int) -> int:
    return x.numel() // (x.shape[1] if groups == BATCH else x.shape[0] * groups)
