"""The papers' changes to ImageNet networks for 32×32 images: fewer strides at the start.

| network | change | sizes at 32×32 |
|---|---|---|
| ResNet, ResNeXt | 3×3 stem of stride 1, no max-pool | 32, 32, 16, 8, 4 |
| MobileNetV2 | stem and the second and third block of its table 2 at stride 1 | 32, 32, 32, 32, 16, 16, 8, 8 |
| RepVGG | stages 0 (the stem) and 1 at stride 1 | 32, 32, 16, 8, 4 |

Source: Davis and Frank, arXiv:2110.13989; the ResNet's also in the official code, `networks.py`. Which blocks of
MobileNetV2 are meant is read from the published table of that network, whose strides are 1, 2, 2, 2, 1, 2, 1.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from normlab.errors import SpecError

KNOWN = "ResNets and their kin, mobilenetv2_* and repvgg_*, of timm or torchvision"


def timm_arguments(name: str) -> dict[str, Any]:
    """What timm is to be told so that it builds `name` for small images, beside what `shrink` changes afterwards.

    A RepVGG block of stride 1 that keeps its width has a branch more, the identity's norm, so it is built that way.
    """
    if not name.startswith("repvgg"):
        return {}
    byobnet = importlib.import_module("timm.models.byobnet")
    first, *rest = byobnet.model_cfgs[name.partition(".")[0]].blocks
    return {"blocks": (dataclasses.replace(first, s=1), *rest)}


def shrink(model: nn.Module, name: str) -> None:
    """Change the start of a network of timm or torchvision in place, before anything is trained.

    Args:
        name: its name there.

    Raises:
        SpecError: no paper says how that network is changed.
    """
    children: Mapping[str, nn.Module] = dict(model.named_children())
    if {"conv1", "maxpool", "layer1"} <= children.keys() and isinstance(children["conv1"], nn.Conv2d):
        _resnet(model, children["conv1"])
    elif name.startswith(("mobilenetv2", "mobilenet_v2")):
        for convolution in _strided(model)[:3]:
            convolution.stride = (1, 1)
    elif name.startswith("repvgg"):
        for convolution in _strided(children["stem"]):
            convolution.stride = (1, 1)
    else:
        raise SpecError(f"stem = 'cifar' is known for {KNOWN}, and not for {name!r}")


def _resnet(model: nn.Module, old: nn.Conv2d) -> None:
    stem = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=old.bias is not None)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as both libraries draw the old one
    model.conv1, model.maxpool = stem, nn.Identity()


def _strided(model: nn.Module) -> list[nn.Conv2d]:
    return [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
