"""Networks by name: small ones for CPUs."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normlab.errors import SpecError, Unavailable
from normlab.registry import Registry

MODELS: Registry[nn.Module] = Registry("model")


def create_model(spec: str, *, in_channels: int, num_classes: int) -> nn.Module:
    """Build a network: `create_model("resnet8(width=16)", in_channels=1, num_classes=10)`.

    Its initial values come from torch's default generator; a recipe's `prepare` draws them anew.

    Args:
        spec: a registered name, or `name(key=value, ...)`.

    Raises:
        UnknownName: no such network, or it takes no such argument.
    """
    return MODELS.create(spec, in_channels=in_channels, num_classes=num_classes)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N, in, H, W] -> [N, out, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Two convolutions plus the shortcut."""
        # nothing in place: it gains no time here, and hooks may keep what a layer gave
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A residual network for small images, with torchvision's names: [N, in_channels, H, W] -> [N, num_classes].

    The stem is a 3x3 convolution without pooling; each stage after the first halves the image and doubles the width.

    Args:
        blocks: blocks per stage; (1, 1, 1) is a ResNet-8, (2, 2, 2, 2) with width 64 a ResNet-18.
        width: channels of the first stage.

    Source: He et al., arXiv:1512.03385, sec. 4.2; stem of Davis and Frank, official code, `networks.py`.
    """

    def __init__(self, in_channels: int, num_classes: int, *, blocks: Sequence[int], width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = len(blocks)
        channels = width
        for stage, count in enumerate(blocks):
            layers: list[nn.Module] = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(BasicBlock(channels, width << stage, stride))
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
    """Three stages of one basic block, of `width`, 2 and 4 times `width` channels: 75 thousand parameters at 16."""
    if width < 1:
        raise SpecError(f"model resnet8: width={width} should be at least 1")
    return ResNet(in_channels, num_classes, blocks=(1, 1, 1), width=width)


@functools.cache
def import_timm() -> Any:
    """The package timm.

    A torchvision of PyPI beside a CPU build of torch cannot load its compiled operators, and fails on import for want
    of two schemas. timm needs only its Python half, so the schemas are declared when, and only when, that happens.

    Raises:
        Unavailable: timm is not installed, or torchvision cannot be imported for another reason.
    """
    try:
        importlib.import_module("timm.layers")
    except ImportError as error:
        raise Unavailable(f"timm cannot be imported: {error}; pip install 'normlab[models]'") from None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise Unavailable(f"timm cannot be imported: {error}") from None
        _declare_torchvision_operators()
        importlib.import_module("timm.layers")
    return importlib.import_module("timm")


def _declare_torchvision_operators() -> None:
    logging.getLogger("normlab").warning(
        "torchvision's compiled operators do not fit this torch; timm does without them"
    )
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
