"""BNET: batch normalization whose affine part sees the neighbourhood."""

from __future__ import annotations

from functools import partial
from typing import Literal, Unpack, get_args

from torch import Tensor, nn

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import torch_kernels
from normlab.layers.base import NORMS, Initial, among
from normlab.layers.mixing import laid_out_as
from normlab.layers.running import BatchLayer, BatchOptions

Init = Literal["identity", "default", "kaiming"]


@NORMS.register("bnet")
class BNET(BatchLayer):
    """Batch normalization, and in place of weight and bias a convolution of each channel by itself.

        y = k * x̂ + b        k: k × k taps for each channel, zero padding (k - 1) / 2

    `weight` is the kernel, (C, 1, k, k), `bias` is b, (C). The zeros beyond the border are the mean of the channel.
    Takes [N, C, H, W], and [N, C] as maps of one position, where the middle tap is the weight; with `dims` 1 or 3
    [N, C, L] or [N, C, D, H, W], and has a kernel of that many dimensions.

    Args:
        num_features: C, the number of channels.
        kernel_size: k, odd; 1 is plain batch normalization.
        dims: spatial dimensions of the kernel and of the maps.
        init: "identity": middle tap 1, the others and b 0: starts as plain batch normalization. "default": as
            nn.Conv2d, which is what the authors' layer does. "kaiming": normal, by fan out, as in their ResNet; b as
            "default".
        options: see `BatchOptions`; with affine=False there is no convolution.

    Raises:
        SpecError: an even kernel; on a call, maps of other than `dims` dimensions.

    Source: Xu et al., arXiv:2011.14150, and their code, whose ResNet with these layers cannot be built: it asserts
        that they have a weight, which they have not.
    """

    def __init__(
        self,
        num_features: int,
        *,
        kernel_size: int = 3,
        dims: Literal[1, 2, 3] = 2,
        init: Init = "identity",
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(num_features, **options)
        among("init", init, get_args(Init))
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise SpecError(f"kernel_size={kernel_size} should be odd, so that it has a middle: {kernel_size + 1}, say")
        if dims not in (1, 2, 3):
            raise SpecError(f"dims={dims} should be 1, 2 or 3, the number of spatial dimensions")
        self.kernel_size, self.dims, self.init = kernel_size, dims, init
        bound = kernel_size ** (-dims / 2)
        uniform = partial(nn.init.uniform_, a=-bound, b=bound)
        normal = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")
        kernels: dict[Init, Initial] = {"identity": _identity, "default": uniform, "kaiming": normal}
        with_bias = self.bias is not None
        self.add_parameter("weight", (num_features, 1, *[kernel_size] * dims), kernels[init], present=self.affine)
        self.add_parameter("bias", (num_features,), 0.0 if init == "identity" else uniform, present=with_bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize x [N, C, *S]; with a residual, add it before the activation."""
        self.check(x, residual)
        c, stars = self.num_features, "DHW"[-self.dims :]
        if x.dim() not in (2, 2 + self.dims):
            raise SpecError(
                f"BNET({c}, dims={self.dims}) takes [N, {c}] and [N, {c}, {', '.join(stars)}]; got {list(x.shape)}. "
                f"Use dims={x.dim() - 2}"
            )
        y = F.normalize(x, lambda m: F.standardize(self.batch_moments(m), None, None, self.eps))
        if self.weight is not None:
            y = self._convolve(y, self.weight)
        return torch_kernels.finish(y, self.activation, residual)

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[self.dims - 1]
        maps = x if x.dim() > 2 else x.reshape(*x.shape, *[1] * self.dims)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y = convolve(maps, weight.to(x.dtype), bias, padding=self.kernel_size // 2, groups=self.num_features)
        return laid_out_as(y.reshape(x.shape), x)


def _identity(kernel: Tensor) -> None:
    """A kernel [C, 1, *taps] that leaves its input as it is."""
    middle = tuple(taps // 2 for taps in kernel.shape[2:])
    kernel.zero_()[(slice(None), 0, *middle)] = 1
