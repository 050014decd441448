"""The Lipschitz ratio of a normalization layer: what it does to the length of the gradient that passes through it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normlab.functional.normalize import full_precision
from normlab.probes.base import wide
from normlab.probes.whole.surface import Loss, surface
from normlab.surgery import norm_sites
from normlab.surgery.conversion.adapt import finish


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
    sites = norm_sites(model)
    with ExitStack() as hooks, surface(model, loss, training=training) as around:
        for site in sites:
            hooks.callback(site.module.register_forward_hook(_watch(site.name, squares), with_kwargs=True).remove)
        around.gradient()
    reached = [(site.name, *squares[site.name]) for site in sites if site.name in squares]
    return [LipschitzRatio(name, before**0.5, after**0.5) for name, before, after in reached]


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
        if finish in vars(module)["_forward_hooks"].values():  # but for that of `convert`, which is part of the layer
            y = finish(module, (leaf, *args[1:]), y)
        (dx,) = torch.autograd.grad(y, leaf, delta.to(y.dtype))
    return dx
