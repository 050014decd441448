"""Activation variance: does the signal grow or die with depth?"""

from __future__ import annotations

from torch import Tensor

from normlab.probes.base import PROBES, Probe
from normlab.probes.spread import channel_variance


def activation_variance(x: Tensor, *, channel: int = 1) -> Tensor:
    """The variance of each channel over all other dimensions, unbiased; its mean over the channels.

    Args:
        x: activations [N, C, *S], after the nonlinearity where it is to count. channel: dimension of C.

    Returns:
        [], in units of x²; NaN for one value per channel.

    Source: Lubana et al., arXiv:2106.05956, and their code.
    """
    return channel_variance(x, channel).mean()


@PROBES.register("activation_variance")
def activation_variance_probe() -> Probe:
    """`activation_variance` of what leaves the layer."""
    return Probe("activation_variance", "after", lambda at, x: activation_variance(x, channel=at.channel))
