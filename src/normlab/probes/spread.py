"""Variances of activations, by two passes: `torch.var` takes as long as twenty copies of them on a CPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normlab.probes.base import wide


def centered(x: Tensor, dims: list[int], correction: int = 0) -> tuple[Tensor, Tensor]:
    """x less its mean over these dimensions, and its variance over them, in which they have size 1.

    Args:
        x: in float32 or wider. correction: what the number of values is lessened by.
    """
    if not dims:
        return torch.zeros_like(x), torch.zeros_like(x)
    off = x - x.mean(dims, keepdim=True)
    values = math.prod(x.shape[dim] for dim in dims)
    return off, off.square().sum(dims, keepdim=True) / (values - correction)


def channel_variance(x: Tensor, channel: int) -> Tensor:
    """The unbiased variance of each channel over all other dimensions; NaN for one value per channel."""
    kept = channel % x.dim()
    if x.numel() < 2 * x.shape[kept]:
        return wide(x).new_full((x.shape[kept],), float("nan"))
    return centered(wide(x), [dim for dim in range(x.dim()) if dim != kept], 1)[1]
