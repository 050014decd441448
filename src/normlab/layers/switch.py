"""Switchable Normalization: instance, layer and batch moments, blended with learned weights."""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import nn

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import Moments
from normlab.layers.base import NORMS, MixNorm, among
from normlab.layers.circumstances import in_backward
from normlab.layers.running import BatchLayer, BatchOptions

Variance = Literal["exact", "official"]


class Parts(MixNorm, BatchLayer):
    """What Switchable and Sparse Switchable Norm share: the moments that are blended, and their logits."""

    mean_logits: nn.Parameter
    var_logits: nn.Parameter
    variance: Variance
    using_in: bool
    using_bn: bool
    moving_average: bool

    def add_logits(self) -> None:
        """One logit for the mean and one for the variance of each part, all 1: equal weights."""
        among("variance", self.variance, ("exact", "official"))
        count = 1 + self.using_in + self.using_bn
        self.add_parameter("mean_logits", (count,), 1.0)
        self.add_parameter("var_logits", (count,), 1.0)

    def parts(self, m: Moments) -> list[Moments]:
        """Instance, layer and batch moments, as far as they are in use."""
        own = m
        if self.variance == "official" and self.using_in:
            if m.count == 1:
                raise SpecError("variance='official' divides by (positions - 1), and there is one; use 'exact'")
            own = Moments(m.mean, F.unbiased(m), m.count)
        found = [own] if self.using_in else []
        found.append(self._corrected(F.pool_channels(own)))
        return [*found, self._batch_part(own)] if self.using_bn else found

    def _batch_part(self, own: Moments) -> Moments:
        if not self.pools_batch(own):
            return self.running_moments() if self.moving_average else self._average_of_sums()
        plain = F.pool_batch(own, self.group())
        pooled = self._corrected(plain)
        if self.moving_average:
            self.update(running_mean=pooled.mean, running_var=self.to_store(plain) if pooled is plain else pooled.var)
        else:
            self._sum_up(pooled)
        return pooled

    @torch.no_grad()
    def _sum_up(self, pooled: Moments) -> None:
        count = self.num_batches_tracked
        if count is None or not self.training or in_backward():
            return
        second = pooled.var + pooled.mean.square()
        fine = (pooled.mean + second).isfinite().all() | (not self.guard_nonfinite)
        count.add_(fine)
        for name, value in (("running_mean", pooled.mean), ("running_var", second)):
            getattr(self, name).add_(torch.where(fine, value[0], 0))

    def _average_of_sums(self) -> Moments:
        assert self.num_batches_tracked is not None
        batches = self.num_batches_tracked.clamp(min=1)
        mean, second = (self.running(name)[None] / batches for name in self.TRACKED)
        return Moments(mean, (second - mean.square()).clamp(min=0), 0)

    def _corrected(self, m: Moments) -> Moments:
        # the authors' 1-D code has no instance part, and divides the variances of the other two by one less
        if self.variance == "official" and not self.using_in:
            return Moments(m.mean, F.unbiased(m), m.count)
        return m


@NORMS.register("switch")
class SwitchNorm(Parts):
    """Blend instance, layer and batch moments with learned softmax weights.

        μ = Σ_k softmax(λ)_k μ_k,   σ² = Σ_k softmax(λ')_k σ²_k,   k ∈ (IN, LN, BN),   y = γ (x - μ) / √(σ² + eps) + β

    λ is `mean_logits`, λ' is `var_logits`.

    Args:
        num_features: C, the number of channels.
        variance: "exact": all variances are biased and pooled by the law of total variance; "official": the authors'
            code, with an unbiased instance variance inside the others, which has no value for maps of one position.
        using_in, using_bn: have these parts; the authors' 1-D layer has no instance part.
        moving_average: False sums the moments of all batches (mean, and mean² + variance) and divides the sums by
            `num_batches_tracked` in eval mode; the authors leave that division to the caller.
        last: the weight starts at 0, for the last norm of a residual branch.
        options: see `BatchOptions`. The authors' momentum of 0.9 is 0.1 here, or "keep"; their running variance is
            "biased", and both running statistics start at 0.

    Source: Luo et al., arXiv:1806.10779, sec. 2, and their code.
    """

    def __init__(
        self,
        num_features: int,
        *,
        variance: Variance = "exact",
        using_in: bool = True,
        using_bn: bool = True,
        moving_average: bool = True,
        last: bool = False,
        **options: Unpack[BatchOptions],
    ) -> None:
        if not moving_average:
            options["running_init"] = (0.0, 0.0)
        options["track_running_stats"] = options.get("track_running_stats", True) and using_bn
        super().__init__(num_features, scale=0.0 if last else 1.0, **options)
        self.variance, self.using_in, self.using_bn = variance, using_in, using_bn
        self.moving_average, self.last = moving_average, last
        self.add_logits()

    def mix(self, m: Moments) -> Moments:
        """The blend of instance, layer and batch moments."""
        dtype = m.mean.dtype
        return F.blend(self.parts(m), self.mean_logits.to(dtype).softmax(0), self.var_logits.to(dtype).softmax(0))
