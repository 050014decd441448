"""Channel Equilibrium: batch normalization, then a mixture of decorrelated and of reweighted channels."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from normlab import functional as F
from normlab.errors import SpecError
from normlab.functional import Moments, backends, torch_kernels
from normlab.functional.backends import eager, stats_dtype
from normlab.functional.normalize import (
    full_precision,
)
from normlab.layers.base import NORMS
from normlab.layers.mixing import laid_out_as, totals
from normlab.layers.running import BatchLayer, BatchOptions


@NORMS.register("equilibrium")
class ChannelEquilibrium(BatchLayer):
    """Batch normalization z = γ x̂ + β, and after it a block in which no channel is left out.

        y = λ P z + (1 - λ) a z                       λ = sigmoid(`blend`), initially 1/2
        P ≈ (Σ / tr Σ)^-½, by Newton's iteration      Σ = cov z + eps I, over the batch, in groups of channels
        a = attention(r) / s                          r = unbiased variance of z over *S [N, C],  s = √max(mean r, eps)
        attention(r) = sigmoid(`excite` relu(LN(`squeeze` r)))       LN: layer normalization, with
                                                                     `attention_weight` and `attention_bias`

    In eval mode P is `running_wm` (initially I) and s is `running_scale`. This starts at 1, which s is near after batch
    normalization; the authors' starts at 0, by which an untrained block divides.

    As in the authors' code P multiplies z itself, not z - mean z, and lacks the factor 1/√tr Σ of iterative
    normalization. Unlike there s is never below √eps, so that flat maps are not divided by 0.

    Args:
        num_features: C, the number of channels.
        reduction: the attention's inner size is C / reduction.
        group_size: channels that are decorrelated together; halved until it divides C.
        iterations: Newton steps.
        standardize: False: the block alone, z = x, to follow a batch normalization of its own, as the authors'. Then
            there is no weight and no bias, and the running moments are of no use.
        options: see `BatchOptions`; `debias` leaves `running_wm` alone.

    Raises:
        SpecError: no channel left by `reduction`; on a call, maps of one position, which have no spatial variance.

    Source: Shao et al., ICML 2020, arXiv:2003.00214, and their code.
    """

    running_wm: Tensor | None
    running_scale: Tensor | None
    blend: nn.Parameter
    attention_weight: nn.Parameter
    attention_bias: nn.Parameter

    def __init__(
        self,
        num_features: int,
        *,
        reduction: int = 4,
        group_size: int = 64,
        iterations: int = 3,
        standardize: bool = True,
        **options: Unpack[BatchOptions],
    ) -> None:
        options["affine"] = options.get("affine", True) and standardize
        super().__init__(num_features, **options)
        if not 1 <= reduction <= num_features:
            raise SpecError(
                f"reduction={reduction} should be 1 to {num_features}: the attention has C / reduction units"
            )
        if group_size < 1 or iterations < 0:
            raise SpecError(f"group_size={group_size}, iterations={iterations} should be at least 1 and 0")
        self.reduction, self.group_size, self.iterations = reduction, group_size, iterations
        self.standardize = standardize
        size = min(group_size, num_features)
        while num_features % size:
            size //= 2
        self.groups = num_features // size
        hidden = num_features // reduction
        self.squeeze = nn.Linear(num_features, hidden, bias=False, **self._factory)
        self.excite = nn.Linear(hidden, num_features, bias=False, **self._factory)
        self.add_parameter("attention_weight", (hidden,), 1.0)
        self.add_parameter("attention_bias", (hidden,), 0.0)
        self.add_parameter("blend", (1,), 0.0)
        self.add_buffer("running_wm", (self.groups, size, size), _identities, present=self.track_running_stats)
        self.add_buffer("running_scale", (1,), 1.0, present=self.track_running_stats)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Equalize x [N, C, *S]; with a residual, add it before the activation."""
        self.check(x, residual)
        if x.shape[2:].numel() < 2:
            c = self.num_features
            raise SpecError(
                f"ChannelEquilibrium({c}) takes [N, {c}, L] to [N, {c}, D, H, W] with more than one position, since it "
                f"uses the variance of each map; got {list(x.shape)}"
            )
        backends.select(x)  # a backend that was asked for may not take x, though it would take a wider copy
        with full_precision(x):
            z, moments = self._standardized(x.to(stats_dtype(x.dtype)))
            y = self._equalized(z, moments)
        return torch_kernels.finish(y.to(x.dtype), self.activation, residual)

    def _standardized(self, x: Tensor) -> tuple[Tensor, Moments]:
        """z, and the moments that x was standardized by."""
        found: list[Moments] = []

        def affine_map(m: Moments) -> tuple[Tensor, Tensor]:
            found.append(F.pool_batch(m, self.group()) if self._by_batch(x) else self.running_moments())
            return F.standardize(found[0], self.weight, self.bias, self.eps)

        if self.standardize:
            return F.normalize(x, affine_map), found[0]
        return x, F.pool_batch(_moments(x), self.group()) if self._by_batch(x) else self.running_moments()

    def _equalized(self, z: Tensor, moments: Moments) -> Tensor:
        """One product with (λ P + (1 - λ) diag a), a matrix for each example and group."""
        m = _moments(z)
        r = F.unbiased(m)
        if self._by_batch(z):
            p, s = self._whitener(z, m), self._mean_deviation(r)
            self.update(running_mean=moments.mean, running_var=self.to_store(moments), running_wm=p, running_scale=s)
        else:
            assert self.running_wm is not None
            p, s = self.running_wm, self.running("running_scale").clamp(min=self.eps**0.5)
        share = self.blend.to(z.dtype).sigmoid()
        a = (self._attention(r) / s).reshape(-1, *p.shape[:2])
        matrices = share * p + (1 - share) * a.diag_embed()
        y = matrices @ z.reshape(*a.shape, -1)
        return laid_out_as(y.reshape(z.shape), z)

    def _by_batch(self, x: Tensor) -> bool:
        return self.takes_batch(x.shape, x.numel() // self.num_features)

    def _whitener(self, z: Tensor, m: Moments) -> Tensor:
        """P of the batch, [groups, size, size]."""
        group = self.group()
        center = F.pool_batch(m, group).mean
        rows = (z - eager.wide(center, z)).movedim(1, -1).reshape(-1, self.groups, self.num_features // self.groups)
        eye = torch.eye(rows.shape[2], dtype=z.dtype, device=z.device)
        products, count = totals(group, torch.einsum("lgc,lgd->gcd", rows, rows), rows.new_full((), rows.shape[0]))
        sigma = products / count + self.eps * eye
        sigma = sigma / sigma.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        p = eye.expand_as(sigma)
        for _ in range(self.iterations):
            p = 1.5 * p - 0.5 * (p @ p @ p @ sigma)
        return p

    def _mean_deviation(self, r: Tensor) -> Tensor:
        """√mean r, [1]; no less than √eps, where all maps are flat."""
        summed, count = totals(self.group(), r.sum()[None], r.new_full((1,), r.numel()))
        mean = summed / count
        return mean.clamp(min=self.eps).sqrt()

    def _attention(self, r: Tensor) -> Tensor:
        """[N, C] → [N, C], 0 to 1."""
        linear, dtype = nn.functional.linear, r.dtype
        inner = linear(r, self.squeeze.weight.to(dtype))
        weight, bias = self.attention_weight.to(dtype), self.attention_bias.to(dtype)
        inner = nn.functional.layer_norm(inner, inner.shape[1:], weight, bias)
        return linear(inner.relu(), self.excite.weight.to(dtype)).sigmoid()


def _moments(x: Tensor) -> Moments:
    """Instance moments of x, [N, C]."""
    return Moments(*eager.moments(x), x.shape[2:].numel())


def _identities(matrices: Tensor) -> None:
    """[groups, C, C], each the identity."""
    matrices.zero_().diagonal(dim1=1, dim2=2).fill_(1)
