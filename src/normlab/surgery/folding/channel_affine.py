"""What is left of a norm at inference: a scale and a shift per channel."""

from __future__ import annotations

from torch import Tensor, nn

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import torch_kernels
from normlab.functional.backends import eager, stats_dtype
from normlab.functional.normalize import Activation
from normlab.layers.mixing import mix_channels


class ChannelAffine(nn.Module):
    """y = scale·x + shift, with one scale per channel or a matrix that mixes them; x is [N, C] to [N, C, D, H, W].

    Args:
        scale: [C] or [C, C]. shift: [C]. Both are buffers: nothing here is trained.
        activation: "relu" at the end.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor, *, activation: Activation | None = None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.activation: Activation | None = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Scale and shift x [N, C, *S]; with a residual, add it before the activation."""
        if self.scale.dim() == 1:
            affine = self.scale, self.shift
            return F.normalize(x, lambda _: affine, activation=self.activation, residual=residual)
        wide = x.to(stats_dtype(x.dtype))
        y = mix_channels(self.scale.to(wide.dtype), wide) + eager.wide(self.shift.to(wide.dtype)[None], wide)
        return torch_kernels.finish(y.to(x.dtype), self.activation, residual)

    def extra_repr(self) -> str:
        """Channels, and the activation."""
        act = "" if self.activation is None else f", activation={self.activation!r}"
        return f"{len(self.shift)}{', matrix' if self.scale.dim() == 2 else ''}{act}"


class Rows(nn.Module):
    """Stands where a norm was that was folded into the Linear before it, which is right for [N, C] alone."""

    def forward(self, x: Tensor) -> Tensor:
        """x itself.

        Raises:
            SpecError: x has more dimensions: the norm had its channels in dimension 1, the Linear has them last.
        """
        if x.dim() != 2:
            raise SpecError(f"a norm was folded into a Linear for inputs [N, C]; got {list(x.shape)}")
        return x
