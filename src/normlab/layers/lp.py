"""Batch normalization by other norms than the standard deviation."""

from __future__ import annotations

import math
from typing import Literal, Unpack

import torch
from torch import Tensor

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import Moments
from normlab.functional.backends import eager, stats_dtype
from normlab.functional.collective import gather_rows
from normlab.layers.base import NORMS
from normlab.layers.running import BatchLayer, BatchOptions


@NORMS.register("lp")
class LpBatchNorm(BatchLayer):
    """Center each channel by the mean of the batch, and divide by the batch's l_p norm in place of its deviation.

        y = γ (x - μ) / (r + eps) + β        r = mean |z|  (p = 1),  √(mean z²)  (p = 2),  max |z|  (p = ∞),
                                             over N and *S, of z = x, or of z = x - μ with `centred`

    r is averaged in `running_norm` (initially 1), as it is: there is no unbiased one. p = 2 with `centred` is batch
    normalization up to the place of eps. Where r is a maximum, its gradient goes to the values that attain it, in equal
    parts.

    Args:
        num_features: C, the number of channels.
        p: 1, 2, or infinity, math.inf or "inf".
        centred: take the norm after centering. The paper takes it before.
        options: see `BatchOptions`; `running_var` would say nothing here.

    Raises:
        SpecError: another p; an option that says nothing; on a call, one value per channel where those of the batch
            are needed.

    Source: Santurkar et al., NeurIPS 2018, arXiv:1805.11604, sec. 3.3 and appendix; no code is public. Whether their
        "average l_p norm" is this mean over all values or one of norms of examples is not known.
    """

    TRACKED = ("running_mean", "running_norm")

    running_norm: Tensor | None

    def __init__(
        self,
        num_features: int,
        *,
        p: float | Literal["inf"] = 2.0,
        centred: bool = False,
        **options: Unpack[BatchOptions],
    ) -> None:
        if "running_var" in options:
            raise SpecError("running_var says how a variance is kept; LpBatchNorm keeps a norm: leave it out")
        super().__init__(num_features, **options)
        if p not in (1, 2, math.inf, "inf"):
            raise SpecError(f"p={p!r} should be 1, 2 or 'inf'")
        # no float: torch.compile takes those of a module for inputs, and compiles again when it branches on one
        self.p: int | Literal["inf"] = "inf" if isinstance(p, str) or p == math.inf else int(p)
        self.centred = centred

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize x [N, C, *S]; with a residual, add it before the activation."""
        self.check(x, residual)
        return F.normalize(x, lambda m: self._affine_map(x, m), activation=self.activation, residual=residual)

    def _affine_map(self, x: Tensor, m: Moments) -> tuple[Tensor, Tensor]:
        mean, norm = self._statistics(x, m)
        scale = (norm + self.eps).reciprocal()
        if self.weight is not None:
            scale = scale * self.weight.to(scale.dtype)
        shift = -mean * scale
        return scale, shift if self.bias is None else shift + self.bias.to(scale.dtype)

    def _statistics(self, x: Tensor, m: Moments) -> tuple[Tensor, Tensor]:
        """Mean and norm, [1, C]: of this batch, which are then averaged in, or the running ones."""
        if not self.pools_batch(m):
            return self.running("running_mean")[None], self.running("running_norm")[None]
        pooled = F.pool_batch(m, self.group())
        norm = self._root_mean_square(pooled) if self.p == 2 else self._norm(x, m.count, pooled.mean)
        self.update(running_mean=pooled.mean, running_norm=norm)
        return pooled.mean, norm

    def _root_mean_square(self, pooled: Moments) -> Tensor:
        square = pooled.var if self.centred else torch.addcmul(pooled.var, pooled.mean, pooled.mean)
        # the root's slope at 0 is infinite, and a constant channel should not make NaN of it
        return torch.where(square == 0, 0, torch.where(square == 0, 1, square).sqrt())

    def _norm(self, x: Tensor, count: int | Tensor, mean: Tensor) -> Tensor:
        """Mean or maximum of |z|: one more pass over x."""
        z = x.to(stats_dtype(x.dtype))
        size = (z - eager.wide(mean, x) if self.centred else z).abs()
        spatial = tuple(range(2, x.dim()))
        group = self.group()
        if self.p == 1:
            means = size.mean(spatial) if spatial else size
            return F.pool_batch(Moments(means, torch.zeros_like(means), count), group).mean
        largest = size.amax((0, *spatial))[None]
        return largest if group is None else gather_rows(largest, group).amax(0, keepdim=True)
