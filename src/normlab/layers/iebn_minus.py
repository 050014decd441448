"""IEBN without its pooling: a gate that is the same for every example."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn

from normlab import functional as F
from normlab.functional import Moments
from normlab.layers.base import NORMS, Norm
from normlab.layers.running import BatchLayer, BatchOptions


@NORMS.register("iebn_minus")
class IEBNMinus(BatchLayer, Norm):
    """Batch normalization times a gate per channel, sigmoid(b_g) with b_g = `gate_bias`, initially -1.

        y = γ sigmoid(b_g) x̂ + β

    Args:
        num_features: C, the number of channels.
        options: see `BatchOptions`.

    Source: Davis and Frank, arXiv:2110.13989, sec. 4: what is left of IEBN without the pooling.
    """

    gate_bias: nn.Parameter

    def __init__(self, num_features: int, **options: Unpack[BatchOptions]) -> None:
        super().__init__(num_features, **options)
        self.add_parameter("gate_bias", (num_features,), -1.0)

    def affine_map(self, m: Moments) -> tuple[Tensor, Tensor]:
        """γ s / σ, and β - μ γ s / σ."""
        pooled = self.batch_moments(m)
        gate = self.gate_bias.to(pooled.mean.dtype).sigmoid()
        weight = gate if self.weight is None else gate * self.weight.to(gate.dtype)
        return F.standardize(pooled, weight, self.bias, self.eps)
