"""EvoNorm-B0: batch normalization and activation in one formula, found by search."""

from __future__ import annotations

from typing import Literal, Unpack

from torch import Tensor, nn

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import Moments, torch_kernels
from normlab.layers.base import NORMS
from normlab.layers.evo import affine_only, affine_vectors, ratio, transform
from normlab.layers.group import check_ddof
from normlab.layers.running import BatchLayer, BatchOptions


@NORMS.register("evo_b0")
class EvoNormB0(BatchLayer):
    """Divide by the larger of the batch's standard deviation and of one that grows with x; activation included.

        y = γ x / max(√(σ² + eps), v x + √(σ²_IN + eps)) + β        σ² over N and *S, σ²_IN over *S; without centering

    v is `v` (initially 1). In eval mode σ² is `running_var`; σ²_IN is always that of the input, and 0 for [N, C] and
    for maps of one position.

    Args:
        num_features: C, the number of channels.
        nonlinearity: False: γ x + β and nothing else, as in the release, where a convolution follows directly.
        ddof: σ²_IN is divided by (number of values - ddof); 1 is what the PyTorch ports do, which for maps of one
            position take 0 for the NaN that this gives.
        options: see `BatchOptions`. The authors' release has momentum 0.1 and running_var="biased".

    Raises:
        SpecError: on a call, one value per channel where batch moments are needed; maps of one position with ddof=1.

    Source: Liu et al., NeurIPS 2020, arXiv:2004.02967.
    """

    TRACKED = ("running_var",)

    v: nn.Parameter | None

    def __init__(
        self, num_features: int, *, nonlinearity: bool = True, ddof: Literal[0, 1] = 0, **options: Unpack[BatchOptions]
    ) -> None:
        options["track_running_stats"] = options.get("track_running_stats", True) and nonlinearity
        super().__init__(num_features, **options)
        check_ddof(ddof)
        self.nonlinearity, self.ddof = nonlinearity, ddof
        self.add_parameter("v", (num_features,), 1.0, present=nonlinearity)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Transform x [N, C, *S]; with a residual, add it to the result."""
        self.check(x, residual)
        y = affine_only(self, x) if self.v is None else transform(x, ratio, self._vectors)
        return torch_kernels.finish(y, self.activation, residual)

    def _vectors(self, m: Moments) -> tuple[Tensor, ...]:
        assert self.v is not None
        if self.ddof == m.count:
            raise SpecError(f"ddof=1 needs maps of more than one position; got {list(m.size)}. Use ddof=0")
        low = (self._batch_var(m) + self.eps).sqrt()
        rise = (F.unbiased(m, self.ddof) + self.eps).sqrt()
        scale, shift = affine_vectors(self, rise)
        return scale, self.v.to(rise.dtype), shift, low, rise

    def _batch_var(self, m: Moments) -> Tensor:
        """σ², [1, C]: of this batch, which is then averaged in, or the running one."""
        if not self.pools_batch(m):
            return self.running("running_var")[None]
        pooled = F.pool_batch(m, self.group())
        self.update(running_var=self.to_store(pooled))
        return pooled.var
