"""Wide residual networks, whose blocks normalize before they convolve."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from normlab.errors import SpecError
from normlab.study.models.registry import MODELS


class PreactBlock(nn.Module):
    """Norm, ReLU, 3x3 convolution, twice, and a shortcut: [N, in, H, W] -> [N, out, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Two convolutions plus the shortcut, which is a convolution of the normalized input where sizes change."""
        y = F.relu(self.bn1(x))
        carried = x if self.shortcut is None else self.shortcut(y)
        y = self.conv1(y)
        return carried + self.conv2(self.dropout(F.relu(self.bn2(y))))


class WideResNet(nn.Module):
    """[N, in_channels, H, W] -> [N, num_classes]: a 3x3 stem of 16 channels, then 16·width, 32·width and 64·width.

    Args:
        depth: layers that count, 6n + 4 with n blocks in each of the three stages.
        width: factor on the channels.
        dropout: share of the values dropped between the convolutions of a block.

    Source: Zagoruyko and Komodakis, arXiv:1605.07146, table 1.
    """

    def __init__(self, in_channels: int, num_classes: int, *, depth: int, width: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        channels = 16
        for stage in range(3):
            layers: list[nn.Module] = []
            for block in range((depth - 4) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(PreactBlock(channels, (16 * width) << stage, stride, dropout))
                channels = (16 * width) << stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = self.conv1(x)
        for stage in (1, 2, 3):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(F.relu(self.bn(x)).mean((2, 3)))


@MODELS.register("wide_resnet")
def wide_resnet(
    in_channels: int, num_classes: int, depth: int = 28, width: int = 10, dropout: float = 0.0
) -> WideResNet:
    """WRN-28-10, 36.5 million parameters; `wide_resnet(depth=16, width=8)` is WRN-16-8, 11 million."""
    if depth < 10 or (depth - 4) % 6:
        raise SpecError(f"model wide_resnet: depth={depth} should be 10, 16, 22, 28, 34, ... (6n + 4)")
    if width < 1:
        raise SpecError(f"model wide_resnet: width={width} should be at least 1")
    if not 0 <= dropout < 1:
        raise SpecError(f"model wide_resnet: dropout={dropout} should be in [0, 1)")
    return WideResNet(in_channels, num_classes, depth=depth, width=width, dropout=dropout)
