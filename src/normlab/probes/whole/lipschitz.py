"""What a normalization layer does to the length of the gradient that passes back through it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normlab.errors import SpecError
from normlab.functional.normalize import full_precision
from normlab.probes.base import wide
from normlab.probes.whole.surface import Loss, surface
from normlab.surgery import norm_sites


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


@dataclass(frozen=True)
class LipschitzRatio:
    """Gradient norms around one normalization layer.

    Args:
        after: |∂L/∂y| of its output. before: |∂L/∂x| of its input, along the path through the layer alone.
    """

    name: str
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """before / after: by how much the layer makes the loss steeper, or flatter below 1."""
        return self.before / self.after if self.after else float("nan")


def lipschitz_ratios(model: nn.Module, loss: Loss, *, training: bool = True) -> list[LipschitzRatio]:
    """Of every normalization layer that a gradient reaches, in the order of `norm_sites`; calls of one layer together.

    Each layer runs once more, on what it got, to find the gradient through it alone.

    Args:
        loss: computes the loss on a fixed batch: `lambda: cross_entropy(model(x), y)`.
        training: norms use the batch, and their running statistics stay; False for eval mode.

    Raises:
        SpecError: see `surface`.

    Source: both sides of theorem 4.1 of Santurkar et al., arXiv:1805.11604.
    """
    squares: dict[str, tuple[float, float]] = {}
    with ExitStack() as hooks, surface(model, loss, training=training) as around:
        for site in norm_sites(model):
            hooks.callback(site.module.register_forward_hook(_watch(site.name, squares), with_kwargs=True).remove)
        around.gradient()
    return [LipschitzRatio(name, before**0.5, after**0.5) for name, (before, after) in squares.items()]


def _watch(name: str, squares: dict[str, tuple[float, float]]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Any) -> None:
        if not (torch.is_grad_enabled() and isinstance(y, Tensor) and y.requires_grad and args):
            return
        x = args[0].detach()  # which the layer keeps for its own backward pass

        def returning(delta: Tensor) -> None:
            before, after = squares.get(name, (0.0, 0.0))
            dx = _through(module, (x, *args[1:]), kwargs, delta)
            squares[name] = before + float(wide(dx).square().sum()), after + float(wide(delta).square().sum())

        y.register_hook(returning)

    return hook


def _through(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], delta: Tensor) -> Tensor:
    """δ, taken back through the layer alone."""
    leaf = args[0].detach().requires_grad_()
    with torch.enable_grad(), full_precision(leaf):
        y = module.forward(leaf, *args[1:], **kwargs)  # without hooks, of which this one is
        (dx,) = torch.autograd.grad(y, leaf, delta.to(y.dtype))
    return dx
