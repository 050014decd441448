"""Batch normalization, with the initial scale and the formulations of Davis and Frank."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normlab.errors import SpecError, UnknownName
from normlab.layers.base import NORMS

Formulation = Literal["standard", "a1", "a2"]
FORMULATIONS: tuple[Formulation, ...] = get_args(Formulation)


@NORMS.register("batch")
class BatchNorm(nn.Module):
    """Normalize each channel by the moments of the batch; torch's kernel, names and semantics.

        μ = mean x,   σ² = mean (x - μ)²,   x̂ = (x - μ) / √(σ² + eps)        over N and *S
        standard: y = γ x̂ + β        a1: y = γ (x̂ + β)        a2: y = γ (α x̂ + β)

    γ is `weight`, β is `bias`, α is `inner_weight` (initially 1). Input and output are [N, C] to [N, C, D, H, W].

    Args:
        num_features: C, the number of channels.
        momentum: weight of the newest batch in the running moments; None averages all batches equally.
        affine: has a weight, and a bias unless `bias` is False.
        track_running_stats: keep running moments and normalize by them in eval mode.
        bias: has a shift; False where it is to stay 0, as in the layer that normalizes a network's input.
        scale: initial value of the weight, > 0; `reset_parameters` puts it back.
        formulation: which of the three lines above.

    Raises:
        SpecError: a value that cannot be used; on a call, an input of another shape, or one value per channel
            where batch moments are needed.

    Source: Ioffe and Szegedy, arXiv:1502.03167; scale and formulations: Davis and Frank, arXiv:2110.13989. Their
    code turns a scale <= 0 into 1 without a word; here it is an error.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    inner_weight: nn.Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

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
        scale: float = 1.0,
        formulation: Formulation = "standard",
    ) -> None:
        super().__init__()
        _check_options(affine, scale, formulation)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.scale = float(scale)
        self.formulation = formulation
        has = {"weight": affine, "bias": affine and bias, "inner_weight": formulation == "a2"}
        for name, present in has.items():
            value = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if present else None
            self.register_parameter(name, value)
        self._add_running_stats({"device": device, "dtype": dtype})
        self.reset_parameters()

    def _add_running_stats(self, factory: dict[str, Any]) -> None:
        tracked, c = self.track_running_stats, self.num_features
        self.register_buffer("running_mean", torch.empty(c, **factory) if tracked else None)
        self.register_buffer("running_var", torch.empty(c, **factory) if tracked else None)
        count = torch.tensor(0, dtype=torch.long, device=factory["device"]) if tracked else None
        self.register_buffer("num_batches_tracked", count)

    def reset_running_stats(self) -> None:
        """Put the running moments back to mean 0, variance 1, no batches seen."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Put parameters and running moments back to what a new layer has; after `to_empty`, say."""
        self.reset_running_stats()
        initial = ((self.weight, self.scale), (self.bias, 0.0), (self.inner_weight, 1.0))
        for parameter, value in initial:
            if parameter is not None:
                nn.init.constant_(parameter, value)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x [N, C, *S]; in training mode also update the running moments."""
        self._check_input(x)
        by_batch = self.training or self.running_mean is None
        weight, bias = self._effective_affine()
        if not (self.training and self.track_running_stats):
            stats = (None, None) if by_batch else (self.running_mean, self.running_var)
            return F.batch_norm(x, *stats, weight, bias, by_batch, 0.0, self.eps)
        newest = self._count_batch()
        return F.batch_norm(x, self.running_mean, self.running_var, weight, bias, True, newest, self.eps)

    def _effective_affine(self) -> tuple[Tensor | None, Tensor | None]:
        # a1(γ, β) = standard(γ, γβ) and a2(γ, α, β) = standard(γα, γβ): products of [C], and torch's kernel as it is
        if self.formulation == "standard" or self.weight is None:
            return self.weight, self.bias
        bias = None if self.bias is None else self.weight * self.bias
        weight = self.weight if self.inner_weight is None else self.weight * self.inner_weight
        return weight, bias

    def _count_batch(self) -> float:
        """Count this batch and give its weight in the running moments."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                return 1.0 / float(self.num_batches_tracked)
        return 0.0 if self.momentum is None else self.momentum

    def _check_input(self, x: Tensor) -> None:
        c = self.num_features
        if not 2 <= x.dim() <= 5:
            raise SpecError(
                f"BatchNorm({c}) takes [N, {c}] to [N, {c}, D, H, W]; got {x.dim()} dimensions, {list(x.shape)}. "
                "A single example needs a batch dimension: x[None]."
            )
        if x.shape[1] != c:
            raise SpecError(
                f"BatchNorm({c}) takes {c} channels in dimension 1; got {x.shape[1]}, input {list(x.shape)}. "
                f"Use num_features={x.shape[1]}, or move the channels: x.movedim(-1, 1)."
            )
        if (self.training or self.running_mean is None) and x.numel() == c:
            raise SpecError(
                f"Expected more than 1 value per channel when training, got input size {x.shape}: its variance is 0. "
                "Use larger batches (drop_last=True in the DataLoader drops a last batch of one), eval mode, "
                "or a norm that needs no batch, such as GroupNorm."
            )

    def extra_repr(self) -> str:
        """The constructor's arguments, so that the repr evaluates to a new layer like this one."""
        text = (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )
        if self.affine and self.bias is None:
            text += ", bias=False"
        if self.scale != 1.0:
            text += f", scale={self.scale}"
        if self.formulation != "standard":
            text += f", formulation={self.formulation!r}"
        return text


def _check_options(affine: bool, scale: float, formulation: str) -> None:
    if formulation not in FORMULATIONS:
        raise UnknownName("formulation", formulation, FORMULATIONS)
    if not (scale > 0 and math.isfinite(scale)):
        raise SpecError(f"scale={scale} should be a number > 0: the initial value of the weight, 1.0 for a plain layer")
    if not affine and (scale != 1.0 or formulation != "standard"):
        raise SpecError(f"scale={scale}, formulation={formulation!r} need a weight: use affine=True, or leave them out")
