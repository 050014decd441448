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

    Where several do, such as one for matrices and one for vectors, the first that steps counts; if another one steps
    twice meanwhile, that one counts from then on, as where training goes on with a new optimizer.
    """

    def __init__(self, model: nn.Module, tick: Callable[[], None]) -> None:
        self.model, self.tick = model, tick
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
        first = self._counts is None
        own = self._counts is not None and self._counts() is optimizer
        if first or own or optimizer in self._others:
            self._counts = weakref.ref(optimizer)
            self._others.clear()
            self.tick()
        else:
            self._others.add(optimizer)

    def _holds(self, optimizer: Optimizer) -> bool:
        if optimizer not in self._known:
            own = {id(parameter) for parameter in self.model.parameters()}
            held = (parameter for group in optimizer.param_groups for parameter in group["params"])
            self._known[optimizer] = any(id(parameter) in own for parameter in held)
        return self._known[optimizer]
