"""Instance normalization: each channel of each example alone."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from normlab import functional as F
from normlab.functional import Moments
from normlab.functional.normalize import Activation
from normlab.layers.base import NORMS, among
from normlab.layers.group import OneValue, by_groups, check_groups
from normlab.layers.running import AveragingOptions, BatchLayer


@NORMS.register("instance")
class InstanceNorm(BatchLayer):
    """Normalize each channel of each example by its own moments; with torch's defaults, no affine and no running ones.

        μ, σ² over *S of each example and channel,   y = γ (x - μ) / √(σ² + eps) + β

    With `track_running_stats` the moments, averaged over the examples, are kept and used in eval mode.

    Args:
        num_features: C, the number of channels.
        one_value: maps of one position, whose variance is 0, are an "error", or give the "bias" and nothing of x.
        running: see `AveragingOptions`.

    Raises:
        SpecError: on a call, maps of one position, or an input of another shape.

    Source: Ulyanov et al., arXiv:1607.08022.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: Activation | None = None,
        one_value: OneValue = "error",
        **running: Unpack[AveragingOptions],
    ) -> None:
        super().__init__(
            num_features,
            eps=eps,
            momentum=momentum,
            affine=affine,
            track_running_stats=track_running_stats,
            bias=bias,
            activation=activation,
            device=device,
            dtype=dtype,
            **running,
        )
        among("one_value", one_value, ("error", "bias"))
        self.one_value: OneValue = one_value

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize x [N, C, *S]; with a residual, add it before the activation."""
        self.check(x, residual)
        if not self.track_running_stats:
            return by_groups(self, x, self.num_features, self.one_value, residual)
        if self.training:
            check_groups(x, self.num_features, self.one_value, 1)
        return F.normalize(x, self._tracked, activation=self.activation, residual=residual)

    def _tracked(self, m: Moments) -> tuple[Tensor, Tensor]:
        if self.training:
            self.update(running_mean=m.mean.mean(0), running_var=self.to_store(m).mean(0))
        else:
            m = self.running_moments()
        return F.standardize(m, self.weight, self.bias, self.eps)
