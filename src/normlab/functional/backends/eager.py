"""The reference: composed torch operations, differentiable any number of times, and what torch's tracers see."""

from __future__ import annotations

import torch
from torch import Tensor

from normlab.functional.backends import Factors, Gate, stats_dtype


def refuses(x: Tensor) -> str | None:
    """Never: every tensor can be composed."""
    del x


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over *S: [N, C, *S] → [N, C], [N, C]."""
    if x.dim() == 2:
        mean = x.to(stats_dtype(x.dtype))
        return mean, torch.zeros_like(mean)
    var, mean = torch.var_mean(x.to(stats_dtype(x.dtype)), tuple(range(2, x.dim())), correction=0)
    return mean, var


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor, floor: Tensor | None, residual: Tensor | None) -> Tensor:
    """max(scale·x + shift + residual, floor), in x's dtype and layout."""
    y = torch.addcmul(wide(shift, x), x.to(scale.dtype), wide(scale, x))
    if residual is not None:
        y = y + residual
    if floor is not None:
        floor = wide(floor, x)
        y = torch.where(y <= floor, floor, y)
    return y.to(x.dtype)


def grad_sums(g: Tensor, x: Tensor, center: Tensor, gate: Gate | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Σ g′, Σ g′·(x - center) and, with a gate, Σ (g - g′), each [N, C]."""
    dims = tuple(range(2, x.dim()))
    g, x = g.to(center.dtype), x.to(center.dtype)
    passed = g if gate is None else gated(g, x, gate)
    stopped = None if gate is None else _sum(g - passed, dims)
    return _sum(passed, dims), _sum(passed * (x - wide(center, x)), dims), stopped


def grad_input(g: Tensor, x: Tensor, factors: Factors, gate: Gate | None) -> Tensor:
    """scale·g′ + slope·(x - center) + offset, in x's dtype."""
    scale, slope, center, offset = (wide(factor, x) for factor in factors)
    wider = x.to(scale.dtype)
    passed = g.to(scale.dtype) if gate is None else gated(g.to(scale.dtype), wider, gate)
    return (scale * passed + slope * (wider - center) + offset).to(x.dtype)


def gated(g: Tensor, x: Tensor, gate: Gate) -> Tensor:
    """g where scale·x + shift > floor, else 0."""
    scale, shift, floor = (wide(part, x) for part in gate)
    return g.masked_fill(torch.addcmul(shift, x, scale) <= floor, 0)


def wide(vector: Tensor, x: Tensor) -> Tensor:
    """[N, C] → [N, C, 1, ...], to go with x."""
    return vector.reshape(*vector.shape, *[1] * (x.dim() - 2))


def _sum(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    return values.sum(dims) if dims else values
