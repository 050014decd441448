"""The average of a network's weights over training."""

# The foreach functions are torch's own way to write an optimizer, and have no public name.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from normlab.surgery import recalibrate
from normlab.surgery.statistics.kept import keepers


class Average:
    """An exponential moving average of the weights, in a network of its own.

        w̄ ← w                     after the first step
        w̄ ← d w̄ + (1 - d) w      after every other

    Running statistics are not averaged: they would be those of no network. They are computed anew, from training
    batches that go through the averaged network, before it is evaluated (`recalibrate`); other buffers are those of
    the network in training.

    Args:
        model: in training; it is copied here.
        decay: d.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.begun = False
        self._weights: list[Tensor] = list(self.model.parameters())

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """After a step of the optimizer."""
        live: list[Tensor] = [p.detach() for p in model.parameters()]
        if self.begun:
            torch._foreach_lerp_(self._weights, live, 1 - self.decay)
        else:
            torch._foreach_copy_(self._weights, live)
        self.begun = True

    @torch.no_grad()
    def settle(self, model: nn.Module, batches: Iterable[Tensor], forward: Callable[[Any, Any], Any]) -> None:
        """Buffers for the weights as they are now.

        Args:
            model: in training.
            batches: of training images.
            forward: runs a network on one.
        """
        for mine, live in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(live)
        if keepers(self.model):
            recalibrate(self.model, batches, forward=forward)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"begun": self.begun, "model": self.model.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Back from a checkpoint."""
        self.begun = state["begun"]
        self.model.load_state_dict(state["model"])
