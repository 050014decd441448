"""Weight Normalization: a convolution with the length and the direction of its kernels apart."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from normlab.errors import SpecError
from normlab.layers.base import CONVS
from normlab.layers.convolution import (
    PER_CHANNEL,
    NormalizedKernel,
    Padding,
    PaddingMode,
    Size,
    check_eps,
    widen,
)

EpsMode = Literal["root", "norm"]
EPS_MODES: tuple[EpsMode, ...] = get_args(EpsMode)


@CONVS.register("weight_norm")
class WeightNormConv2d(NormalizedKernel):
    """Give each output channel's kernel a learned length.

        W = g V / √(|V|² + eps)        |V|² = Σ V² over the fan-in of each output channel

    V is `weight`, g is `gain` [out_channels]. Positional arguments, input and output are nn.Conv2d's. The defaults are
    torch's `parametrizations.weight_norm`; Beyond BatchNorm's layer is
    `weight_norm(eps=1e-5, eps_mode="norm", initial_gain=1.0)`.

    Args:
        eps: added under the root. With 0 a kernel of zeros gives NaN, as in torch.
        eps_mode: "root" as above, or "norm" for g V / (|V| + eps).
        initial_gain: initial value of g; None for the denominator, |V|, so that W is V at first.

    Raises:
        SpecError: arguments that make no convolution, an eps below 0, an initial gain that is not finite.
        UnknownName: no such eps_mode.

    Source: Salimans and Kingma, arXiv:1602.07868, sec. 2; Lubana et al., arXiv:2106.05956, authors' code (WN_self).
    """

    own_options = ("eps", "eps_mode", "initial_gain")

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
        eps: float = 0.0,
        eps_mode: EpsMode = "root",
        initial_gain: float | None = None,
    ) -> None:
        check_eps(eps, eps_mode, EPS_MODES)
        if initial_gain is not None and not math.isfinite(initial_gain):
            raise SpecError(f"initial_gain={initial_gain} should be a number, or None to start from W = V")
        shape = in_channels, out_channels, kernel_size, stride, padding, dilation, groups
        super().__init__(*shape, bias, padding_mode, device, dtype)
        self.eps = eps
        self.eps_mode: EpsMode = eps_mode
        self.initial_gain = initial_gain
        self.gain = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        self.reset_gain()

    def reset_parameters(self) -> None:
        """Put parameters back to what a new layer has: V and bias as in nn.Conv2d, then the gain."""
        super().reset_parameters()
        if "gain" in self._parameters:  # not yet when torch's constructor calls
            self.reset_gain()

    def reset_gain(self) -> None:
        """Give the gain its initial value; with `initial_gain=None` after V was changed, so that W is V again."""
        with torch.no_grad():
            if self.initial_gain is None:
                self.gain.copy_(self._length(widen(self.weight)).flatten())
            else:
                self.gain.fill_(self.initial_gain)

    def normalize(self, weight: Tensor) -> Tensor:
        """V over its length, times the gain."""
        return weight * (self.gain.to(weight.dtype).view(-1, 1, 1, 1) / self._length(weight))

    def _length(self, weight: Tensor) -> Tensor:
        if self.eps_mode == "norm":
            return torch.linalg.vector_norm(weight, dim=PER_CHANNEL, keepdim=True) + self.eps
        return torch.sqrt(weight.square().sum(PER_CHANNEL, keepdim=True) + self.eps)
