"""Networks of timm and torchvision. Nothing else imports either."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from normlab.errors import SpecError, Unavailable, nearest
from normlab.study.objects import guarded

OWN = ("pretrained", "weights", "weights_backbone", "checkpoint_path")  # arguments that would load weights


def of_timm(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A network of timm, with random weights.

    Raises:
        SpecError: no such network, with the nearest name; or timm cannot make it, with the reason.
        Unavailable: timm is not installed.
    """
    timm = import_timm()
    if not timm.is_model(name):
        raise SpecError(_unlisted("timm", name.partition(".")[0], timm.list_models()))
    return guarded(lambda: timm.create_model(name, **{**arguments, "pretrained": False}), f"model 'timm:{name}'")


def of_torchvision(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A network of torchvision, with random weights.

    Raises:
        SpecError: no such network, with the nearest name; or torchvision cannot make it, with the reason.
        Unavailable: torchvision is not installed.
    """
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
