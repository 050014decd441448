"""What the convolutions share: their registry, a Conv2d whose kernel is computed, and functions of kernels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, UnknownName
from normlab.functional.backends import stats_dtype

Size = int | tuple[int, int]
Padding = int | tuple[int, int] | Literal["valid", "same"]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
StdMode = Literal["root", "std"]
STD_MODES: tuple[StdMode, ...] = get_args(StdMode)

PER_CHANNEL = (1, 2, 3)
"""Of a kernel [out_channels, in_channels / groups, kh, kw]: all that one output channel sums over."""


class Convolution(nn.Conv2d):
    """torch's Conv2d, with errors that say what came and a repr that evaluates back."""

    own_options: ClassVar[tuple[str, ...]] = ()
    """Attributes that hold the keyword-only arguments of the class."""

    min_fan_in: ClassVar[int] = 1
    """Least number of values per output channel that make sense."""

    def __init__(  # noqa: PLR0917 (torch's)
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
    ) -> None:
        shape = in_channels, out_channels, kernel_size, stride, padding, dilation, groups
        try:
            super().__init__(*shape, bias, padding_mode, device, dtype)
            if self.fan_in < self.min_fan_in:
                raise ValueError("fan-in 1, and one value less its mean is 0: use fewer groups or a larger kernel")
        except ValueError as error:
            came = ", ".join(repr(value) for value in (*shape, bias, padding_mode))
            raise SpecError(f"{type(self).__name__}({came}), in the order of nn.Conv2d: {error}") from None

    @property
    def fan_in(self) -> int:
        """Input values that one output value is computed from: in_channels / groups * kh * kw."""
        return self.in_channels // self.groups * math.prod(self.kernel_size)

    def extra_repr(self) -> str:
        """The constructor's arguments, so that the repr evaluates to a new layer like this one."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        defaults = {"padding": (0, 0), "dilation": (1, 1), "groups": 1, "padding_mode": "zeros"}
        shown = {name: getattr(self, name) for name, default in defaults.items() if getattr(self, name) != default}
        if self.bias is None:
            shown["bias"] = False
        shown |= {name: getattr(self, name) for name in self.own_options}
        return ", ".join([text, *(f"{name}={value!r}" for name, value in shown.items())])


class NormalizedKernel(Convolution, ABC):
    """A convolution by a kernel W that is a function of the stored weight V; see `effective_weight`.

    Input [N, Ci, H, W] or [Ci, H, W], output as nn.Conv2d's.
    """

    @abstractmethod
    def normalize(self, weight: Tensor) -> Tensor:
        """W from V, both [out_channels, in_channels / groups, kh, kw] and of one dtype, float32 or wider."""

    def effective_weight(self) -> Tensor:
        """The kernel that is convolved with: normalized in float32 or wider, then of the weight's dtype again."""
        return self.normalize(widen(self.weight)).to(self.weight.dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve the input with the effective weight."""
        return self._conv_forward(input, self.effective_weight(), self.bias)


def widen(x: Tensor) -> Tensor:
    """x in float32, or in its own dtype where that is wider: what statistics are computed in."""
    return x.to(stats_dtype(x.dtype))


def standardize(weight: Tensor, eps: float, eps_mode: StdMode) -> Tensor:
    """Every output channel of a kernel less its mean, over √(σ² + eps) ("root") or σ + eps ("std"); σ is biased."""
    if eps_mode == "std":
        std, mean = torch.std_mean(weight, dim=PER_CHANNEL, correction=0, keepdim=True)
        return (weight - mean) / (std + eps)
    var, mean = torch.var_mean(weight, dim=PER_CHANNEL, correction=0, keepdim=True)
    return (weight - mean) * torch.rsqrt(var + eps)


def check_eps(eps: float, eps_mode: str = "root", modes: tuple[str, ...] = ("root",)) -> None:
    """Raise SpecError for an eps below 0 or not finite, UnknownName for a mode that is not among `modes`."""
    if not (eps >= 0 and math.isfinite(eps)):
        raise SpecError(f"eps={eps} should be a number >= 0, such as 1e-6")
    if eps_mode not in modes:
        raise UnknownName("eps_mode", eps_mode, modes)


def flat_spectrum(weight: Tensor, size: tuple[int, int], eps: float) -> Tensor:
    """(Σ_i |F(A_oi)|² + eps)^(-1/2) of a kernel, as a constant, in float32 or wider.

    Returns:
        [Co, H', W' // 2 + 1] for `size` (H', W'); for a 1 x 1 kernel, whose spectrum is flat already, [Co, 1, 1].
    """
    kernel = widen(weight.detach())
    if kernel.shape[-2:] == (1, 1):
        return torch.rsqrt(kernel.square().sum(1) + eps)
    spectrum = torch.view_as_real(torch.fft.rfft2(kernel, s=size))
    return torch.rsqrt(spectrum.square().sum((1, -1)) + eps)


def filtered(x: Tensor, v: Tensor) -> Tensor:
    """F⁻¹(V F(x)) over the last two dimensions."""
    return torch.fft.irfft2(torch.fft.rfft2(x) * v, s=x.shape[-2:])
