"""Plain convolutional networks: one layer after another, no shortcut."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from normlab.errors import SpecError
from normlab.study.models.registry import MODELS

_WIDTHS = {10: (1, 2, 4, 8, 8), 20: (1, 2, 4, 4, 8), 40: (1, 2, 4, 8, 8)}  # of each fifth of the layers


class VGG(nn.Module):
    """3x3 convolutions, each with its norm and ReLU, and a linear layer on the mean over the image.

    [N, in_channels, H, W] -> [N, num_classes]. The last layer of each fifth but the final one has stride 2; nothing is
    pooled between them.

    Args:
        depth: convolutions, 10, 20 or 40.
        width: channels at the start; up to 8 times as many at the end.

    Source: Lubana et al., Beyond BatchNorm, arXiv:2106.05956, official code, `config.py` and `models.py`.
    """

    def __init__(self, in_channels: int, num_classes: int, *, depth: Literal[10, 20, 40], width: int) -> None:
        super().__init__()
        fifth = depth // 5
        layers: list[nn.Module] = []
        for index in range(depth):
            channels = _WIDTHS[depth][index // fifth] * width
            stride = 2 if (index + 1) % fifth == 0 and index + 1 < depth else 1
            layers += [
                nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
            in_channels = channels
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        return self.fc(self.features(x).mean((2, 3)))


@MODELS.register("vgg")
def vgg(in_channels: int, num_classes: int, depth: Literal[10, 20, 40] = 10, width: int = 64) -> VGG:
    """Beyond BatchNorm's plain networks of 10, 20 or 40 layers: 9.4 million parameters at depth 10 and width 64."""
    if width < 1:
        raise SpecError(f"model vgg: width={width} should be at least 1")
    return VGG(in_channels, num_classes, depth=depth, width=width)
