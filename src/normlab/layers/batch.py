"""Batch normalization, with the initial scale and the formulations of Davis and Frank."""

from __future__ import annotations

import math
from typing import Literal, Unpack, get_args

import torch
from torch import Tensor, nn

from normlab import functional as F
from normlab.errors import SpecError, UnknownName
from normlab.functional import torch_kernels
from normlab.functional.normalize import Activation, AffineMap
from normlab.functional.pooled import BATCH, normalize_pooled
from normlab.layers.base import NORMS
from normlab.layers.circumstances import in_backward
from normlab.layers.running import BatchLayer, RunningOptions

Formulation = Literal["standard", "a1", "a2"]
FORMULATIONS: tuple[Formulation, ...] = get_args(Formulation)


@NORMS.register("batch")
class BatchNorm(BatchLayer):
    """Normalize each channel by the moments of the batch.

        μ = mean x,   σ² = mean (x - μ)²,   x̂ = (x - μ) / √(σ² + eps)        over N and *S
        standard: y = γ x̂ + β        a1: y = γ (x̂ + β)        a2: y = γ (α x̂ + β)

    γ is `weight`, β is `bias`, α is `inner_weight` (initially 1). Input and output are [N, C] to [N, C, D, H, W].

    Args:
        num_features: C, the number of channels.
        momentum: weight of the newest batch in the running moments; None averages all batches equally.
        affine: has a weight, and a bias unless `bias` is False.
        track_running_stats: keep running moments and normalize by them in eval mode.
        bias: has a shift; False where it is to stay 0, as in the layer that normalizes a network's input.
        activation: "relu" in the same pass.
        scale: initial value of the weight, > 0; `reset_parameters` puts it back.
        formulation: which of the three lines above.
        running: see `RunningOptions`.

    Raises:
        SpecError: a value that cannot be used; on a call, an input of another shape, or one value per channel
            where batch moments are needed.

    Source: Ioffe and Szegedy, arXiv:1502.03167; scale and formulations: Davis and Frank, arXiv:2110.13989. Their
    code turns a scale <= 0 into 1 without a word; here it is an error.
    """

    inner_weight: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: Activation | None = None,
        scale: float = 1.0,
        formulation: Formulation = "standard",
        **running: Unpack[RunningOptions],
    ) -> None:
        _check_options(affine, scale, formulation)
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
            scale=scale,
            **running,
        )
        self.scale, self.formulation = float(scale), formulation
        self.add_parameter("inner_weight", (num_features,), 1.0, present=formulation == "a2")

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Normalize x [N, C, *S]; in training mode also update the running moments."""
        self.check(x, residual)
        weight, bias = self._effective_affine()
        activation, batch = self.activation, self.takes_batch(x.shape, x.numel() // x.shape[1])
        if self.sync and batch:
            synced = self._affine_map(weight, bias)
            return F.normalize(x, synced, activation=activation, residual=residual)
        fused = activation is not None or residual is not None
        if self.eps > 0 and torch_kernels.preferred(x, "batch" if batch else "running", fused=fused):  # torch refuses 0
            y = (self._by_torch if batch else self._by_running)(x, weight, bias)
            return torch_kernels.finish(y, activation, residual)
        if not batch:
            return F.normalize(x, self._affine_map(weight, bias), activation=activation, residual=residual)
        y, m = normalize_pooled(x, BATCH, weight, bias, self.eps, activation=activation, residual=residual)
        self.update_moments(m)
        return y

    def _affine_map(self, weight: Tensor | None, bias: Tensor | None) -> AffineMap:
        return lambda m: F.standardize(self.batch_moments(m), weight, bias, self.eps)

    def _effective_affine(self) -> tuple[Tensor | None, Tensor | None]:
        # a1(γ, β) = standard(γ, γβ) and a2(γ, α, β) = standard(γα, γβ): products of [C], and one kernel for all
        if self.formulation == "standard" or self.weight is None:
            return self.weight, self.bias
        bias = None if self.bias is None else self.weight * self.bias
        weight = self.weight if self.inner_weight is None else self.weight * self.inner_weight
        return weight, bias

    def _by_running(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        moments = self.running("running_mean"), self.running("running_var")
        return torch_kernels.batch_norm(x, *moments, weight, bias, 0.0, self.eps, training=False)

    def _by_torch(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        count, mean, var = self.num_batches_tracked, self.running_mean, self.running_var
        if count is None or mean is None or var is None:
            return torch_kernels.batch_norm(x, None, None, weight, bias, 0.0, self.eps, training=True)
        if not self.guard_nonfinite and self.stored_var == "unbiased":
            if in_backward():  # copies, not None: activation checkpointing wants as many tensors kept as before
                mean, var = mean.clone(), var.clone()
            else:
                count.add_(1)
            share = 1 / float(count) if self.momentum is None else self.newest_share()
            return torch_kernels.batch_norm(x, mean, var, weight, bias, share, self.eps, training=True)
        y, moments = torch_kernels.batch_norm_and_moments(x, weight, bias, self.eps)
        self.update_moments(moments)
        return y


def _check_options(affine: bool, scale: float, formulation: str) -> None:
    if formulation not in FORMULATIONS:
        raise UnknownName("formulation", formulation, FORMULATIONS)
    if not (scale > 0 and math.isfinite(scale)):
        raise SpecError(f"scale={scale} should be a number > 0: the initial value of the weight, 1.0 for a plain layer")
    if not affine and (scale != 1.0 or formulation != "standard"):
        raise SpecError(f"scale={scale}, formulation={formulation!r} need a weight: use affine=True, or leave them out")
