"""Residual networks for small images, and what is left of them without their shortcuts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from normlab.errors import SpecError
from normlab.study.models.registry import MODELS

Shortcut = Literal["projection", "identity", "conv3x3", "none"]


class PadShortcut(nn.Module):
    """The input where each stride meets it, with channels of zeros added: a shortcut without parameters.

    [N, C, H, W] → [N, out_channels, ⌈H/stride⌉, ⌈W/stride⌉].

    Source: He et al., arXiv:1512.03385, sec. 3.3, option A.
    """

    def __init__(self, out_channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels, self.stride = out_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Every stride-th pixel, and zeros for the channels that x lacks."""
        kept = x[..., :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, 0, self.out_channels - x.shape[1]))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N, in, H, W] -> [N, out, H/stride, W/stride].

    Args:
        shortcut: where width or size change, what carries the input over: "projection" a 1x1 convolution (He et al.,
            option B), "identity" subsampling and zeros (option A), "conv3x3" a 3x3 convolution; elsewhere the input
            itself is added. "none" adds nothing anywhere.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut = "projection") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.residual = shortcut != "none"
        self.downsample: nn.Module | None = None
        if self.residual and (stride != 1 or in_channels != out_channels):
            self.downsample = _carry_over(in_channels, out_channels, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Two convolutions plus the shortcut."""
        # nothing in place: it gains no time here, and hooks may keep what a layer gave
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.residual:
            y = y + (x if self.downsample is None else self.downsample(x))
        return F.relu(y)


def _carry_over(in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> nn.Module:
    if shortcut == "identity":
        return PadShortcut(out_channels, stride)
    size = 3 if shortcut == "conv3x3" else 1
    convolution = nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    """A residual network for small images, with torchvision's names: [N, in_channels, H, W] -> [N, num_classes].

    The stem is a 3x3 convolution without pooling; each stage after the first halves the image and doubles the width.

    Args:
        blocks: blocks per stage; (1, 1, 1) is a ResNet-8, (2, 2, 2, 2) with width 64 a ResNet-18.
        width: channels of the first stage.
        shortcut: as in `BasicBlock`.

    Source: He et al., arXiv:1512.03385, sec. 4.2; stem of Davis and Frank, official code, `networks.py`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        blocks: Sequence[int],
        width: int,
        shortcut: Shortcut = "projection",
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = len(blocks)
        channels = width
        for stage, count in enumerate(blocks):
            layers: list[nn.Module] = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(BasicBlock(channels, width << stage, stride, shortcut))
                channels = width << stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


@MODELS.register("resnet8")
def resnet8(in_channels: int, num_classes: int, width: int = 16) -> ResNet:
    """Three stages of one basic block, of `width`, 2 and 4 times `width` channels: 78 thousand parameters at 16."""
    return _three_stages("resnet8", in_channels, num_classes, 1, width, "projection")


@MODELS.register("resnet20")
def resnet20(in_channels: int, num_classes: int, width: int = 16, shortcut: Shortcut = "identity") -> ResNet:
    """Three stages of three basic blocks: 0.27 million parameters. `shortcut="none"` leaves a plain network.

    Source: He et al., arXiv:1512.03385, sec. 4.2, n = 3.
    """
    return _three_stages("resnet20", in_channels, num_classes, 3, width, shortcut)


@MODELS.register("resnet56")
def resnet56(in_channels: int, num_classes: int, width: int = 16, shortcut: Shortcut = "identity") -> ResNet:
    """Three stages of nine basic blocks: 0.85 million parameters.

    `resnet56(width=32, shortcut="conv3x3")` is the ResNet-56 of Beyond BatchNorm; `shortcut="none"` leaves a plain
    network.

    Source: He et al., arXiv:1512.03385, sec. 4.2, n = 9; Lubana et al., arXiv:2106.05956, official code, `models.py`.
    """
    return _three_stages("resnet56", in_channels, num_classes, 9, width, shortcut)


def _three_stages(name: str, in_channels: int, num_classes: int, blocks: int, width: int, shortcut: Shortcut) -> ResNet:
    if width < 1:
        raise SpecError(f"model {name}: width={width} should be at least 1")
    return ResNet(in_channels, num_classes, blocks=(blocks,) * 3, width=width, shortcut=shortcut)
