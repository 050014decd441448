"""Geometry of the backward pass: normalization takes two directions out of the gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normlab.errors import SpecError
from normlab.layers import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, MetaNorm
from normlab.probes.base import Target, wide
from normlab.probes.standard import standard
from normlab.surgery import frozen_stats, norm_type
from normlab.surgery.known import Kind
from normlab.surgery.statistics.kept import kept

_STANDARDIZING = {
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.GroupNorm, BatchNorm, GroupNorm, InstanceNorm, LayerNorm, MetaNorm),
}
"""Types that give γ x̂ + β, and nothing more; what derives from them may."""


@dataclass(frozen=True)
class Projection:
    """How well a layer's backward pass agrees with ∂L/∂x = (1/s) (I - P) γδ, P = (1 1ᵀ + x̂ x̂ᵀ) / M.

    Args:
        pools: how many sets of values are normalized together.
        error: the largest |∂L/∂x - formula|, relative to the largest |∂L/∂x|.
        along_ones, along_xhat: the largest |cosine| of the angle of ∂L/∂x with 1, and with x̂, in any pool.
        idempotence: the largest |P P d - P d|, relative to the largest |d|; as large as eps/σ² lets P be no projection.

    Source: slides of W. Shao on Meta Norm; with eps, |x̂|² = M σ² / (σ² + eps).
    """

    pools: int
    error: float
    along_ones: float
    along_xhat: float
    idempotence: float


def backward_projection(layer: nn.Module, x: Tensor, dy: Tensor) -> Projection:
    """Run a layer forward and backward, and compare with the projection; nothing of it is remembered.

    Args:
        layer: batch norm in training mode, instance, group or layer norm of torch's or normlab's, [N, C, *S], without
            an activation; or a MetaNorm whose U and V are made of blocks.
        x: input, dy: ∂L/∂y, of one shape.

    Raises:
        SpecError: another layer, or sets that overlap without being equal, for which there is no such formula.
    """
    _check(layer, x, dy)
    known = norm_type(layer)
    assert known is not None
    target, pools = Target("", layer, known), _pools(layer, known.kind, x)
    leaf = wide(x).requires_grad_()
    with frozen_stats(layer), torch.enable_grad():
        (dx,) = torch.autograd.grad(layer(leaf), leaf, wide(dy).to(leaf.dtype))
    with torch.no_grad():
        found = standard(target, leaf)
        s = (found.var + found.eps).sqrt().expand(found.centered.shape).reshape(x.shape)
        xhat = found.xhat.reshape(x.shape)
        d = (
            wide(dy)
            if found.weight is None
            else (wide(dy).reshape(found.centered.shape) * found.weight).reshape(x.shape)
        )
        project = _Projector(xhat, pools)
        expected = (d - project(d)) / s
        twice = project(project(d)) - project(d)
        return Projection(
            project.count,
            _relative(dx - expected, dx),
            project.cosine(dx, torch.ones_like(dx)),
            project.cosine(dx, xhat),
            _relative(twice, d),
        )


class _Projector:
    """P, on tensors [N, C, *S] whose pools are labelled [N, C]."""

    def __init__(self, xhat: Tensor, labels: Tensor) -> None:
        self.xhat, self.count = xhat, int(labels.max()) + 1
        self.labels = labels.reshape(*labels.shape, *[1] * (xhat.dim() - 2)).expand(xhat.shape)
        self.sizes = self._sum(torch.ones_like(xhat))

    def __call__(self, d: Tensor) -> Tensor:
        means = self._sum(d) / self.sizes
        slopes = self._sum(d * self.xhat) / self.sizes
        return means[self.labels] + self.xhat * slopes[self.labels]

    def cosine(self, a: Tensor, b: Tensor) -> float:
        """The largest |cosine| of a and b over the pools; pools in which one is 0 count for nothing."""
        lengths = (self._sum(a.square()) * self._sum(b.square())).sqrt()
        cosines = torch.where(lengths == 0, 0, self._sum(a * b).abs() / lengths)
        return float(cosines.max())

    def _sum(self, values: Tensor) -> Tensor:
        flat = self.labels.flatten()
        return values.new_zeros(self.count).index_add(0, flat, values.flatten())


def _relative(off: Tensor, to: Tensor) -> float:
    largest = float(to.abs().amax())
    return float(off.abs().amax()) / largest if largest else float(off.abs().amax())


def _check(module: nn.Module, x: Tensor, dy: Tensor) -> None:
    if type(module) not in _STANDARDIZING or getattr(module, "activation", None) or getattr(module, "ddof", 0):
        raise SpecError(f"{module} does not give γ x̂ + β of sets of whole channels, or more than that")
    if kept(module) is not None and not module.training:
        raise SpecError(f"{type(module).__name__} in eval mode normalizes by its running statistics, not by a set")
    if x.shape != dy.shape or x.dim() < 2:
        raise SpecError(f"x and dy should be [N, C, *S], of one shape; got {list(x.shape)} and {list(dy.shape)}")


def _pools(module: nn.Module, kind: Kind, x: Tensor) -> Tensor:
    """The set to which the values of each example and channel belong, [N, C]."""
    n, c = x.shape[:2]
    examples, channels = torch.arange(n, device=x.device)[:, None], torch.arange(c, device=x.device)[None]
    if isinstance(module, MetaNorm):
        rows, columns = _blocks(module, "U", n).to(x.device), _blocks(module, "V", c).to(x.device)
        labels = rows[:, None] * c + columns[None]
    elif kind == "batch":
        labels = channels.expand(n, c)
    elif kind == "instance":
        labels = examples * c + channels
    elif kind == "group":
        groups = int(getattr(module, "num_groups", 1))
        labels = examples * groups + channels // (c // groups)
    else:
        labels = examples.expand(n, c)
    return torch.unique(labels, return_inverse=True)[1]


def _blocks(layer: MetaNorm, name: str, size: int) -> Tensor:
    """The block that each example or channel belongs to, [size].

    Raises:
        SpecError: the matrix has no blocks.
    """
    sort = layer._sets[name]  # pyright: ignore[reportPrivateUsage]
    if sort != "matrix":
        return torch.arange(size) if sort == "identity" else torch.zeros(size, dtype=torch.long)
    matrix = layer.get_buffer(name) > 0
    blocks = torch.unique(matrix.long(), dim=0, return_inverse=True)[1]
    if not torch.equal(matrix, blocks[:, None] == blocks[None]):
        raise SpecError(f"{name} is not made of blocks: sets overlap, and the backward pass is no projection by sets")
    return blocks.cpu()
