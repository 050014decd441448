"""Tells when a step of training is over: when an optimizer of the model's parameters has stepped."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook


class Clock:
    """Calls `tick` after each step of the optimizer that holds parameters of the model.

    Where several do, such as one for matrices and one for vectors, the first that steps counts, so that a step of the
    training is one of them each. If another one steps twice meanwhile, that one counts from then on: the discriminator
    that learns five times as often as the generator, or a new optimizer with which training goes on.

    Attributes:
        ticks: how often it has.
    """

    def __init__(self, model: nn.Module, tick: Callable[[], None]) -> None:
        self.model, self.tick, self.ticks = model, tick, 0
        self._known: weakref.WeakKeyDictionary[Optimizer, bool] = weakref.WeakKeyDictionary()
        self._counts: weakref.ref[Optimizer] | None = None
        self._others: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._handle = register_optimizer_step_post_hook(self._stepped)

    def stop(self) -> None:
        """Listen no longer."""
        self._handle.remove()

    def _stepped(self, optimizer: Optimizer, _: Any, __: Any) -> None:
        if not self._holds(optimizer):
            return
        counting = None if self._counts is None else self._counts()
        if counting is None or counting is optimizer or optimizer in self._others:
            self._counts = weakref.ref(optimizer)
            self._others.clear()
            self.ticks += 1
            self.tick()
        else:
            self._others.add(optimizer)

    def _holds(self, optimizer: Optimizer) -> bool:
        if optimizer not in self._known:
            own = {id(parameter) for parameter in self.model.parameters()}
            held = (parameter for group in optimizer.param_groups for parameter in group["params"])
            self._known[optimizer] = any(id(parameter) in own for parameter in held)
        return self._known[optimizer]
