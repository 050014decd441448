"""ConvNorm: a convolution whose channels are preconditioned in the frequency domain."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normlab.errors import SpecError
from normlab.layers.base import CONVS
from normlab.layers.batch import BatchNorm
from normlab.layers.circumstances import in_backward
from normlab.layers.convolution import (
    Convolution,
    Padding,
    PaddingMode,
    Size,
    check_eps,
    filtered,
    flat_spectrum,
    widen,
)
from normlab.layers.mixing import laid_out_as

RAMP, FLOOR = 40_000, 0.01  # training steps until the newest V has its least weight, and that


@CONVS.register("conv_norm")
class ConvNorm(Convolution):
    """Convolve, then give each output channel's operator a flat spectrum.

        full = x * A + b                                   every overlap: k - 1 zeros on each side, stride 1
        V_o  = (Σ_i |F(A_oi)|² + eps)^(-1/2)               A padded with zeros to H' = H + k - 1, W' = W + k - 1
        z    = F⁻¹(V F(full))                              a circular convolution per output channel
        y    = z without k - 1 - padding rows and columns on each side, then every stride-th
        y    = r * y + c                                   `affine`: a depthwise convolution, kernel as large as A
        y    = BatchNorm(y)                                `bn`

    A is `weight`, b is `bias`, F the 2-D Fourier transform of H' x W' maps. Σ_i |V_o F(A_oi)|² = 1 at every frequency
    (for eps=0). V is computed from A in training and eval mode alike, so that it needs no state and takes any
    resolution; no gradient goes through it. Input [N, Ci, H, W]; output as nn.Conv2d's, except that `affine` with an
    even kernel loses one row and column more, as in the authors' code.

    Args:
        padding: 0 to k - 1 on each side, by axis; "same" needs an odd kernel.
        dilation: 1 only.
        padding_mode: "zeros" only.
        affine: has the r-kernel, `affine_conv`; and the batch norm has weight and bias.
        bn: has a batch norm, `batch_norm`.
        running_V: as in the authors' code, use the current V in training mode and its running average in eval mode.
            It belongs to one input resolution, and before any training it is 0, and so is z. The buffer takes its
            shape in the first training step, so that torch.compile compiles that step and the second one apart.
        momentum: weight of the newest V in the running one; None for (1 + cos(π min(t, 40000) / 40000)) / 2, but at
            least 0.01, at training step t. Needs running_V.
        eps: added to the power spectrum. With 0 a zero of the spectrum gives inf or NaN.

    Raises:
        SpecError: arguments that make no convolution or none of the above; on a call, an input of another shape, one
            smaller than the kernel, or one of another resolution than the running V.

    Source: Liu et al., NeurIPS 2021 (arXiv:2103.00673), sec. 3; authors' code, models/prec_conv.py.
    """

    own_options = ("affine", "bn", "momentum", "eps")

    running_V: Tensor | None
    num_batches_tracked: Tensor  # these two only where there is a running V
    running_size: Tensor
    affine_conv: nn.Conv2d | None
    batch_norm: BatchNorm | None

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
        affine: bool = True,
        bn: bool = True,
        running_V: bool = False,
        momentum: float | None = None,
        eps: float = 0.0,
    ) -> None:
        shape = in_channels, out_channels, kernel_size, stride, padding, dilation, groups
        super().__init__(*shape, bias, padding_mode, device, dtype)
        self.affine = affine
        self.bn = bn
        self.momentum = momentum
        self.eps = eps
        self._check_options(running_V)
        self.crop = self._crop()
        self._add_running_stats(running_V)
        kh, kw = self.kernel_size
        r_shape = out_channels, out_channels, (kh, kw), 1, ((kh - 1) // 2, (kw - 1) // 2), 1, out_channels
        self.affine_conv = nn.Conv2d(*r_shape, device=device, dtype=dtype) if affine else None
        self.batch_norm = BatchNorm(out_channels, affine=affine, device=device, dtype=dtype) if bn else None

    def _check_options(self, running_V: bool) -> None:
        if self.dilation != (1, 1) or self.padding_mode != "zeros":
            raise SpecError(
                f"ConvNorm takes dilation=1 and padding_mode='zeros'; got dilation={self.dilation}, "
                f"padding_mode={self.padding_mode!r}. Its spectrum is that of an undilated kernel on a zero-padded map."
            )
        check_eps(self.eps)
        if self.momentum is not None and not (running_V and 0 <= self.momentum <= 1):
            raise SpecError(
                f"momentum={self.momentum} should be None or, with running_V=True, a number from 0 to 1: the weight "
                f"of the newest V in the running one; got running_V={running_V}"
            )

    def _crop(self) -> tuple[int, int]:
        """Rows and columns of the full map to leave out on each side: k - 1 - padding."""
        k, padding = self.kernel_size, self.padding
        if isinstance(padding, str):
            if padding == "same" and not all(size % 2 for size in k):
                raise SpecError(f"padding='same' with kernel_size={k} pads one side more; ConvNorm pads both alike")
            padding = (0, 0) if padding == "valid" else ((k[0] - 1) // 2, (k[1] - 1) // 2)
        crop = k[0] - 1 - padding[0], k[1] - 1 - padding[1]
        if min(crop) < 0 or min(padding) < 0:
            raise SpecError(f"padding={self.padding} should be from 0 to kernel_size - 1, where kernel_size={k}")
        return crop

    def _add_running_stats(self, tracked: bool) -> None:
        self.register_buffer("running_V", widen(self.weight.new_zeros(1)) if tracked else None)
        self._size: tuple[int, int] | None = None  # running_size where reading it costs no synchronisation
        if tracked:
            self.register_buffer("num_batches_tracked", self.weight.new_zeros((), dtype=torch.long))
            # A V of W' // 2 + 1 columns fits two widths, so the size it belongs to is saved with it
            self.register_buffer("running_size", self.weight.new_zeros(2, dtype=torch.long))

    def reset_running_stats(self) -> None:
        """Forget the running V, the resolution it belongs to and the training steps seen."""
        if self.running_V is not None:
            self.running_V = self.running_V.new_zeros(1)
            self.num_batches_tracked.zero_()
            self.running_size.zero_()
            self._size = None

    def reset_parameters(self) -> None:
        """Put parameters and running values back to what a new layer has; after `to_empty`, say."""
        super().reset_parameters()
        if "running_V" in self._buffers:  # not yet when torch's constructor calls
            self.reset_running_stats()
            for part in (self.affine_conv, self.batch_norm):
                if part is not None:
                    part.reset_parameters()

    def preconditioner(self, size: tuple[int, int]) -> Tensor:
        """V for full maps of `size` (H', W'): [Co, H', W' // 2 + 1], or [Co, 1, 1] for a 1 x 1 kernel."""
        if self.running_V is not None:
            self._check_size(self.running_V, size)
            if not self.training:
                return self.running_V if self.running_V.dim() == 3 else self.running_V.view(1, 1, 1)
        return flat_spectrum(self.weight, size, self.eps)

    def effective_kernel(self, height: int, width: int) -> Tensor:
        """The kernel F⁻¹(V F(A)) [Co, Ci / groups, H', W'] whose circular correlation with inputs H x W gives z."""
        size = height + self.kernel_size[0] - 1, width + self.kernel_size[1] - 1
        spectrum = torch.fft.rfft2(widen(self.weight), s=size) * self.preconditioner(size).unsqueeze(-3)
        return torch.fft.irfft2(spectrum, s=size).to(self.weight.dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve and precondition; in training mode also update the running values."""
        self._check_input(input)
        full_padding = self.kernel_size[0] - 1, self.kernel_size[1] - 1
        full = F.conv2d(input, self.weight, self.bias, padding=full_padding, groups=self.groups)
        size = full.shape[-2], full.shape[-1]
        v = self.preconditioner(size)
        if self.training and self.running_V is not None and not in_backward():
            self._update_running(self.running_V, v, size)
        z = widen(full) * v if self.kernel_size == (1, 1) else filtered(widen(full), v)
        top, left = self.crop
        y = z[..., top : size[0] - top : self.stride[0], left : size[1] - left : self.stride[1]]
        y = laid_out_as(y, full)
        y = y if self.affine_conv is None else self.affine_conv(y)
        return y if self.batch_norm is None else self.batch_norm(y)

    @torch.no_grad()
    def _update_running(self, running: Tensor, v: Tensor, size: tuple[int, int]) -> None:
        self.num_batches_tracked.add_(1)
        newest: Tensor | float | None = self.momentum
        if newest is None:
            angle = self.num_batches_tracked.clamp(max=RAMP).to(v.dtype) * (math.pi / RAMP)
            newest = (0.5 * (1 + torch.cos(angle))).clamp(min=FLOOR)
        updated = newest * v + (1 - newest) * running
        first = running.dim() == 1
        if first:
            self.running_V = updated
        else:  # in place, for whoever holds the buffer
            running.copy_(updated)
        if (first or self._size is None) and self.kernel_size != (1, 1):
            self._size = size
            self.running_size.copy_(torch.tensor(size))

    def _check_size(self, running: Tensor, size: tuple[int, int]) -> None:
        fits = running.shape[-2:] == (size[0], size[1] // 2 + 1) and self._size in (None, size)
        if not (fits or running.dim() == 1 or self.kernel_size == (1, 1)):
            trained, got = self._size or (running.shape[1], "?"), " x ".join(map(str, size))
            raise SpecError(
                f"running_V belongs to one resolution, full maps of {trained[0]} x {trained[1]} (input + kernel - 1); "
                f"got {got}. Use that one, reset_running_stats() and train again, or running_V=False, which takes any."
            )

    def _check_input(self, x: Tensor) -> None:
        c, k = self.in_channels, self.kernel_size
        if x.dim() != 4 or x.shape[1] != c:
            raise SpecError(f"ConvNorm({c}, ...) takes [N, {c}, H, W]; got {list(x.shape)}")
        if any(x.shape[2 + i] + k[i] - 1 <= 2 * self.crop[i] for i in (0, 1)):
            raise SpecError(f"kernel_size={k} is larger than the padded input: {list(x.shape)}, padding={self.padding}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ConvNorm:
        before = self.running_V
        super()._apply(fn, recurse)
        if before is not None and self.running_V is not None and self.running_V.dtype != widen(self.running_V).dtype:
            self.running_V = before.to(self.running_V.device)  # .bfloat16() leaves the statistics as they are
        return self

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]: torch passes them by position
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        saved = state_dict.get(f"{prefix}running_V")
        if self.running_V is not None and isinstance(saved, Tensor):
            if saved.dim() == 1 or saved.shape[0] == self.out_channels:  # else torch's error
                self.running_V = self.running_V.new_zeros(saved.shape)
            self.running_size.zero_()  # where none was saved
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.running_V is not None and not self.running_size.is_meta:
            height, width = self.running_size.tolist()
            self._size = (height, width) if height else None

    def extra_repr(self) -> str:
        """The constructor's arguments, so that the repr evaluates to a new layer like this one."""
        return f"{super().extra_repr()}, running_V={self.running_V is not None}"

    def __repr__(self) -> str:
        """One line that evaluates; torch's tree where somebody has put other modules inside."""
        as_built = all(type(part) in (nn.Conv2d, BatchNorm) for part in self.children())
        return f"{type(self).__name__}({self.extra_repr()})" if as_built else super().__repr__()
