"""Tells when a step of training is over: when an optimizer of the model's parameters has stepped."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

PATIENCE = 10
"""How often one of the others steps until the optimizer that ended the steps is taken to be used no more."""


class Clock:
    """Calls `tick` after each step of the optimizer that ends the steps of the training.

    That is the last one that brings parameters of the model which none before it holds: of a discriminator and a
    generator that take turns the second, of one optimizer for matrices and one for vectors that which steps later. One
    that brings none, such as the base of a wrapper, ends steps only where that one is used no more: it is deleted, or
    another one for the same parameters has stepped twice meanwhile, or any other one more often than `PATIENCE`.

    An optimizer that holds part of what is trained may be the first of several, or alone with frozen layers that were
    not told so. Until it is known which, `hold` is called in place of `tick`: what was measured so far is either a step
    of its own, as `release` says, or the beginning of one.

    Attributes:
        heard: has an optimizer of the model stepped?
    """

    def __init__(
        self, model: nn.Module, tick: Callable[[], None], hold: Callable[[], None], release: Callable[[], None]
    ) -> None:
        self.model, self.tick, self.hold, self.release, self.heard = model, tick, hold, release, False
        self._held: weakref.WeakKeyDictionary[Optimizer, frozenset[int]] = weakref.WeakKeyDictionary()
        self._ends: weakref.ref[Optimizer] | None = None
        self._waits_for = frozenset(id(p) for p in model.parameters() if p.requires_grad)
        self._turns: Counter[int] = Counter()
        self._seen: set[int] = set()
        self._handle = register_optimizer_step_post_hook(self._stepped)

    def stop(self) -> None:
        """Listen no longer."""
        self._handle.remove()

    @property
    def holds(self) -> bool:
        """Is it not known yet whether the step is over?"""
        return self.heard and bool(self._waits_for)

    def settle(self) -> None:
        """What was held back is a step."""
        self._waits_for = frozenset()
        self.release()

    def _stepped(self, optimizer: Optimizer, _: Any, __: Any) -> None:
        new = optimizer not in self._held
        own = self._parameters_of(optimizer)
        if not own:
            return
        self.heard = True
        brings = not own <= self._seen
        self._seen |= own
        if self._waits_for and not new:  # the others that it waited for do not come
            self.settle()
        self._turns[id(optimizer)] += 1
        if brings or self._replaces(optimizer, own):
            self._ends = weakref.ref(optimizer)
        if self._waits_for and not self._waits_for <= self._seen:
            self.hold()
        elif self._ends is not None and self._ends() is optimizer:
            self._waits_for = frozenset()
            self._turns.clear()
            self.tick()

    def _replaces(self, optimizer: Optimizer, own: frozenset[int]) -> bool:
        ended = None if self._ends is None else self._ends()
        if ended is None:
            return True
        return self._turns[id(optimizer)] > (1 if own >= self._held[ended] else PATIENCE)

    def _parameters_of(self, optimizer: Optimizer) -> frozenset[int]:
        if optimizer not in self._held:
            own = {id(parameter) for parameter in self.model.parameters()}
            held = (id(parameter) for group in optimizer.param_groups for parameter in group["params"])
            self._held[optimizer] = frozenset(one for one in held if one in own)
        return self._held[optimizer]
