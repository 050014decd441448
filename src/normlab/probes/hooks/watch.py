"""Hooks on the layers of a model for the time of one step, and what they measure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normlab.functional.backends import traced
from normlab.functional.normalize import full_precision
from normlab.layers.circumstances import in_backward
from normlab.probes.base import Place, Probe, Target
from normlab.probes.cosine_matrix import cosine_matrix
from normlab.probes.hooks.copies import keep_out_of_copies
from normlab.probes.hooks.plan import Key, Plan
from normlab.probes.hooks.seen import Hook, Left, arriving, first_tensor, is_activation, unfit
from normlab.probes.hooks.tally import Tally
from normlab.probes.standard import standard

_BEFORE: set[Place] = {"before", "standard", "gradient"}
_WHERE_IT_ENTERS: set[Place] = {*_BEFORE, "parameters"}
_AFTER: set[Place] = {"after", "cosines"}


class Watch:
    """Measures from `start` to `stop`; what it has found then is in `tallies`.

    Attributes:
        reasons: by name of a target, why a pass could not be measured, or has no gradient.
        reached: names of the targets that were called.
        scale: of the loss in this step, where it is known already.
        passes: of the model itself. others: passes of it in the other mode, which are not measured.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.tallies: dict[Key, Tally] = {
            (at.name, probe.name): Tally(probe.squares) for at, probes in plan.probes.items() for probe in probes
        }
        self.reasons: dict[str, str] = {}
        self.reached: set[str] = set()
        self.passes = self.others = 0
        self.scale: float | None = None
        self._hooks = ExitStack()
        self._fresh: dict[int, tuple[Left, Target]] = {}
        self._taken: dict[int, Target] = {}
        self._outputs: Counter[str] = Counter()
        self._followers: dict[str, list[str]] = {}
        self._with_parameters = False

    def start(self) -> None:
        """Put the hooks on."""
        add = self._hooks.callback
        model = self.plan.model
        for module in model.modules():
            add(keep_out_of_copies(module))  # which ends after the hooks are off
        add(model.register_forward_pre_hook(Hook(self._count), prepend=True).remove)
        for target, probes in self.plan.probes.items():
            places = {probe.place for probe in probes}
            if target.norm is not None and places & _WHERE_IT_ENTERS:
                hook = Hook(self._entering, target)
                add(target.module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            if places & _AFTER or (target.norm is None and places & _BEFORE):
                add(target.module.register_forward_hook(Hook(self._leaving, target)).remove)
        if any(self.plan.at(target, *_AFTER) for target in self.plan.probes):
            for name, module in model.named_modules():
                if is_activation(module):
                    add(module.register_forward_pre_hook(Hook(self._entering_activation), prepend=True).remove)
                    add(module.register_forward_hook(Hook(self._leaving_activation, name)).remove)

    def stop(self) -> None:
        """Take the hooks off; what comes later from graphs of this step counts for nothing."""
        self._hooks.close()
        self._fresh.clear()
        self._taken.clear()
        self._note_followers()

    def join(self, other: Watch) -> None:
        """Add what another one has measured later in the same step."""
        for target, probes in self.plan.probes.items():
            for probe in probes:
                mine, more = (watch.tallies[target.name, probe.name] for watch in (self, other))
                if probe.place != "parameters" or not mine.weight:  # those count before the first pass
                    mine.join(more)
        self.reasons |= other.reasons
        self.reached |= other.reached
        self.passes += other.passes
        self.others += other.others

    def _note_followers(self) -> None:
        """An activation follows a layer if it has taken the output of each of its calls in this step."""
        for name, calls in self._outputs.items():
            followers = self._followers.get(name, [])
            if len(followers) == calls:
                self.plan.followed[name] = followers[-1]
            else:
                self.plan.followed.pop(name, None)

    @property
    def has_passed(self) -> bool:
        """Has a pass reached the model or one of the layers?"""
        return self.passes > 0 or bool(self.reached)

    def reason(self, target: Target, probe: Probe) -> str:
        """Why there is no value."""
        known = self.reasons.get(target.name)
        if known is not None:
            return known
        if probe.place == "gradient" and target.name in self.reached:
            return "no gradient came back to it"
        return f"no pass in {self.plan.mode} mode reached it" if self.plan.mode != "both" else "no pass reached it"

    def _measure_parameters(self) -> None:
        """Before the first pass of the step, when all has been done that belongs to the last one."""
        if self._with_parameters:
            return
        self._with_parameters = True
        for target in self.plan.probes:
            for probe in self.plan.at(target, "parameters"):
                values = probe.measure(target, self.plan.references[target.name, probe.name])
                self.tallies[target.name, probe.name].add(values, 1)

    def _count(self, *_: Any) -> None:
        self._measure_parameters()
        if in_backward():
            return
        if self._is_measured():
            self.passes += 1
        else:
            self.others += 1

    def _is_measured(self) -> bool:
        return self.plan.mode == "both" or self.plan.model.training == (self.plan.mode == "train")

    def _entering(self, target: Target, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._is_measured():
            self._before(target, first_tensor((args, kwargs)))

    def _leaving(self, target: Target, _: nn.Module, __: Any, output: Any) -> None:
        if not self._is_measured():
            return
        y = first_tensor(output)
        if target.norm is None:
            self._before(target, y)
        if not self.plan.at(target, *_AFTER) or in_backward() or not self._can_measure(target, y):
            return
        assert y is not None
        left = Left(y, target.module)
        self._fresh[left.key] = left, target
        self._outputs[target.name] += 1
        if target.name not in self.plan.followed:  # where it is, once behind the activation is enough
            self._after(target, y, replaces=False)

    def _before(self, target: Target, x: Tensor | None) -> None:
        self._measure_parameters()
        if not self._can_measure(target, x):
            return
        assert x is not None
        if not in_backward():  # where activation checkpointing repeats what has been measured
            self._measure_before(target, x)
        if not self.plan.at(target, "gradient"):
            return
        if x.requires_grad and torch.is_grad_enabled():
            x.register_hook(partial(self._returning, target))
        elif not in_backward() and torch.is_grad_enabled():
            self.reasons.setdefault(target.name, "nothing before it is trained, so no gradient is computed here")

    def _measure_before(self, target: Target, x: Tensor) -> None:
        self._measure(target, "before", x, x)
        if self.plan.at(target, "standard"):
            with _plain(x):
                found = standard(target, x)
            self._measure(target, "standard", found, x)

    def _returning(self, target: Target, gradient: Tensor) -> None:
        if traced(gradient) is None:
            self._measure(target, "gradient", gradient, gradient)

    def _entering_activation(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        x = first_tensor(args)
        found = self._fresh.pop(arriving(x), None)
        if found is not None and found[0].reaches(x):
            self._taken[id(module)] = found[1]

    def _leaving_activation(self, name: str, module: nn.Module, _: Any, output: Any) -> None:
        target = self._taken.pop(id(module), None)
        y = first_tensor(output)
        if target is None or y is None:
            return
        self._followers.setdefault(target.name, []).append(name)
        self._after(target, y, replaces=True)

    def _after(self, target: Target, y: Tensor, *, replaces: bool) -> None:
        self._measure(target, "after", y, y, replaces=replaces)
        if self.plan.at(target, "cosines"):
            with _plain(y):
                cosines = cosine_matrix(y)
            self._measure(target, "cosines", cosines, y, replaces=replaces)

    def _can_measure(self, target: Target, x: Tensor | None) -> bool:
        reason = unfit(x)
        if reason is not None:
            self.reasons[target.name] = reason
        self.reached.add(target.name)
        return reason is None

    def _measure(self, target: Target, place: Place, seen: Any, x: Tensor, *, replaces: bool | None = None) -> None:
        """Measure what a place shows of x.

        Args:
            replaces: True: in place of the last pass; False: something may come in place of this one.
        """
        for probe in self.plan.at(target, place):
            tally = self.tallies[target.name, probe.name]
            with _plain(x):
                values = probe.measure(target, seen)
            if replaces:
                tally.replace(values, len(x))
            else:
                tally.add(values, len(x), final=replaces is None)


@contextmanager
def _plain(x: Tensor) -> Generator[None]:
    """Without autograd and autocast."""
    with torch.no_grad(), full_precision(x):
        yield
