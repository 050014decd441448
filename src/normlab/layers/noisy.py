"""Noisy batch normalization: what it stabilizes is destabilized again, on purpose."""

from __future__ import annotations

import math
from typing import Literal, Unpack

import torch
from torch import Tensor

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import torch_kernels
from normlab.functional.backends import stats_dtype
from normlab.layers.base import NORMS, among
from normlab.layers.running import BatchLayer, BatchOptions


@NORMS.register("noisy")
class NoisyBatchNorm(BatchLayer):
    """Batch normalization followed, in training, by noise whose own distribution changes at every step.

        y = s · BN(x) + t,   t ~ U(m - spread, m + spread),   s ~ N(d, spread²)        for each value
                             m ~ U(-mean_range, mean_range),  d ~ U(1, scale_range)    for each step and channel

    In eval mode it is batch normalization. The noise comes from torch's generator of x's device; `noise` draws it.

    The paper leaves two things open, which are options here. The default is the usual reading of N(·, 0.1) in code, and
    of "unit" for convolutions.

    Args:
        num_features: C, the number of channels.
        mean_range: bound of m. scale_range: largest d, >= 1. spread: of the noise around m and d.
        spread_is: `spread` is the "std" of s, or its "variance"; of t it is half the width in either case.
        per: s and t are drawn for each "position" of each example, or once for each example and "channel".
        options: see `BatchOptions`.

    Raises:
        SpecError: ranges that are none; on a call in training, one value per channel.

    Source: Santurkar et al., NeurIPS 2018, arXiv:1805.11604, sec. 2.1 and appendix A; no code is public.
    """

    def __init__(
        self,
        num_features: int,
        *,
        mean_range: float = 0.5,
        scale_range: float = 1.25,
        spread: float = 0.1,
        spread_is: Literal["std", "variance"] = "std",
        per: Literal["position", "channel"] = "position",
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(num_features, **options)
        if mean_range < 0 or scale_range < 1 or spread < 0:
            raise SpecError(
                f"mean_range={mean_range}, scale_range={scale_range}, spread={spread} should be at least 0, 1 and 0, "
                "where there is no noise"
            )
        among("spread_is", spread_is, ("std", "variance"))
        among("per", per, ("position", "channel"))
        self.mean_range, self.scale_range, self.spread = mean_range, scale_range, spread
        self.spread_is, self.per = spread_is, per

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize x [N, C, *S]; with a residual, add it before the activation."""
        self.check(x, residual)
        y = F.normalize(x, lambda m: F.standardize(self.batch_moments(m), self.weight, self.bias, self.eps))
        if self.training:
            scale, shift = self.noise(x)
            y = torch.addcmul(shift, y, scale).to(x.dtype)
        return torch_kernels.finish(y, self.activation, residual)

    def noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Draw s and t for x [N, C, *S]: two tensors of its shape, or of [N, C, 1, ...] if drawn per channel."""
        dtype, ones = stats_dtype(x.dtype), [1] * (x.dim() - 2)
        channel = x.new_empty((1, x.shape[1], *ones), dtype=dtype)
        each = x if self.per == "position" else x.new_empty((*x.shape[:2], *ones))
        mean = torch.rand_like(channel) * (2 * self.mean_range) - self.mean_range
        center = 1 + torch.rand_like(channel) * (self.scale_range - 1)
        std = self.spread if self.spread_is == "std" else math.sqrt(self.spread)
        shift = mean + (torch.rand_like(each, dtype=dtype) * 2 - 1) * self.spread
        return center + torch.randn_like(each, dtype=dtype) * std, shift
