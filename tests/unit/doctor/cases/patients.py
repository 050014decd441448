"""For each rule that one process can check: a model with the fault as users met it, its repair, and a sound model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import normlab
import normlab.doctor
from normlab.study.models import create_model, import_timm

timm = import_timm()


@dataclass
class Patient:
    """A model, and what else `doctor` is given."""

    model: nn.Module
    batch: Any = None
    more: dict[str, Any] = field(default_factory=dict)

    def examined(self, rule: str | None):
        return normlab.doctor(self.model, self.batch, select=rule, **self.more)


Make = Callable[[], Patient]
FAULTY: dict[str, dict[str, Make]] = {}
SOUND: dict[str, dict[str, Make]] = {}
REPAIR: dict[str, Callable[[Patient], Patient]] = {}
"""The fix that the rule names, on its first faulty patient."""


def _into(place: dict[str, dict[str, Make]], rule: str) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        place.setdefault(rule, {})[make.__name__] = make
        return make

    return add


def faulty(rule: str) -> Callable[[Make], Make]:
    return _into(FAULTY, rule)


def sound(rule: str) -> Callable[[Make], Make]:
    return _into(SOUND, rule)


def repair(rule: str):
    def add(function):
        REPAIR[rule] = function
        return function

    return add


def resnet(**options: Any) -> nn.Module:
    return create_model("resnet8(width=8)", in_channels=3, num_classes=4)


def images(n: int = 8, size: int = 12, shift: float = 0.0) -> torch.Tensor:
    """Like images: each example has a brightness of its own."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(n, 3, size, size, generator=generator)
    return noise + torch.randn(n, 3, 1, 1, generator=generator) + shift


def train(model: nn.Module, updates: int, shift: float = 0.0) -> nn.Module:
    """Forward passes in training mode: what moves running statistics."""
    model.train()
    with torch.no_grad():
        for _ in range(updates):
            model(images(shift=shift))
    return model


def loader(examples: int, size: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images(examples)), batch_size=size, **options)


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def reached(found: Any) -> bool:
    """Were the one-batch rules checked, with nothing found?"""
    return {"NL005", "NL010", "NL017", "NL029", "NL103"} <= set(found.clean) and found.exit_code == 0
