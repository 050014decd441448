"""Batch Renormalization: batch normalization that corrects the batch towards the running statistics."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import Moments
from normlab.layers.base import NORMS, Norm
from normlab.layers.circumstances import in_backward
from normlab.layers.running import BatchLayer, BatchOptions


@NORMS.register("batch_renorm")
class BatchRenorm(BatchLayer, Norm):
    """Batch normalization, corrected so that its output is that of the running statistics, up to bounds.

        r = clip(σ_B / σ_run, 1/rmax, rmax),   d = clip((μ_B - μ_run) / σ_run, -dmax, dmax),   y = γ (x̂ r + d) + β

    r and d are not differentiated. `rmax` and `dmax` may be changed during training: the paper starts at 1 and 0, where
    this is BatchNorm, and relaxes them once the running statistics have settled.

    Under activation checkpointing the last forward's r and d are used again, so each layer may run once between a
    checkpoint's two forward passes.

    Args:
        num_features: C, the number of channels.
        rmax: largest correction of the scale, >= 1. dmax: largest correction of the shift, >= 0.
        options: see `BatchOptions`.

    Source: Ioffe, arXiv:1702.03275. The paper averages standard deviations; `running_var` averages variances.
    """

    def __init__(
        self, num_features: int, *, rmax: float = 3.0, dmax: float = 5.0, **options: Unpack[BatchOptions]
    ) -> None:
        super().__init__(num_features, **options)
        if rmax < 1 or dmax < 0:
            raise SpecError(f"rmax={rmax}, dmax={dmax} should be at least 1 and 0, where no correction is made")
        if not self.track_running_stats:
            raise SpecError("batch renormalization corrects towards the running statistics: track_running_stats=True")
        self.rmax, self.dmax = rmax, dmax
        self._correction: tuple[Tensor, Tensor] | None = None

    def affine_map(self, m: Moments) -> tuple[Tensor, Tensor]:
        """γ r / σ, and β + γ d - μ γ r / σ."""
        if not self.pools_batch(m):
            return F.standardize(self.running_moments(), self.weight, self.bias, self.eps)
        pooled = F.pool_batch(m, self.group())
        r, d = self._corrections(pooled.detach())
        self.update_moments(pooled)
        weight = r if self.weight is None else r * self.weight.to(r.dtype)
        scale, shift = F.standardize(pooled, weight, self.bias, self.eps)
        return scale, torch.addcmul(shift, weight, d / r)

    def _corrections(self, m: Moments) -> tuple[Tensor, Tensor]:
        if in_backward() and self._correction is not None:
            return self._correction
        # one new tensor, which torch.compile keeps: it would read the buffers again in the backward pass, after their
        # update (pytorch#197039)
        mean, var = torch.stack([self.running("running_mean"), self.running("running_var")]).unbind()
        std = (var + self.eps).sqrt()
        r = ((m.var + self.eps).sqrt() / std).clamp(1 / self.rmax, self.rmax)
        d = ((m.mean - mean) / std).clamp(-self.dmax, self.dmax)
        if not torch.compiler.is_compiling():
            self._correction = r, d
        return r, d
