"""Networks by name: small ones for CPUs."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import logging
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normlab.errors import SpecError, Unavailable, nearest
from normlab.registry import Registry
from normlab.study.objects import guarded, load_object, split_call

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


def canonical_model(spec: str) -> str:
    """The spec with every default of a built-in network written out, so that equal networks read the same.

    Raises:
        as `create_model`.
    """
    return spec.strip() if ":" in spec else str(MODELS.parse(spec, given=("in_channels", "num_classes")))


def load_model(spec: str, *, in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """A network by the name that the commands take, with random weights; nothing is downloaded.

        timm:resnet18 · timm:resnet18(num_classes=10)   of timm
        torchvision:resnet18                            of torchvision
        package.module:factory · file.py:factory        a function or class that makes it, or the network itself
        resnet8(width=16)                               built in

    Args:
        spec: with arguments in brackets where they are wanted.
        in_channels, num_classes: of a built-in network; the others say theirs in the spec.

    Raises:
        SpecError: no such network, with the nearest name; or it cannot be made, with the reason.
        Unavailable: timm or torchvision is not installed.
    """
    name, arguments = split_call(spec, "model")
    library, colon, rest = name.partition(":")
    if not colon:
        return _built_in(spec, name, in_channels=in_channels, num_classes=num_classes)
    if library in ("timm", "torchvision"):
        if any(arguments.get(key) for key in ("pretrained", "weights", "weights_backbone", "checkpoint_path")):
            raise SpecError(f"model {spec!r}: weights are random here; load others in a factory, file.py:factory")
        return (_of_timm if library == "timm" else _of_torchvision)(rest, arguments)
    found = load_object(name, kind="model")
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise SpecError(f"model {name!r} is {type(found).__name__}, and no function that makes a torch module")
        found = guarded(lambda: found(**arguments), f"model {spec!r}")
    if not isinstance(found, nn.Module):
        raise SpecError(f"model {spec!r} made {type(found).__name__}, and no torch module")
    return found


def _built_in(spec: str, name: str, *, in_channels: int, num_classes: int) -> nn.Module:
    if name in MODELS:
        return create_model(spec, in_channels=in_channels, num_classes=num_classes)
    close = nearest(name, MODELS)
    with contextlib.suppress(Unavailable):
        close = f"timm:{name}" if import_timm().is_model(name) else close
    hint = f"; did you mean {close!r}?" if close else "."
    others = "timm:NAME, torchvision:NAME, package.module:factory, file.py:factory"
    raise SpecError(f"unknown model {name!r}{hint} Known: {', '.join(MODELS)}, {others}.")


def _of_timm(name: str, arguments: dict[str, Any]) -> nn.Module:
    timm = import_timm()
    if not timm.is_model(name):
        raise SpecError(_unlisted("timm", name.partition(".")[0], timm.list_models()))
    return guarded(lambda: timm.create_model(name, **{**arguments, "pretrained": False}), f"model 'timm:{name}'")


def _of_torchvision(name: str, arguments: dict[str, Any]) -> nn.Module:
    models = import_torchvision().models
    if name not in models.list_models():
        raise SpecError(_unlisted("torchvision", name, models.list_models()))
    parts = inspect.signature(models.get_model_builder(name)).parameters
    off = {key: None for key in ("weights", "weights_backbone") if key in parts}
    return guarded(lambda: models.get_model(name, **{**arguments, **off}), f"model 'torchvision:{name}'")


def _unlisted(library: str, name: str, known: list[str]) -> str:
    close = nearest(name, known)
    hint = f"; did you mean '{library}:{close}'?" if close else "."
    where = "timm" if library == "timm" else "torchvision.models"
    return f"unknown {library} model {name!r}{hint} {where}.list_models() lists all {len(known)}."


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
    _import("timm", "timm.layers")
    return importlib.import_module("timm")


@functools.cache
def import_torchvision() -> Any:
    """The package torchvision, in the same way; its networks for classification need no compiled operators.

    Raises:
        Unavailable: it is not installed, or cannot be imported for another reason.
    """
    _import("torchvision", "torchvision.models")
    return importlib.import_module("torchvision")


def _import(package: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise Unavailable(f"{package} cannot be imported: {error}; pip install 'normlab[models]'") from None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise Unavailable(f"{package} cannot be imported: {error}") from None
        _declare_torchvision_operators()
        importlib.import_module(module)


def _declare_torchvision_operators() -> None:
    logging.getLogger("normlab").warning(
        "torchvision's compiled operators do not fit this torch; timm does without them"
    )
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
