"""Attentive Normalization: a mixture of affine maps, weighted by each example's attention."""

from __future__ import annotations

from functools import partial
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import Moments
from normlab.layers.base import NORMS, Norm, among
from normlab.layers.batch import BatchNorm
from normlab.layers.group import GroupNorm, check_divides
from normlab.layers.running import BatchLayer, BatchOptions

Mode = Literal[0, 1, 2, 3, 4, 5, 6]
Kind = Literal["batch", "group"]
_END = {0: "sigmoid", 1: "sigmoid", 2: "hsigmoid", 3: "hsigmoid", 4: "hsigmoid", 5: "sigmoid", 6: "softmax"}


@NORMS.register("attentive")
class AttentiveNorm(BatchLayer, Norm):
    """Mix K affine maps by weights that each example's moments choose.

        a = G(x) / √(σ²_IN + 1e-3),   λ = attention(a) [N, K],   y = (λ Γ) x̂ + λ B        Γ, B: [K, C]

    Γ is `weights`, drawn from N(1, 0.1²), B is `biases`, from N(0, 0.1²). λ does not sum to 1 but in mode 6. The
    attention ends in a sigmoid (modes 0, 1, 5), in hsigmoid(t) = min(max(t + 3, 0), 6) / 6 (2, 3, 4), or in a softmax
    (6); before that comes one linear map (0, 4), a linear map and a norm (2, 5, 6), two linear maps with a relu between
    (1), or two with norms and a relu (3). The released configurations have mode 2.

    Args:
        num_features: C, the number of channels.
        num_affine: K, the number of affine maps.
        mode: of the attention, 0 to 6.
        backbone: x̂ by the moments of the "batch" or of "group"s of channels.
        num_groups: of the "group" backbone.
        attend: to G(x) / σ, "rsd", or to G(x), "mean".
        attention_norm: the norm inside the attention, over the "batch", or over "group"s of its channels.
        attention_groups: how many these are.
        options: see `BatchOptions`.

    Raises:
        SpecError: on a call in training, one example where the attention's norm is over the batch.

    Source: Li, Sun and Wu, ECCV 2020, arXiv:1908.01259, and their two releases, which refuse modes 2, 3, 5 and 6 with
        groups.
    """

    weights: nn.Parameter
    biases: nn.Parameter

    def __init__(
        self,
        num_features: int,
        *,
        num_affine: int = 10,
        mode: Mode = 2,
        backbone: Kind = "batch",
        num_groups: int = 32,
        attend: Literal["rsd", "mean"] = "rsd",
        attention_norm: Kind = "batch",
        attention_groups: int = 1,
        **options: Unpack[BatchOptions],
    ) -> None:
        if not (options.get("affine", True) and options.get("bias", True)):
            raise SpecError("AttentiveNorm's affine maps are what it learns: leave affine and bias out")
        if num_affine < 1:
            raise SpecError(f"num_affine={num_affine} should be a number of affine maps, 1 or more")
        options["affine"] = False  # K of them instead
        options["track_running_stats"] = options.get("track_running_stats", True) and backbone == "batch"
        super().__init__(num_features, **options)
        among("backbone", backbone, ("batch", "group"))
        among("attend", attend, ("rsd", "mean"))
        among("attention_norm", attention_norm, ("batch", "group"))
        if mode not in _END:
            raise SpecError(f"mode={mode} should be one of {', '.join(map(str, _END))}")
        if backbone == "group":
            check_divides(num_groups, num_features)
        self.affine = True
        self.num_affine, self.mode, self.backbone, self.num_groups = num_affine, mode, backbone, num_groups
        self.attend, self.attention_norm, self.attention_groups = attend, attention_norm, attention_groups
        self.add_parameter("weights", (num_affine, num_features), partial(nn.init.normal_, mean=1.0, std=0.1))
        self.add_parameter("biases", (num_affine, num_features), partial(nn.init.normal_, mean=0.0, std=0.1))
        self.attention = self._attention()

    def _attention(self) -> nn.ModuleList:
        c, k, hidden = self.num_features, self.num_affine, 2 * self.num_affine
        plain = self.mode in (0, 1, 4)
        sizes = [(c, hidden), (hidden, k)] if self.mode in (1, 3) else [(c, k)]
        steps: list[nn.Module] = []
        for before, after in sizes:
            steps += [nn.ReLU()] if steps else []
            steps.append(nn.Linear(before, after, bias=plain, **self._factory))
            if not plain and self.attention_norm == "batch":
                steps.append(BatchNorm(after, guard_nonfinite=self.guard_nonfinite, sync=self.sync, **self._factory))
            elif not plain:
                steps.append(GroupNorm(after, self.attention_groups, **self._factory))
        return nn.ModuleList(steps)

    def affine_map(self, m: Moments) -> tuple[Tensor, Tensor]:
        """λ Γ / σ, and λ B - μ λ Γ / σ."""
        weights = self._lambda(m)
        pooled = self.batch_moments(m) if self.backbone == "batch" else F.pool_groups(m, self.num_groups)
        dtype = weights.dtype
        return F.standardize(pooled, weights @ self.weights.to(dtype), weights @ self.biases.to(dtype), self.eps)

    def _lambda(self, m: Moments) -> Tensor:
        """The weights of the affine maps, [N, K]."""
        a = m.mean
        if self.attend == "rsd":
            if m.count == 1:
                raise SpecError(
                    f"attend='rsd' divides by an unbiased spatial variance; {m.size} has one position: 'mean'"
                )
            a = a * torch.rsqrt(F.unbiased(m) + 1e-3)
        for step in self.attention:
            if isinstance(step, nn.Linear):
                bias = None if step.bias is None else step.bias.to(a.dtype)  # pyright: ignore[reportUnnecessaryComparison]
                a = nn.functional.linear(a, step.weight.to(a.dtype), bias)
            else:
                a = step(a)
        end = _END[self.mode]
        if end == "softmax":
            return a.softmax(1)
        # not torch's hardsigmoid, whose gradient in float64 has the digits of float32
        return a.sigmoid() if end == "sigmoid" else (a + 3).clamp(0, 6) / 6
