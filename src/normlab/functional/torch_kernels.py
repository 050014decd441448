"""torch's own normalization kernels, where they are the fastest: small tensors, and types our backends do not take."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from normlab.functional import backends
from normlab.functional.moments import Moments
from normlab.functional.normalize import Activation

FEW = 1 << 17
"""Fewer values than this are normalized faster by one call of torch's than by several of ours."""


def preferred(x: Tensor, *, at_any_size: bool = False) -> bool:
    """Should torch's kernel normalize x? Never where a backend was asked for or torch is tracing; notes it, if so."""
    if backends.forced() is not None or backends.traced(x) is not None:
        return False
    if at_any_size:
        reason = "one pass over x, which torch's kernel does as fast"
    elif x.numel() < FEW:
        reason = f"{x.numel()} values, fewer than {FEW}"
    else:
        refused = backends.refusal("triton" if x.is_cuda else "numba", x)
        if refused is None:
            return False
        reason = refused
    backends.note(backends.Choice("torch", reason))
    return True


def batch_norm(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    share: float,
    eps: float,
    *,
    training: bool,
) -> Tensor:
    """Normalize by the moments of the batch, and average them into `mean` and `var`; or by these, if not training."""
    dtype = backends.stats_dtype(x.dtype)
    weight, bias = (None if p is None else p.to(dtype) for p in (weight, bias))
    return F.batch_norm(x, mean, var, weight, bias, training, share, eps)


def batch_norm_and_moments(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Moments]:
    """Normalize by the moments of the batch; these too, [1, C]."""
    c = x.shape[1]
    count = x.numel() // c
    mean, var = x.new_zeros(2, c, dtype=backends.stats_dtype(x.dtype))
    y = batch_norm(x, mean, var, weight, bias, 1.0, eps, training=True)
    return y, Moments(mean[None], var[None] * ((count - 1) / count), count)


def group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalize by the moments of groups of channels."""
    dtype = backends.stats_dtype(x.dtype)
    weight, bias = (None if p is None else p.to(dtype) for p in (weight, bias))
    return F.group_norm(x, groups, weight, bias, eps)


def finish(y: Tensor, activation: Activation | None, residual: Tensor | None) -> Tensor:
    """What our backends do in the same pass."""
    if residual is not None:
        y = y + residual
    return y if activation is None else y.relu()
