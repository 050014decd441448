"""Exchanges layers of a model, and changes them back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from normlab.errors import SpecError
from normlab.surgery.conversion import optimizers
from normlab.surgery.conversion.adapt import take_hooks
from normlab.surgery.conversion.carry import Handover, named_tensors, put
from normlab.surgery.conversion.optimizers import Optimizer


@dataclass(frozen=True)
class Swap:
    """A layer, all its names, and what takes its place with which of its tensors."""

    names: tuple[str, ...]
    old: nn.Module
    new: nn.Module
    handover: Handover


class Operation:
    """Puts the new layers of some swaps into a model, and takes them out again.

    Args:
        model: which is changed in place, unless it is itself one of the layers.
    """

    def __init__(self, model: nn.Module, swaps: Sequence[Swap]) -> None:
        self.before, self.after = model, model
        self.done = self.told = False
        self.swaps = tuple(swaps)
        self._undo = ExitStack()
        modules = dict(model.named_modules(remove_duplicate=False))
        self._places: list[tuple[nn.Module, str, Swap]] = []
        for swap in swaps:
            for name in swap.names:
                parent, _, child = name.rpartition(".")
                if name:
                    self._places.append((modules[parent], child, swap))
                else:
                    self.after = swap.new
        was, now = _parameters(model), self._parameters_after()
        self.gone, self.new = _not_in(was, now), _not_in(now, was)

    def _parameters_after(self) -> dict[str, nn.Parameter]:
        self._exchange()
        try:
            return _parameters(self.after)
        finally:
            self._exchange(back=True)

    def _exchange(self, *, back: bool = False) -> None:
        for parent, child, swap in self._places:
            vars(parent)["_modules"][child] = swap.old if back else swap.new

    def do(self, optimizer: Optimizer | None) -> None:
        """Exchange the layers, and tell the optimizer; if that fails nothing has changed."""
        with ExitStack() as undo:
            undo.callback(setattr, self, "done", False)
            self.done = True
            for swap in self.swaps:
                undo.callback(_hand_back, swap, {name: t.dtype for name, t in named_tensors(swap.old).items()})
                take_hooks(swap.old, swap.new, undo)
            undo.callback(self._exchange, back=True)
            self._exchange()
            if optimizer is not None:
                optimizers.check_owner(optimizer, self.before)
                self.told = True
                fresh = {id(parameter) for parameter in self.new.values()}
                joining = [
                    (swap.names[0], swap.old, [p for p in swap.new.parameters() if id(p) in fresh and p.requires_grad])
                    for swap in self.swaps
                ]
                optimizers.update(optimizer, list(self.gone.values()), [j for j in joining if j[2]], undo)
            self._undo = undo.pop_all()

    def undo(self) -> None:
        """Put everything back.

        Raises:
            SpecError: it was done already, or another operation has exchanged these layers again.
        """
        if not self.done:
            raise SpecError("this conversion was reverted already")
        for parent, child, swap in self._places:
            if vars(parent)["_modules"].get(child) is not swap.new:
                raise SpecError(f"{swap.names[0]} has been exchanged again since: revert what came later first")
            if "train" in vars(swap.new):
                raise SpecError(
                    f"{swap.names[0]} was frozen since, and the layer before was not: unfreeze(model) first"
                )
        self._undo.close()


def _not_in(some: dict[str, nn.Parameter], others: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    held = {id(parameter) for parameter in others.values()}
    return {name: parameter for name, parameter in some.items() if id(parameter) not in held}


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def _hand_back(swap: Swap, dtypes: dict[str, torch.dtype]) -> None:
    """The old layer gets its tensors from the new one, which may have been moved, cast or loaded in the meantime."""
    new = named_tensors(swap.new)
    kept = {source: new[name].dtype for source, name in swap.handover.kept.items() if name in new}
    cast = {dtype for source, dtype in kept.items() if dtype != dtypes[source] and dtype.is_floating_point}
    for source, name in swap.handover.kept.items():
        if source not in swap.handover.copied and name in new:
            put(swap.old, source, new[name])
    devices = {value.device for value in new.values()}
    if devices and {value.device for value in named_tensors(swap.old).values()} != devices:
        swap.old.to(devices.pop())
    if cast:
        swap.old.to(cast.pop())
    if swap.old.training != swap.new.training:
        swap.old.train(swap.new.training)
