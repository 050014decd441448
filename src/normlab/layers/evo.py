"""What the EvoNorms share: a last step that is more than scale and shift, in one pass forward and one backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from normlab import functional as F
from normlab.functional import Moments, backends
from normlab.functional.backends import eager
from normlab.functional.nodes import InstanceMoments, Link, laid_out
from normlab.functional.normalize import check_input, check_vector, full_precision
from normlab.layers.base import Layer

Formula = Callable[..., Tensor]


def swish(x: Tensor, scale: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    """scale · x · sigmoid(slope·x) + shift."""
    return torch.addcmul(shift, scale * x, (slope * x).sigmoid())


def ratio(x: Tensor, scale: Tensor, slope: Tensor, shift: Tensor, low: Tensor, rise: Tensor) -> Tensor:
    """scale · x / max(slope·x + rise, low) + shift."""
    return torch.addcdiv(shift, scale * x, torch.addcmul(rise, slope, x).clamp(min=low))


def transform(x: Tensor, formula: Formula, algebra: Callable[[Moments], tuple[Tensor, ...]]) -> Tensor:
    """y = formula(x, *vectors), where vectors = algebra(moments of x over *S): `normalize` for other last steps.

    Args:
        x: [N, C, *S]; floating point.
        formula: `swish` or `ratio`.
        algebra: gets the instance moments [N, C], gives the vectors that the formula takes, each of a shape that
            broadcasts to [N, C].

    Returns:
        y of the shape, dtype and layout of x.
    """
    check_input(x)
    backend, choice = backends.select(x)
    backends.note(choice)
    link = Link()
    moments = InstanceMoments(x, backend, link)
    with full_precision(x):
        vectors = algebra(moments)
    if backend.__name__.endswith("numba"):
        _, token = moments.taken()
        stacked = torch.stack([v.expand(x.shape[:2]) for v in vectors])
        return _Last.apply(x if token is None else x.detach(), token, stacked, formula, link)
    wide = (eager.wide(check_vector(v, "vector", x), x) for v in vectors)
    return formula(x.to(backends.stats_dtype(x.dtype)), *wide).to(x.dtype)


def affine_vectors(layer: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's weight and bias as [1, C] in the dtype of x's statistics; 1 and 0 where it has none."""
    dtype, c = backends.stats_dtype(x.dtype), layer.num_features
    weight = x.new_ones(1, c, dtype=dtype) if layer.weight is None else layer.weight.to(dtype)[None]
    bias = x.new_zeros(1, c, dtype=dtype) if layer.bias is None else layer.bias.to(dtype)[None]
    return weight, bias


def affine_only(layer: Layer, x: Tensor) -> Tensor:
    """weight · x + bias."""
    return F.normalize(x, lambda _: affine_vectors(layer, x))


class _Last(torch.autograd.Function):
    """x, stacked vectors → y. With a token, x's gradient is left to the node that took the moments."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor | None, vectors: Tensor, formula: Formula, link: Link) -> Tensor:
        ctx.save_for_backward(x, vectors)
        ctx.deferred, ctx.formula, ctx.link = token is not None, formula, link
        y = torch.empty_like(x)
        _run(formula.__name__, [x], vectors, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, vectors = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative will be asked for: compose, and keep the way back to x
            x = ctx.link.source().saved_tensors[0] if ctx.deferred else x
            e, d_vectors = _composed_gradients(grads[0], x, vectors, ctx.formula)
        else:
            e, d_vectors = torch.empty_like(x), torch.empty_like(vectors)
            _run(f"{ctx.formula.__name__}_back", [laid_out(grads[0], x), x], vectors, e, d_vectors)
        if not ctx.deferred:
            return e, None, d_vectors, None, None
        ctx.link.leave(torch.ones_like(vectors[0]), None)
        return None, e, d_vectors, None, None


def _composed_gradients(g: Tensor, x: Tensor, vectors: Tensor, formula: Formula) -> list[Tensor | None]:
    # of the formula alone, so through copies: the vectors themselves are made of x
    inputs = [x.view_as(x), vectors.view_as(vectors)]
    y = formula(inputs[0], *(eager.wide(v, x) for v in inputs[1]))
    found = iter(torch.autograd.grad(y, [v for v in inputs if v.requires_grad], g, create_graph=True))
    return [next(found) if v.requires_grad else None for v in inputs]


def _run(name: str, whole: list[Tensor], vectors: Tensor, out: Tensor, sums: Tensor | None = None) -> None:
    """Call the loop of this name for the layout that `whole` and `out` have."""
    from normlab.functional.backends import evo_loops
    from normlab.functional.backends import numba as cpu

    rows = cpu.is_rows(out)
    big = cpu.as_rows if rows else cpu.as_columns
    arguments = [*map(big, whole), _array(vectors, rows), big(out)]
    if sums is not None:
        arguments += [_array(sums, rows), *([] if rows else [cpu.channel_blocks(out)])]
    cpu.run(getattr(evo_loops, f"{name}_{'rows' if rows else 'columns'}"), *arguments)


def _array(vectors: Tensor, rows: bool) -> Any:
    array = vectors.detach().numpy()
    return array.reshape(len(array), -1) if rows else array
