"""Filter Response Normalization and its thresholded linear unit."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from normlab import functional as F
from normlab.functional import Moments
from normlab.layers.base import NORMS, Layer, among

LearnEps = Literal["no", "channel", "layer"]


@NORMS.register("frn")
class FilterResponseNorm(Layer):
    """Divide by the root mean square of each map, without centering, and cut off below a learned threshold.

        ν² = mean x² over *S,   y = max(γ x / √(ν² + e) + β, τ)

    There are no batch statistics and no running ones. τ is `threshold` (initially 0). e is `eps`, or eps + |ε| with a
    learned ε, `learned_eps` (initially 1e-4), which small maps need: on 1x1 maps x / √(x² + e) is nearly sign(x).

    Args:
        num_features: C, the number of channels.
        tlu: end with the threshold; otherwise give any activation that follows a norm.
        learn_eps: "no", or one ε per "channel" or for the whole "layer".

    Source: Singh and Krishnan, CVPR 2020, arXiv:1911.09737.
    """

    threshold: nn.Parameter | None
    learned_eps: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-6,
        tlu: bool = True,
        learn_eps: LearnEps = "no",
        affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps=eps, affine=affine, bias=bias, device=device, dtype=dtype)
        among("learn_eps", learn_eps, ("no", "channel", "layer"))
        self.tlu, self.learn_eps = tlu, learn_eps
        self.add_parameter("threshold", (num_features,), 0.0, present=tlu)
        size = num_features if learn_eps == "channel" else 1
        self.add_parameter("learned_eps", (size,), 1e-4, present=learn_eps != "no")

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize x [N, C, *S]; with a residual, add it before the threshold."""
        self.check(x, residual)
        return F.normalize(x, self._affine_map, floor=self.threshold, residual=residual)

    def _affine_map(self, m: Moments) -> tuple[Tensor, Tensor]:
        square, dtype = torch.addcmul(m.var, m.mean, m.mean), m.mean.dtype
        e = self.eps if self.learned_eps is None else self.eps + self.learned_eps.to(dtype).abs()
        scale = torch.rsqrt(square + e)
        if self.weight is not None:
            scale = scale * self.weight.to(dtype)
        return scale, scale.new_zeros(1, 1) if self.bias is None else self.bias.to(dtype)[None]
