"""Stochastic Whitening Batch Normalization: the whitening matrix is learned along the way, one small step a batch."""

from __future__ import annotations

from typing import Literal, Unpack, get_args

import torch
from torch import Tensor, nn

from normlab import functional as F
from normlab.functional import backends, torch_kernels
from normlab.functional.backends import eager, stats_dtype
from normlab.functional.normalize import (
    Activation,
    full_precision,
)
from normlab.layers.base import NORMS, among
from normlab.layers.circumstances import check_writable, in_backward
from normlab.layers.mixing import channel_rows, mix_channels, totals
from normlab.layers.progress import FollowsRate
from normlab.layers.running import BatchLayer, RunningOptions

Criterion = Literal["kl", "fro"]


@NORMS.register("whitening")
class StochasticWhiteningBatchNorm(BatchLayer, FollowsRate):
    """Normalize each channel by the moments of the batch, then decorrelate the channels by a learned matrix.

        x̂ = (x - μ) / √(σ² + eps),   S = mean x̂ x̂ᵀ,   y = γ W x̂ + β
        W ← sym(W - alpha D),   D = (W S Wᵀ - I) W                           criterion "kl"
                                D = (W S Wᵀ - I) W S / ‖W S Wᵀ - I‖          criterion "fro"

    W is `whitening` [C, C], initially I. It is updated in training forwards only, then used, and is a constant in the
    backward pass. A forward inside a backward (activation checkpointing) uses it as it is.

    Args:
        num_features: C, the number of channels.
        criterion: of which D is the (relative) gradient.
        alpha: step of W at the first learning rate; an attribute that may be changed. The paper keeps alpha /
            learning rate constant: `set_progress(model, t, lr_share=...)` does.
        running: see `RunningOptions`. The paper has momentum 0.05 and running_var="biased".

    Raises:
        SpecError: on a call in training, one value per channel.

    Source: Zhang et al., CVPR 2021, arXiv:2106.04413; no official code is public.
    """

    whitening: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        criterion: Criterion = "kl",
        alpha: float = 1e-5,
        eps: float = 1e-8,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        bias: bool = True,
        activation: Activation | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **running: Unpack[RunningOptions],
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
        among("criterion", criterion, get_args(Criterion))
        self.criterion, self.alpha = criterion, alpha
        self.add_buffer("whitening", (num_features, num_features), nn.init.eye_)
        self.lr_share = 1.0

    def set_lr_share(self, share: float) -> None:
        """Multiply alpha by the learning rate now / at the start."""
        self.lr_share = share

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize and whiten x [N, C, *S]; with a residual, add it before the activation."""
        self.check(x, residual)
        backends.select(x)  # a backend that was asked for may not take x, though it would take a wider copy
        with full_precision(x):
            wide = x.to(stats_dtype(x.dtype))
            xhat = F.normalize(wide, lambda m: F.standardize(self.batch_moments(m), None, None, self.eps))
            matrix = self._updated(xhat)
            if self.weight is not None:
                matrix = matrix * self.weight.to(matrix.dtype)[:, None]
            y = mix_channels(matrix, xhat)
            if self.bias is not None:
                y = y + eager.wide(self.bias.to(y.dtype)[None], y)
        return torch_kernels.finish(y.to(x.dtype), self.activation, residual)

    @torch.no_grad()
    def _updated(self, xhat: Tensor) -> Tensor:
        """W after this batch's step. A copy: W itself may change again before the backward pass comes."""
        w = self.whitening.clone()
        rows = channel_rows(xhat)
        if not self.training or in_backward() or not self.takes_batch(xhat.shape, rows.shape[0]):
            return w
        s = self._correlation(rows)
        gap = w @ s @ w.T - torch.eye(len(w), dtype=w.dtype, device=w.device)
        step = gap @ w
        if self.criterion == "fro":
            tiny = torch.finfo(w.dtype).eps  # nothing to do is 0, not 0 / 0
            step = step @ s / (torch.linalg.matrix_norm(gap) + tiny)
        new = w - self.alpha * (self.lr_share * step)
        new = (new + new.T) / 2
        if self.guard_nonfinite:
            new = torch.where(new.isfinite().all(), new, w)
        check_writable(self.whitening, new)
        self.whitening.copy_(new)
        return new

    def _correlation(self, rows: Tensor) -> Tensor:
        """S of the batch, of all processes with `sync`."""
        products, count = totals(self.group(), rows.T @ rows, rows.new_full((), rows.shape[0]))
        return products / count
