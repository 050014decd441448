"""Networks to look at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import normlab


def images(examples: int = 8, size: int = 12) -> Tensor:
    return torch.randn(examples, 3, size, size, generator=torch.Generator().manual_seed(1))


def small() -> nn.Sequential:
    """Two convolutions with norms, and a classifier."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def chain(norm: Callable[[int], nn.Module], depth: int = 50, width: int = 32) -> nn.Sequential:
    """So many norms, ReLUs and convolutions one after the other, without skip connections."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for _ in range(depth):
        layers += [norm(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class Block(nn.Module):
    """x plus two convolutions, nothing normalized."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, width, 3, padding=1)
        self.b = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(torch.relu(x))))


def residual(spec: str, blocks: int = 40, width: int = 16) -> nn.Sequential:
    """A deep residual network with normalized kernels."""
    torch.manual_seed(0)
    stem = nn.Conv2d(3, width, 3, padding=1)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    model = nn.Sequential(stem, *[Block(width) for _ in range(blocks)], *head)
    normlab.convert(model, spec)
    return model


def closed(norm: Callable[[int], nn.Module], *places: int) -> nn.Sequential:
    """Four linear layers with norms and nothing added to what they give; those in these places have γ = 0."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for place in range(4):
        layers += [nn.Linear(8, 8), norm(8), nn.ReLU()]
        if place in places:
            nn.init.zeros_(layers[-2].weight)  # pyright: ignore[reportArgumentType]
    return nn.Sequential(*layers, nn.Linear(8, 3))


class Added(nn.Module):
    """x plus branches that end in a norm with γ = 0: as Swin Transformer V2 begins."""

    def __init__(self, branches: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in range(branches))
        self.head = nn.Linear(8, 3)
        for branch in self.branches:
            nn.init.zeros_(branch[1].weight)  # pyright: ignore[reportIndexIssue]

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x)


class Pair(nn.Module):
    """Two inputs; one norm under two names that is called twice, one that is not called; a dict comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.idle = nn.BatchNorm2d(8)
        self.norm = nn.BatchNorm2d(8)
        self.alias = self.norm

    def forward(self, left: Tensor, right: Tensor) -> dict[str, object]:
        y = self.norm(self.a(left + right))
        y = self.norm(self.b(torch.relu(y)))
        return {"scores": y, "others": [y.mean()]}
