"""Variance Normalization: batch normalization that does not center."""

from __future__ import annotations

from typing import ClassVar, Unpack

import torch
from torch import Tensor

from normlab import functional as F
from normlab.functional import Moments
from normlab.layers.base import NORMS, Norm
from normlab.layers.running import BatchLayer, BatchOptions


@NORMS.register("variance")
class VarianceNorm(BatchLayer, Norm):
    """Divide each channel by the standard deviation of the batch; the mean stays where it is.

        y = γ x / √(σ² + eps) + β        σ² = mean (x - μ)² over N and *S

    Args:
        num_features: C, the number of channels.
        options: see `BatchOptions`.

    Source: Daneshmand et al., arXiv:2003.01652, as used by Lubana et al., arXiv:2106.05956.
    """

    TRACKED: ClassVar[tuple[str, ...]] = ("running_var",)

    def __init__(self, num_features: int, **options: Unpack[BatchOptions]) -> None:
        super().__init__(num_features, **options)

    def affine_map(self, m: Moments) -> tuple[Tensor, Tensor]:
        """γ / σ, and β."""
        if self.pools_batch(m):
            pooled = F.pool_batch(m, self.group())
            self.update(running_var=self.to_store(pooled))
            var = pooled.var
        else:
            var = self.running("running_var")[None]
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight.to(scale.dtype)
        return scale, scale.new_zeros(1, 1) if self.bias is None else self.bias.to(scale.dtype)[None]
