"""Puts candidates into copies of a model, and measures them there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from normlab.errors import NormlabError, SpecError, came
from normlab.inputs import alone, failure_text, obstacle, same_random_numbers
from normlab.screen.candidates import put
from normlab.screen.measure import NotRun, Pass, Properties, batch_noise, places, run, summarise
from normlab.screen.pool import LEAST, Pool
from normlab.seeding import Streams
from normlab.surgery import norm_sites
from normlab.surgery.wrapped import unwrap


class Bench:
    """Makes copies of a model, and measures candidates in them."""

    def __init__(self, model: Any, batch_size: int, seeds: int, batches: int, device: torch.device | None) -> None:
        if not (isinstance(model, nn.Module) or callable(model)):
            raise SpecError(f"screen takes a torch module, or a function that makes one; got {came(model)}")
        self.model, self.batch_size, self.seeds, self.batches = model, batch_size, seeds, batches
        self.loss = ""
        first = self.make(0)
        reason = obstacle(first)
        if reason is not None:
            raise SpecError(reason)
        if not places(unwrap(first)):
            raise SpecError(
                "the model has no convolution and no fully connected layer (as modules), at whose outputs a candidate "
                "is measured"
            )
        tensor = next(first.parameters(), next(first.buffers(), torch.empty(0)))
        self.device = device or tensor.device
        self.parameters = sum(parameter.numel() for parameter in first.parameters())
        self.frozen = sum(not p.requires_grad for p in first.parameters())
        self.zeros = sum(_starts_at_zero(site.module) for site in norm_sites(unwrap(first)))

    def make(self, seed: int) -> nn.Module:
        """A new model for a seed; of a model that was given, a copy."""
        if isinstance(self.model, nn.Module):
            try:
                return copy.deepcopy(self.model)
            except Exception as error:  # of whatever the model holds
                raise SpecError(f"the model cannot be copied: give a function that makes it. {error}") from error
        with same_random_numbers():
            torch.manual_seed(Streams(seed).integer("model"))
            made = self._made()
        if not isinstance(made, nn.Module):
            raise SpecError(f"the function that was given should make a torch module, and made {came(made)}")
        return made

    def _made(self) -> Any:
        try:
            return self.model()
        except Exception as error:  # of somebody's function
            raise SpecError(f"the function that makes the model raised {type(error).__name__}: {error}") from error

    def examine(self, spec: str, pool: Pool) -> Properties:
        """What is found of a candidate over all seeds and batches.

        Raises:
            NotRun: it cannot be put into the model, or does not run.
        """
        passes, alike = list[Pass](), list[Pass]()
        noises: list[float] = []
        for seed in range(self.seeds):
            streams = Streams(seed)
            model = self._with(spec, streams)
            where = places(model)
            whole = min(pool.inputs.size, max(LEAST, 2 * self.batch_size))
            with alone(norm_sites(model)):
                for number in range(self.batches):
                    batch = pool.batch(self.batch_size, streams, number)
                    passes.append(self._try(streams, number, run, model, where, batch))
                if self.batch_size == 1:  # of which no two examples can be compared
                    alike.append(self._try(streams, 0, run, model, where, pool.batch(2, streams, 0)))
                if whole >= 2 * self.batch_size:
                    everybody = pool.batch(whole, streams, self.batches)
                    noises.append(self._try(streams, 0, batch_noise, model, everybody, self.batch_size))
        self.loss = passes[0].said
        return summarise(passes, alike or passes, max(2, self.batch_size), noises)

    def _with(self, spec: str, streams: Streams) -> nn.Module:
        model = unwrap(self.make(streams.seed))
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        try:
            return put(model, spec, streams).to(self.device)
        except NormlabError as error:
            raise NotRun(f"cannot be put in: {error}") from error

    def _try(self, streams: Streams, number: int, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result for these arguments and the device; dropout and the like draw the same for all candidates."""
        try:
            with same_random_numbers(self.device):
                torch.manual_seed(streams.integer("dropout", number))
                return function(*arguments, self.device)
        except NotRun:
            raise
        except NormlabError as error:
            raise NotRun(f"does not run at this batch size: {error}") from error
        except Exception as error:  # whatever somebody else's model raises is an answer here
            raise NotRun(failure_text(error, self.batch_size, "does not run at this batch size: ")) from error

    def values(self, pool: Pool) -> int:
        """In a batch."""
        return sum(part.numel() for part in pool.inputs.tensors) // pool.inputs.size * self.batch_size

    def notes(self, pool: Pool) -> tuple[str, ...]:
        """What a reader should know of the measurement."""
        notes: list[str] = []
        if pool.inputs.size < 2 * self.batch_size:
            notes.append(
                f"{pool.inputs.size} examples are too few to tell how outputs depend on the rest of their batch, which "
                f"speaks against statistics of small batches: give {2 * self.batch_size} or more"
            )
        if pool.inputs.made_up:
            notes.append(
                "random numbers: to a network they are more alike than images are, and outputs depend more on the rest "
                "of the batch; real data tells more"
            )
        if self.frozen:
            notes.append(
                f"{self.frozen} frozen parameters are trained here: a screening is about training from scratch"
            )
        if self.zeros:
            notes.append(
                f"{self.zeros} scales start at 0, as the model wants it: what lies behind them is not seen before "
                "training, so unstable candidates may look healthy (timm: zero_init_last=False shows it)"
            )
        if self.batch_size == 1:
            notes.append("batches of one example: whether examples look alike is told from batches of two")
        return tuple(notes)


def _starts_at_zero(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and not bool(weight.detach().any())
