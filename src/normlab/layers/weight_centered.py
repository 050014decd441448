"""A convolution with centred kernels."""

from __future__ import annotations

from torch import Tensor

from normlab.layers.base import CONVS
from normlab.layers.convolution import PER_CHANNEL, NormalizedKernel


@CONVS.register("weight_centered")
class WeightCenteredConv2d(NormalizedKernel):
    """Take the mean out of each output channel's kernel, so that a constant offset of the input has no effect.

        W = V - mean V        over the fan-in of each output channel

    V is `weight`. Arguments, input and output are nn.Conv2d's.

    Raises:
        SpecError: arguments that make no convolution, or a fan-in of 1, for which W is 0.

    Source: Lubana et al., arXiv:2106.05956, authors' code (WCConv2d).
    """

    min_fan_in = 2

    def normalize(self, weight: Tensor) -> Tensor:
        """V less its mean."""
        return weight - weight.mean(PER_CHANNEL, keepdim=True)
