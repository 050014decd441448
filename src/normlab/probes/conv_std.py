"""Standard deviation of a convolution's output, which is what a norm gets."""

from __future__ import annotations

from torch import Tensor

from normlab.probes.base import PROBES, Probe
from normlab.probes.spread import channel_variance


def conv_std(x: Tensor, *, channel: int = 1) -> Tensor:
    """The standard deviation of each channel over all other dimensions, unbiased; its mean over the channels.

    Args:
        x: output of a convolution [N, C, *S]. channel: dimension of C.

    Returns:
        [], in units of x; NaN for one value per channel.

    Source: Lubana et al., arXiv:2106.05956, and their code.
    """
    return channel_variance(x, channel).sqrt().mean()


@PROBES.register("conv_std")
def conv_std_probe() -> Probe:
    """`conv_std` of what a norm gets, or of what another layer gives."""
    return Probe("conv_std", "before", lambda at, x: conv_std(x, channel=at.channel))
