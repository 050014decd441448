"""Both sides of the theorem by which batch normalization makes the loss flatter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normlab.errors import SpecError
from normlab.probes.base import wide


@dataclass(frozen=True)
class LipschitzIdentity:
    """|∂L/∂x|² of batch normalization, [C], by its backward pass and by the identity."""

    by_backward: Tensor
    by_identity: Tensor

    @property
    def error(self) -> float:
        """Largest difference, relative to the largest value."""
        largest = float(self.by_identity.abs().amax())
        off = float((self.by_backward - self.by_identity).abs().amax())
        return off / largest if largest else off


def lipschitz_identity(x: Tensor, dy: Tensor, weight: Tensor | None = None, *, eps: float = 0.0) -> LipschitzIdentity:
    """Take both sides of, for each channel and δ = ∂L/∂y,

        |∂L/∂x|² = γ²/s² (|δ|² - (1·δ)²/m - (2 - |x̂|²/m) (x̂·δ)²/m),   s² = σ² + eps,   |x̂|² = m σ²/s²

    so that a normalized layer has a flatter loss than γ²/s² alone would make it. With eps = 0 the last factor is 1.

    Args:
        x: input of batch normalization, [N, C, *S]. dy: δ, of the same shape. weight: γ, [C].

    Source: Santurkar et al., arXiv:1805.11604, theorem 4.1, as an equation.
    """
    if x.shape != dy.shape or x.dim() < 2:
        raise SpecError(f"x and dy should be [N, C, *S], of one shape; got {list(x.shape)} and {list(dy.shape)}")
    leaf, delta = wide(x).requires_grad_(), wide(dy)
    gamma = delta.new_ones(x.shape[1]) if weight is None else wide(weight)
    dims = [dim for dim in range(x.dim()) if dim != 1]
    shape = (1, -1, *[1] * (x.dim() - 2))
    with torch.enable_grad():
        s2 = leaf.var(dims, correction=0, keepdim=True) + eps
        xhat = (leaf - leaf.mean(dims, keepdim=True)) * torch.rsqrt(s2)
        (dx,) = torch.autograd.grad((xhat * gamma.reshape(shape) * delta).sum(), leaf)
    xhat, s2 = xhat.detach(), s2.detach().flatten()
    m = math.prod(x.shape[dim] for dim in dims)
    along = delta.sum(dims).square() + (2 - xhat.square().mean(dims)) * (xhat * delta).sum(dims).square()
    right = gamma.square() / s2 * (delta.square().sum(dims) - along / m)
    return LipschitzIdentity(dx.square().sum(dims), right)
