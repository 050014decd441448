"""What rules look at: a model, what trains it, and what was measured on a batch, once for all of them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from normlab.doctor import passes
from normlab.doctor.base import NEEDS, Need, NotChecked
from normlab.doctor.layers import called
from normlab.doctor.passes import Pass
from normlab.doctor.processes import Processes
from normlab.errors import NormlabError
from normlab.inputs import Averaged, Inputs, alone, averaged, failure_text, inside, obstacle, sandbox
from normlab.surgery import Site, norm_sites
from normlab.surgery.statistics.borrow import modes_kept
from normlab.surgery.statistics.kept import Kept, keepers
from normlab.surgery.wrapped import is_compiled


class Case:
    """A model and what trains it.

    Args:
        given: as it was given. model: what is inside DDP, torch.compile and averages.
        averaged: which average it was in, if any. compiled: was it, or a part of it?
        device: where it is run. told: by id of a distributed rule, what each process says to it.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs | None = None,
        *,
        optimizer: Any = None,
        scheduler: Any = None,
        loader: Any = None,
        device: torch.device | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.given, self.model = model, inside(model)
        self.averaged: Averaged | None = averaged(model)
        self.compiled = is_compiled(model)
        self.inputs, self.optimizer, self.scheduler, self.loader = inputs, optimizer, scheduler, loader
        first = next(chain(self.model.parameters(), self.model.buffers()), torch.empty(0))
        self.home = first.device
        self.device = device or first.device
        self.processes = processes
        self.told: dict[str, list[Any]] = {}

    @cached_property
    def sites(self) -> list[Site]:
        """All normalization layers."""
        return norm_sites(self.model)

    @cached_property
    def keepers(self) -> list[tuple[Site, Kept]]:
        """Those that keep running statistics which something moves."""
        return keepers(self.model)

    @cached_property
    def moving(self) -> list[tuple[Site, Kept]]:
        """Those whose running statistics move in training."""
        return [
            (site, keeps)
            for site, keeps in self.keepers
            if self.trains[site.name] and getattr(site.module, "momentum", 0.1) != 0
        ]

    @cached_property
    def trains(self) -> dict[str, bool]:
        """Is a norm in training mode after `model.train()`? A model may keep some of them out of it."""
        wanted = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        try:
            with modes_kept(self.model):
                self.model.train()
                return {site.name: site.module.training for site in self.sites}
        except Exception as error:  # a `train` of the user's own
            raise NotChecked(f"model.train() raises {type(error).__name__}: {error}") from None
        finally:
            for parameter, flag in wanted:
                if parameter.requires_grad != flag:  # to set it is refused for inference tensors
                    parameter.requires_grad_(flag)

    def missing(self, needs: tuple[Need, ...]) -> str | None:
        """Why a rule with these needs cannot be checked."""
        present: dict[Need, bool] = {
            "batch": self.inputs is not None,
            "data": self.inputs is not None and not self.inputs.made_up,
            "optimizer": self.optimizer is not None,
            "scheduler": self.scheduler is not None,
            "processes": self.processes is not None,
        }
        if "data" in needs and self.inputs is None:
            return NEEDS["batch"]
        return next((NEEDS[need] for need in needs if not present[need]), None)

    def trial(self, size: int | None = None) -> Pass:
        """A pass in training mode with so many of the batch's examples; all of them, and backward too, if None."""
        inputs = self._runnable()
        if size is None:
            return self.whole
        return passes.run(self.model, self.sites, inputs.first(size), self.device)

    @property
    def training(self) -> Pass:
        """The pass with the whole batch.

        Raises:
            NotChecked: the model does not run on it.
        """
        found = self.trial()
        if found.error is not None:
            raise NotChecked(f"the model does not run on the batch in training mode: {_failure(found)}")
        return found

    @property
    def tried(self) -> bool:
        """Has the pass with the whole batch been made?"""
        return "whole" in vars(self)

    @cached_property
    def whole(self) -> Pass:
        """The pass with the whole batch, which may have failed."""
        backward = bool(self.moving) and any(parameter.requires_grad for parameter in self.model.parameters())
        return passes.run(self.model, self.sites, self._runnable(), self.device, backward=backward)

    @cached_property
    def lazy(self) -> str | None:
        """What has no shape yet, in a sentence."""
        tensors = chain(self.model.named_parameters(), self.model.named_buffers())
        found = next((name for name, value in tensors if is_lazy(value)), None)
        text = f"{found} has no shape yet, being lazy: run the model once, in eval mode, before"
        return text if found is not None else None

    @property
    def failure(self) -> str | None:
        """Why the model does not run on the batch, if a rule has tried it, or on any."""
        if self.lazy is not None:
            return self.lazy
        if not self.tried or self.whole.error is None:
            return None
        text = _failure(self.whole)
        again = passes.run(self.model, self.sites, self._runnable(), self.device, training=False)
        return text if again.error is not None else f"{text}; in eval mode it runs"

    @contextmanager
    def evaluating(self) -> Generator[nn.Module]:
        """The model in eval mode, without gradients and without a trace.

        Raises:
            NotChecked: what the model raises.
        """
        size = self._runnable().size
        try:
            with sandbox(self.model, self.device), alone(self.sites), torch.no_grad():
                yield self.model.eval()
        except NormlabError:
            raise
        except Exception as error:
            raise NotChecked(f"the model does not run on the batch in eval mode: {failure_text(error, size)}") from None

    def _runnable(self) -> Inputs:
        if self.inputs is None:
            raise NotChecked(NEEDS["batch"])
        reason = self.lazy or obstacle(self.model)
        if reason is not None:
            raise NotChecked(reason)
        return self.inputs

    def step(self, site: Site) -> float:
        """The weight of the newest batch in a layer's running statistics."""
        momentum, module = getattr(site.module, "momentum", None), site.module
        if momentum is None:
            return 1 / (int(getattr(module, "num_batches_tracked", 0)) + 1)
        return 1 - momentum if getattr(module, "momentum_convention", "torch") == "keep" else float(momentum)


def _failure(found: Pass) -> str:
    """What went wrong in a pass, in one line: where, what, and a smaller batch if memory ran out."""
    error = found.error
    assert error is not None
    where = f"{called(found.at.site)} on {'x'.join(map(str, found.at.shape))}: " if found.at is not None else ""
    return failure_text(error, found.size, where)
