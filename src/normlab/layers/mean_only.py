"""Mean-only normalization: batch normalization that centers, and does not divide."""

from __future__ import annotations

from typing import ClassVar, Unpack

from torch import Tensor

from normlab import functional as F
from normlab.functional import Moments
from normlab.layers.base import NORMS, Norm
from normlab.layers.running import BatchLayer, BatchOptions


@NORMS.register("mean_only")
class MeanOnlyNorm(BatchLayer, Norm):
    """Subtract the mean of the batch from each channel, and add a bias; there is no weight.

        y = x - μ + β        μ = mean x over N and *S

    Args:
        num_features: C, the number of channels.
        options: see `BatchOptions`; `eps` and the options of the variance have nothing to act on.

    Source: Salimans and Kingma, arXiv:1602.07868, sec. 4, for use with weight normalization.
    """

    TRACKED: ClassVar[tuple[str, ...]] = ("running_mean",)

    def __init__(self, num_features: int, **options: Unpack[BatchOptions]) -> None:
        affine, options["affine"] = options.get("affine", True), False
        super().__init__(num_features, **options)
        self.affine = affine
        self.add_parameter("bias", (num_features,), 0.0, present=affine and options.get("bias", True))

    def affine_map(self, m: Moments) -> tuple[Tensor, Tensor]:
        """1, and β - μ."""
        if self.pools_batch(m):
            mean = F.pool_batch(m, self.group()).mean
            self.update(running_mean=mean)
        else:
            mean = self.running("running_mean")[None]
        return mean.new_ones(1, 1), -mean if self.bias is None else self.bias.to(mean.dtype) - mean
