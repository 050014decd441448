"""Rules that a normalizer brings along for training parameters of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn


@dataclass(frozen=True)
class TrainingRule:
    """How a parameter that is neither weight nor bias is to be trained; it never decays.

    Args:
        group: name of the optimizer group that it shares with all parameters of this rule.
        lr_divisor: they learn at lr / lr_divisor.
        max_norm: largest 2-norm of the gradient of the whole group; a longer one is scaled down to it.
        fixed_by: the layer's buffer that is not 0 once the parameter has its final value and takes no more steps.
    """

    group: str
    lr_divisor: float = 1.0
    max_norm: float | None = None
    fixed_by: str | None = None


class HasRules:
    """Base of layers with `TrainingRule`s, by name of the parameter."""

    TRAINING: ClassVar[Mapping[str, TrainingRule]]


def training_rules(model: nn.Module) -> Iterator[tuple[nn.Module, str, TrainingRule]]:
    """Layer, parameter name and rule, for every parameter in the model that has one."""
    for module in model.modules():
        if isinstance(module, HasRules):
            yield from ((module, name, rule) for name, rule in module.TRAINING.items())
