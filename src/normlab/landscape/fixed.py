"""A norm without its statistics: the control that a comparison with and without normalization needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normlab.functional.backends import stats_dtype
from normlab.surgery import register_norm_type


class Fixed(nn.Module):
    """γ (x - μ) / √(σ² + eps) + β with the μ and σ of the first batch that came, for ever.

    A network without norms is a fair control only where it starts as the same function: taken away, norms leave
    activations that vanish or explode, and two networks that differ in much else than normalization. On its first
    batch this layer is batch normalization; from then on it is a linear map, whose statistics follow no weights and no
    gradient. It is the data-dependent initialization of Salimans and Kingma, arXiv:1602.07868, sec. 3.
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.eps, self.ready = eps, False
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("factor", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, *S] → the same."""
        if not self.ready:
            self._learn(x.detach())
        shape = (1, -1, *[1] * (x.dim() - 2))
        scale = self.factor if self.weight is None else self.factor * self.weight
        shift = -self.mean * scale if self.bias is None else self.bias - self.mean * scale
        return x * scale.reshape(shape).to(x.dtype) + shift.reshape(shape).to(x.dtype)

    @torch.no_grad()
    def _learn(self, x: Tensor) -> None:
        dims = [dim for dim in range(x.dim()) if dim != 1]
        var, mean = torch.var_mean(x.to(stats_dtype(x.dtype)), dims, correction=0)
        self.mean.copy_(mean)
        self.factor.copy_((var + self.eps).rsqrt())
        self.ready = True


register_norm_type(Fixed, kind="other")
