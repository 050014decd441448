"""Layer normalization of feature maps: over the channels and positions of each example."""

from __future__ import annotations

import torch
from torch import Tensor

from normlab.errors import SpecError
from normlab.functional import torch_kernels
from normlab.functional.normalize import Activation
from normlab.functional.pooled import normalize_pooled
from normlab.layers.base import NORMS, Layer, among
from normlab.layers.group import OneValue, by_groups, check_groups


@NORMS.register("layer")
class LayerNorm(Layer):
    """Normalize each example by the moments of all its values.

        μ, σ² over (C, *S) of each example,   y = γ (x - μ) / √(σ² + eps) + β

    γ and β have one value per channel, so that any resolution will do; with `spatial` one per channel and position, as
    torch's LayerNorm((C, *spatial)).

    Args:
        num_features: C, the number of channels.
        spatial: the shape *S of the inputs, for a weight and a bias of shape (C, *S).
        one_value: examples of one value are an "error", or give the "bias".

    Raises:
        SpecError: on a call, an example of one value, or an input of another shape.

    Source: Ba et al., arXiv:1607.06450; per channel as in Lubana et al., arXiv:2106.05956.
    """

    one_value: OneValue

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: Activation | None = None,
        spatial: tuple[int, ...] | None = None,
        one_value: OneValue = "error",
    ) -> None:
        per_channel = affine and spatial is None
        super().__init__(
            num_features, eps=eps, affine=per_channel, bias=bias, activation=activation, device=device, dtype=dtype
        )
        among("one_value", one_value, ("error", "bias"))
        self.affine, self.spatial, self.one_value = affine, spatial, one_value
        if affine and spatial is not None:
            self.add_parameter("weight", (num_features, *spatial), 1.0)
            self.add_parameter("bias", (num_features, *spatial), 0.0, present=bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize x [N, C, *S]; with a residual, add it before the activation."""
        self.check(x, residual)
        if self.spatial is None:
            return by_groups(self, x, 1, self.one_value, residual)
        if x.shape[2:] != self.spatial:
            taken = ", ".join(map(str, ("N", self.num_features, *self.spatial)))
            raise SpecError(f"LayerNorm(spatial={self.spatial}) takes [{taken}]; got {list(x.shape)}")
        check_groups(x, 1, self.one_value)
        y, _ = normalize_pooled(x, 1, None, None, self.eps)
        if self.weight is not None:
            y = y * self.weight if self.bias is None else y * self.weight + self.bias
        return torch_kernels.finish(y.to(x.dtype), self.activation, residual)
