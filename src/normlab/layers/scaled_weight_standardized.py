"""A convolution with standardized kernels, scaled to keep the variance of activations."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, UnknownName
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

Activation = Literal["relu", "relu_timm", "identity"]
CONSTANTS: dict[Activation, float] = {
    "relu": math.sqrt(2 * math.pi / (math.pi - 1)),
    "relu_timm": 1.7139588594436646,
    "identity": 1.0,
}


@CONVS.register("scaled_weight_standardized")
class ScaledWeightStandardizedConv2d(NormalizedKernel):
    """Standardize each output channel's kernel and scale it so that activations keep variance 1.

        W = g c / √fan_in (V - μ) / √(σ² + eps)    μ = mean V, σ² = mean (V - μ)² over the fan-in of each output channel

    V is `weight`, g is `gain` [out_channels], initially 1. c undoes what the activation function before the layer
    does to the variance: 1 / c² is the variance of relu(x) for x ~ N(0, 1), so that outputs, too, have variance 1.
    Positional arguments, input and output are nn.Conv2d's.

    Args:
        eps: added to σ² under the root.
        eps_mode: "root" as above, or "std" for σ + eps in place of the root (Beyond BatchNorm, with eps=1e-5).
        constant: c, as a number > 0 or by name: "relu" is √(2π / (π - 1)) = 1.71286, "relu_timm" is the
            1.71396 that timm measured, "identity" is 1 (no activation function before, or timm's default gamma).

    Raises:
        SpecError: arguments that make no convolution, an eps below 0, a constant not above 0, or a fan-in of 1, for
            which W is 0.
        UnknownName: no such eps_mode or constant.

    Source: Brock et al., arXiv:2101.08692, sec. 3.2 and 4; eps as in timm's ScaledStdConv2d.
    """

    min_fan_in = 2
    own_options = ("eps", "eps_mode", "constant")

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
        constant: float | Activation = "relu",
    ) -> None:
        check_eps(eps, eps_mode, STD_MODES)
        c = _number(constant)
        shape = in_channels, out_channels, kernel_size, stride, padding, dilation, groups
        super().__init__(*shape, bias, padding_mode, device, dtype)
        self.eps = eps
        self.eps_mode: StdMode = eps_mode
        self.constant: float | Activation = constant
        self.factor = c / math.sqrt(self.fan_in)
        self.gain = nn.Parameter(torch.ones(out_channels, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Put parameters back to what a new layer has: V and bias as in nn.Conv2d, gain 1."""
        super().reset_parameters()
        if "gain" in self._parameters:  # not yet when torch's constructor calls
            nn.init.ones_(self.gain)

    def normalize(self, weight: Tensor) -> Tensor:
        """V standardized, times g c / √fan_in."""
        gain = (self.gain.to(weight.dtype) * self.factor).view(-1, 1, 1, 1)
        return gain * standardize(weight, self.eps, self.eps_mode)


def _number(constant: float | str) -> float:
    if isinstance(constant, str):
        if constant not in CONSTANTS:
            raise UnknownName("constant", constant, CONSTANTS)
        return CONSTANTS[constant]
    if not (constant > 0 and math.isfinite(constant)):
        raise SpecError(f"constant={constant} should be a number > 0, or one of {', '.join(sorted(CONSTANTS))}")
    return constant
