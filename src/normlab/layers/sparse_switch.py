"""Sparse Switchable Normalization: Switchable Norm whose weights end up one-hot, so that one normalizer is selected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import Moments
from normlab.functional.sparsest import Centre, sparsestmax
from normlab.layers.base import NORMS, among
from normlab.layers.circumstances import check_writable, in_backward
from normlab.layers.progress import FollowsProgress
from normlab.layers.rules import HasRules, TrainingRule
from normlab.layers.running import BatchOptions
from normlab.layers.switch import Parts, Variance


@NORMS.register("sparse_switch")
class SparseSwitchNorm(Parts, FollowsProgress, HasRules):
    """Blend instance, layer and batch moments with SparsestMax weights; as `radius` grows, one of them is selected.

        p = SparsestMax(λ; r),  p' = SparsestMax(λ'; r),   μ = Σ_k p_k μ_k,   σ² = Σ_k p'_k σ²_k,   k ∈ (IN, LN, BN)

    `set_progress(t)` makes the radius t, from 0 at the start of training to 1 at its end; selection is complete by
    t = 0.82. A weight vector that has become one-hot in training stays so: `mean_fixed` or `var_fixed` is set, the
    logits are overwritten by it, and their gradient is 0 from then on.

    `TRAINING` is how the authors train the logits: at lr / 10, without decay, the gradient of all of them together
    clipped to 1, and none once they are fixed. A recipe's groups and `recipes.attach_rules` see to it.

    Args:
        num_features: C, the number of channels.
        variance: as in SwitchNorm.
        centre: see `sparsestmax`.
        options: see `BatchOptions`. The authors' momentum of 0.997 is 0.003 here, or "keep".

    Source: Shao et al., arXiv:1903.03793, and their code.
    """

    TRAINING: ClassVar[Mapping[str, TrainingRule]] = {
        "mean_logits": TrainingRule("mix_logits", lr_divisor=10.0, max_norm=1.0, fixed_by="mean_fixed"),
        "var_logits": TrainingRule("mix_logits", lr_divisor=10.0, max_norm=1.0, fixed_by="var_fixed"),
    }

    centre: Centre
    radius: Tensor
    mean_fixed: Tensor
    var_fixed: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        variance: Variance = "exact",
        centre: Centre = "edge",
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(num_features, **options)
        among("centre", centre, ("edge", "simplex"))
        self.variance, self.centre, self.using_in = variance, centre, True
        self.using_bn = self.moving_average = True
        self.add_logits()
        for name in ("radius", "mean_fixed", "var_fixed"):
            self.add_buffer(name, (1,), 0.0)

    def set_progress(self, t: float) -> None:
        """Make the radius t, the share of training that is done, in [0, 1]."""
        if not 0 <= t <= 1:
            raise SpecError(f"progress {t} should be between 0, the start of training, and 1, its end")
        self.radius.fill_(t)

    def mix(self, m: Moments) -> Moments:
        """The blend of instance, layer and batch moments, with sparse weights."""
        p, q = self._weights().to(m.mean.dtype).unbind()
        return F.blend(self.parts(m), p, q)

    def _weights(self) -> Tensor:
        """Weights of the means and of the variances, [2, 3]."""
        logits = torch.stack([self.mean_logits, self.var_logits]).to(self.radius.dtype)
        fixed = torch.stack([self.mean_fixed, self.var_fixed]) > 0
        # no one_hot: torch.func.vmap cannot do it
        places = torch.arange(3, device=logits.device)
        selected = (places == logits.detach().argmax(1, keepdim=True)).to(logits.dtype)
        p = torch.where(fixed, selected, sparsestmax(logits, self.radius, centre=self.centre))
        if self.training and not in_backward():
            fixed = self._freeze(p.detach(), fixed)
        return torch.where(fixed, p.detach(), p)

    @torch.no_grad()
    def _freeze(self, p: Tensor, fixed: Tensor) -> Tensor:
        """Keep weights that are one-hot, [2, 1] as they are from now on."""
        check_writable(self.mean_fixed, p)
        fixed = fixed | (p.amax(1, keepdim=True) - p.amin(1, keepdim=True) >= 1)
        parts = zip(("mean", "var"), p, fixed, strict=True)
        for name, weights, now in parts:
            logits = getattr(self, f"{name}_logits")
            logits.copy_(torch.where(now, weights.to(logits.dtype), logits))
            getattr(self, f"{name}_fixed").copy_(now)
        return fixed
