"""Small networks, data and a loop to train them, as users have them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from normlab import probes as P


class Block(nn.Module):
    """conv, norm, ReLU in place, conv, norm, sum, ReLU in place: the same ReLU twice, as torchvision's."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


def network(norm: Callable[[int], nn.Module] = nn.BatchNorm2d, width: int = 6) -> nn.Sequential:
    """A stem, a residual block and a head, [N, 3, 8, 8] to [N, 4]."""
    block = Block(width)
    block.bn1, block.bn2 = norm(width), norm(width)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), norm(width), nn.ReLU(inplace=True), block,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4),
    )  # fmt: skip


def batch(n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 8, 8, generator=generator), torch.randint(0, 4, (n,), generator=generator)


def train(model: nn.Module, steps: int = 3, n: int = 8) -> list[float]:
    x, t = batch(n)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), t)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


EVERY = list(P.PROBES)


def loss_of(model, x=None, t=None):
    x, t = batch() if x is None else (x, t)
    return nn.functional.cross_entropy(model(x), t)


def measured(model, probes=EVERY, **options):
    with P.probe(model, probes, **options) as p:
        loss_of(model).backward()
    return p


def same(a, b, tolerance=1e-12):
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert math.isclose(value, b[key], rel_tol=tolerance, abs_tol=tolerance), key


def doubled():
    return network().double()


def double_loss(model):
    x, t = batch()
    return nn.functional.cross_entropy(model(x.double()), t)
