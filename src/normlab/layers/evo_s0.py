"""EvoNorm-S0: group normalization and swish in one formula, found by search."""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import Moments, torch_kernels
from normlab.layers.base import NORMS, Layer, Options
from normlab.layers.evo import affine_only, affine_vectors, swish, transform
from normlab.layers.group import check_ddof, check_divides


@NORMS.register("evo_s0")
class EvoNormS0(Layer):
    """Gate each value by itself and divide by the standard deviation of its group; activation included.

        y = γ x sigmoid(v x) / √(σ² + eps) + β        σ² over (C/G, *S) of each example and group, without centering

    v is `v` (initially 1). There are no batch statistics and no running ones.

    Args:
        num_features: C, the number of channels.
        num_groups: G, which divides C; the authors' TensorFlow release lowers its 32 until it does.
        nonlinearity: False: γ x + β and nothing else, as in the release, where a convolution follows directly.
        ddof: the variance is divided by (number of values - ddof); 1 is what the PyTorch ports do.
        options: see `Options`.

    Raises:
        SpecError: groups that do not divide the channels; on a call, groups of one value, which have no variance.

    Source: Liu et al., NeurIPS 2020, arXiv:2004.02967.
    """

    v: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        *,
        num_groups: int = 32,
        nonlinearity: bool = True,
        ddof: Literal[0, 1] = 0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(num_features, **options)
        check_divides(num_groups, num_features)
        check_ddof(ddof)
        self.num_groups, self.nonlinearity, self.ddof = num_groups, nonlinearity, ddof
        self.add_parameter("v", (num_features,), 1.0, present=nonlinearity)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Transform x [N, C, *S]; with a residual, add it to the result."""
        self.check(x, residual)
        y = affine_only(self, x) if self.v is None else transform(x, swish, self._vectors)
        return torch_kernels.finish(y, self.activation, residual)

    def _vectors(self, m: Moments) -> tuple[Tensor, ...]:
        assert self.v is not None
        pooled = F.pool_groups(m, self.num_groups)
        if pooled.count == 1:
            raise SpecError(
                f"Expected more than 1 value per group, got input size {m.size} in {self.num_groups} groups: one value "
                "has no variance to divide by. Use fewer groups."
            )
        scale, shift = affine_vectors(self, pooled.var)
        return scale * torch.rsqrt(F.unbiased(pooled, self.ddof) + self.eps), self.v.to(scale.dtype), shift
