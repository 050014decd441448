"""Networks and data of these tests."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from normlab.study.models import ResNet


def residual(blocks: int = 4, width: int = 16) -> nn.Module:
    """3 · 2 · blocks + 2 layers with shortcuts."""
    return ResNet(1, 10, blocks=(blocks,) * 3, width=width)


def plain(blocks: int = 4, width: int = 16) -> nn.Module:
    """3 · blocks layers without shortcuts; each stage after the first halves the image."""
    layers: list[nn.Module] = []
    channels = 1
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers += [nn.Conv2d(channels, width << stage, 3, stride, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(width << stage), nn.ReLU()]
            channels = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def digits(count: int = 200) -> tuple[Tensor, Tensor]:
    """Real ones, standardized, with their labels."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels[:count], dtype=torch.float32).reshape(-1, 1, 8, 8)
    return (images - images.mean()) / images.std(), torch.tensor(labels[:count])


class Uncalled(nn.Module):
    """Uses a weight without its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm2d(1), nn.Linear(64, 10)

    def forward(self, x):
        return self.norm(x).flatten(1) @ self.last.weight.T


class Detached(nn.Module):
    """Two layers, and what becomes of the signal between them and after."""

    def __init__(self, end, between=torch.relu) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 10)
        self.between, self.end = between, end

    def forward(self, x):
        return self.end(self.last(self.between(self.norm(self.conv(x))).mean((2, 3))))
