"""Representative BatchNorm: batch normalization with a centering and a scaling that each example calibrates."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from normlab.functional import Moments
from normlab.layers.base import NORMS, Norm
from normlab.layers.running import BatchLayer, BatchOptions


@NORMS.register("rbn")
class RepresentativeBatchNorm(BatchLayer, Norm):
    """Batch normalization whose center and scale are calibrated by the means of each example.

        x' = x + w_c G(x),   x̂ = (x' - μ') / √(σ'² + eps),   y = γ sigmoid(w_g G(x̂) + b_g) x̂ + β

    G is the mean over *S; μ', σ'² are moments of the batch of x'. w_c is `center_weight` (initially 0), w_g is
    `gate_weight` (0), b_g is `gate_bias` (1). The input is left as it is; the authors' code writes x' into it.

    Args:
        num_features: C, the number of channels.
        center: False leaves the centering out, as Davis and Frank do in their comparison.
        options: see `BatchOptions`.

    Source: Gao et al., CVPR 2021, and their code.
    """

    center_weight: nn.Parameter | None
    gate_weight: nn.Parameter
    gate_bias: nn.Parameter

    def __init__(self, num_features: int, *, center: bool = True, **options: Unpack[BatchOptions]) -> None:
        super().__init__(num_features, **options)
        self.center = center
        self.add_parameter("center_weight", (num_features,), 0.0, present=center)
        self.add_parameter("gate_weight", (num_features,), 0.0)
        self.add_parameter("gate_bias", (num_features,), 1.0)

    def affine_map(self, m: Moments) -> tuple[Tensor, Tensor]:
        """γ s / σ' and what goes with it."""
        dtype = m.mean.dtype
        moved = m
        if self.center_weight is not None:
            moved = Moments(torch.addcmul(m.mean, m.mean, self.center_weight.to(dtype)), m.var, m.count)
        pooled = self.batch_moments(moved)
        rstd = torch.rsqrt(pooled.var + self.eps)
        off = moved.mean - pooled.mean
        gate = torch.addcmul(self.gate_bias.to(dtype), off * rstd, self.gate_weight.to(dtype)).sigmoid()
        scale = gate * rstd if self.weight is None else gate * (rstd * self.weight.to(dtype))
        # scale·x' + … in terms of x: what the centering adds to x is the same in a whole map
        shift = (off - m.mean) * scale
        return scale, shift if self.bias is None else shift + self.bias.to(dtype)
