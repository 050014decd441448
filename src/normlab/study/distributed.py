"""The processes that share one run, and what they tell each other."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normlab.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor, nn


QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # DDP warns of parameters that it looked for in vain, and gloo of lost peers


@dataclass(frozen=True)
class World:
    """This process among those of one run; every method is what it says also where there is one process only.

    All processes call the same methods in the same order: each waits for the others. What they decide, they decide
    alike, from numbers that are the same in all of them.

    Attributes:
        rank: 0 is the first, which alone writes to the store.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether files are this process's business."""
        return self.rank == 0

    @property
    def key(self) -> tuple[int, ...]:
        """What keys a stream that processes draw from separately, such as dropout; the first one draws as if alone."""
        return (self.rank,) if self.rank else ()

    def part(self, count: int) -> slice:
        """This process's part of `count` examples of a batch or a split: neighbours, as equally many as can be."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def check(self, batch_size: int, train: int, *others: int) -> None:
        """Refuse examples of which some process would get none.

        Args:
            train: number of training examples, in batches of `batch_size`, of which the last one may be smaller.
            others: numbers of examples of other splits, each of them shared as a whole.

        Raises:
            SpecError: says which batch is too small.
        """
        last = train % batch_size or batch_size
        small = min(batch_size, last, *(count for count in others if count))
        if small >= self.size:
            return
        which = "a batch" if small == batch_size else "a split"
        if small == last != batch_size:
            which = f"the last batch of {train} training examples in batches of {batch_size}"
        raise SpecError(
            f"{which} has {small} example{'s' * (small > 1)}, too few for {self.size} processes; fewer devices, or "
            "another train.batch_size"
        )

    def weigh(self, loss: Tensor, count: int) -> Tensor:
        """The mean loss of this process's part of a batch of `count`, so that the processes' mean is the batch's.

        DDP gives each process the same weight, also where parts are unequal.
        """
        if self.size == 1:
            return loss
        part = self.part(count)
        return loss * ((part.stop - part.start) * self.size / count)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of what the processes have; not differentiated."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def gather(self, part: Tensor, count: int) -> Tensor:
        """What each process has for its `part(count)`, [examples of it, ...], put together: [count, ...]."""
        if self.size == 1:
            return part
        import torch
        import torch.distributed as dist

        slices = [World(rank, self.size).part(count) for rank in range(self.size)]
        longest = max(s.stop - s.start for s in slices)
        sent = part.to(torch.uint8) if part.dtype == torch.bool else part  # gloo sends no bool
        padded = sent.new_zeros(longest, *part.shape[1:])
        padded[: len(part)] = sent
        rows = [torch.empty_like(padded) for _ in slices]
        dist.all_gather(rows, padded)
        return torch.cat([row[: s.stop - s.start] for row, s in zip(rows, slices, strict=True)]).to(part.dtype)

    def broadcast(self, value: Any) -> Any:
        """What the first process has."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value if self.is_first else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def synchronise(self, model: nn.Module) -> nn.Module:
        """The model with batch statistics over the parts of all processes; before there is an optimizer."""
        if self.size == 1:
            return model
        from normlab.study.processes.batches import synchronise

        return synchronise(model)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as it is trained: its gradients are those of the processes' mean loss. The same parameters."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 has another name for the first option
            return DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)

    def settle(self, model: nn.Module) -> None:
        """Statistics that a layer keeps of this process's part become those of all parts; at the end of an epoch."""
        if self.size > 1:
            from normlab.study.processes.batches import settle

            settle(model)


def launched() -> World:
    """This process among those that torchrun has started, by the environment that it gives them."""
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    return World()


def taken(by: World, devices: int, workers: int | None, on: str | None) -> tuple[int, int | None]:
    """Processes of a run, and runs at once, given what torchrun has started: its processes share one run at a time.

    Raises:
        SpecError: the study or the command wants something else.
    """
    if by.size == 1:
        return devices, workers
    if on not in (None, "local") or workers:
        other = f"on {on!r}" if workers is None else f"{workers} workers"
        raise SpecError(f"torchrun has started {by.size} processes, which share one run at a time; leave out {other}")
    if devices not in (1, by.size):
        raise SpecError(
            f"resources.devices = {devices}, and torchrun has started {by.size} processes; start {devices} "
            f"(--nproc-per-node {devices}), or set resources.devices={by.size}"
        )
    return by.size, 0
