"""A convolution with standardized kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from normlab.layers.base import CONVS
from normlab.layers.convolution import (
    STD_MODES,
    NormalizedKernel,
    Padding,
    PaddingMode,
    Size,
    StdMode,
    check_eps,
    standardize,
)


@CONVS.register("weight_standardized")
class WeightStandardizedConv2d(NormalizedKernel):
    """Give each output channel's kernel mean 0 and variance 1.

        W = (V - μ) / √(σ² + eps)        μ = mean V, σ² = mean (V - μ)² over the fan-in of each output channel

    V is `weight`. Positional arguments, input and output are nn.Conv2d's.

    Args:
        eps: added to σ² under the root.
        eps_mode: "root" as above, or "std" for (V - μ) / (σ + eps).

    Raises:
        SpecError: arguments that make no convolution, an eps below 0, or a fan-in of 1, for which W is 0.
        UnknownName: no such eps_mode.

    Source: Qiao et al., arXiv:1903.10520, sec. 2; eps as in timm's StdConv2d.
    """

    min_fan_in = 2
    own_options = ("eps", "eps_mode")

    def __init__(  # noqa: PLR0917 (torch's, and ours)
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        eps: float = 1e-6,
        eps_mode: StdMode = "root",
    ) -> None:
        check_eps(eps, eps_mode, STD_MODES)
        shape = in_channels, out_channels, kernel_size, stride, padding, dilation, groups
        super().__init__(*shape, bias, padding_mode, device, dtype)
        self.eps = eps
        self.eps_mode: StdMode = eps_mode

    def normalize(self, weight: Tensor) -> Tensor:
        """V less its mean, over its standard deviation."""
        return standardize(weight, self.eps, self.eps_mode)
