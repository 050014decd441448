"""Instance Enhancement BatchNorm: batch normalization whose scale each example adjusts."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from normlab import functional as F
from normlab.functional import Moments
from normlab.layers.base import NORMS, Norm
from normlab.layers.running import BatchLayer, BatchOptions


@NORMS.register("iebn")
class InstanceEnhancementBatchNorm(BatchLayer, Norm):
    """Batch normalization times a gate that sees the mean of each channel of each example.

        y = γ sigmoid(w_g G(x) + b_g) x̂ + β

    G is the mean over *S, w_g is `gate_weight` (initially 0), b_g is `gate_bias` (-1, so that the scale starts at
    0.269).

    Args:
        num_features: C, the number of channels.
        options: see `BatchOptions`.

    Source: Liang et al., AAAI 2020, arXiv:1908.04008, and their code, whose batch counter never counts; this one does.
    """

    gate_weight: nn.Parameter
    gate_bias: nn.Parameter

    def __init__(self, num_features: int, **options: Unpack[BatchOptions]) -> None:
        super().__init__(num_features, **options)
        self.add_parameter("gate_weight", (num_features,), 0.0)
        self.add_parameter("gate_bias", (num_features,), -1.0)

    def affine_map(self, m: Moments) -> tuple[Tensor, Tensor]:
        """γ s / σ, and β - μ γ s / σ."""
        dtype = m.mean.dtype
        gate = torch.addcmul(self.gate_bias.to(dtype), m.mean, self.gate_weight.to(dtype)).sigmoid()
        weight = gate if self.weight is None else gate * self.weight.to(dtype)
        return F.standardize(self.batch_moments(m), weight, self.bias, self.eps)
