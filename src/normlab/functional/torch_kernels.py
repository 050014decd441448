"""torch's own normalization kernels, where they are the fastest: small tensors, and types our backends do not take."""

from __future__ import annotations

import sys
from typing import Literal

import torch
from torch import Tensor

from normlab.functional import backends
from normlab.functional.moments import Moments
from normlab.functional.normalize import Activation

Kind = Literal["batch", "running", "group", "instance"]
_ANY = sys.maxsize
_FEW: dict[str, tuple[int, int]] = {
    "batch": (3 << 19, 6 << 20),
    "running": (_ANY, _ANY),
    "group": (_ANY, 10 << 20),
    "instance": (_ANY, 1 << 18),
}
"""Fewer values than this are normalized faster by torch's kernel on a CPU, if they are contiguous or channels_last.

Where the medians of both cross, on two cores of a Xeon, torch 2.13. Running moments take one pass, which torch does as
fast, and the same to the last bit as torch's own layer.
"""
_FEW_FUSED = 1 << 20  # torch needs further passes for an activation or a residual
_FEW_ON_GPU = 1 << 17


def preferred(x: Tensor, kind: Kind, *, fused: bool) -> bool:
    """Should torch's kernel normalize x? Never where a backend was asked for or torch is tracing; notes it, if so.

    Args:
        kind: by what moments.
        fused: an activation or a residual follow, which our passes do at no cost.
    """
    if backends.forced() is not None or backends.traced(x) is not None:
        return False
    few = _FEW_ON_GPU if x.is_cuda else _FEW[kind][not x.is_contiguous()]
    few = min(few, _FEW_FUSED) if fused else few
    if x.numel() < few:  # first, since asking the others loads them
        reason = f"{x.numel()} values, fewer than {few}" if few < _ANY else "its kernel is the fastest at any size"
    elif x.dim() == 2:
        reason = "[N, C] has no positions to take moments over"
    else:
        reason = backends.refusal("triton" if x.is_cuda else "numba", x)
    if reason is None:
        return False
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
    # not through torch.nn.functional, whose checks every layer has made, and which cost a fifth of a small layer's time
    weight, bias = _as_stats(weight, x), _as_stats(bias, x)
    return torch.batch_norm(x, weight, bias, mean, var, training, share, eps, torch.backends.cudnn.enabled)


def batch_norm_and_moments(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Moments]:
    """Normalize by the moments of the batch; these too, [1, C]."""
    c = x.shape[1]
    count = x.numel() // c
    mean, var = x.new_zeros(2, c, dtype=backends.stats_dtype(x.dtype))
    y = batch_norm(x, mean, var, weight, bias, 1.0, eps, training=True)
    return y, Moments(mean[None], var[None] * ((count - 1) / count), count)


def group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalize by the moments of groups of channels."""
    return torch.group_norm(x, groups, _as_stats(weight, x), _as_stats(bias, x), eps, torch.backends.cudnn.enabled)


def _as_stats(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    if parameter is None or parameter.dtype == x.dtype == torch.float32:
        return parameter
    return parameter.to(backends.stats_dtype(x.dtype))


def finish(y: Tensor, activation: Activation | None, residual: Tensor | None) -> Tensor:
    """What our backends do in the same pass."""
    if residual is not None:
        y = y + residual
    return y if activation is None else y.relu()
