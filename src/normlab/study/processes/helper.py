"""What the processes other than the first one do: carry out the runs that they are told, and file nothing."""

from __future__ import annotations

import os
import pickle
import queue
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import torch
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from normlab.seeding import Streams
from normlab.study.context import Context, Diverged
from normlab.study.distributed import World
from normlab.study.plan import RunSpec
from normlab.study.processes.round import Report, Round
from normlab.study.run import Options, TrainFunction, threads


@dataclass(frozen=True)
class Task:
    """A run for several processes."""

    function: TrainFunction
    run: RunSpec
    options: Options

    def packed(self) -> bytes:
        """As it travels."""
        return cloudpickle.dumps(self)


def round_of(store: Store, number: int, world: World) -> Round:
    """The round in which task `number` is carried out."""
    return Round(PrefixStore(f"round{number}", store), world)


def device_of(device: str, place: int) -> str:
    """The device of the process at this place on its machine; GPUs are taken in turn from `device` on."""
    chosen = torch.device(device)
    if chosen.type != "cuda":
        return device
    return f"cuda:{((chosen.index or 0) + place) % torch.cuda.device_count()}"


def serve(tasks: Iterable[bytes], store: Store, world: World, place: int) -> None:
    """Take part in one run after another.

    Args:
        tasks: packed.
        place: of this process on its machine, which decides its GPU.
    """
    for number, packed in enumerate(tasks):
        task: Task = cloudpickle.loads(packed)
        carry_out(task, round_of(store, number, world), device_of(task.options.device, place))


def carry_out(task: Task, round_: Round, device: str) -> None:
    """This process's share of a run. What the function returns is what the first process's returns."""
    with ExitStack() as stack:
        try:
            round_.arrive()
            if device.startswith("cuda"):
                stack.enter_context(torch.cuda.device(device))
            stack.enter_context(round_.joined(device))
            stack.enter_context(threads(task.options.threads))
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="normlab-"))
            context = Context(Path(scratch), device, world=round_.world)
            with suppress(Diverged):  # a result, which the first process files
                task.function(task.run.job, Streams(task.run.stream_seed), context)
            round_.done()
            round_.await_parting()
        except (Exception, SystemExit) as error:
            round_.failed(Report.of(error))


def main() -> None:
    """A helper of a process on this machine, which started it; it dies with that one."""
    port, rank, size = map(int, sys.argv[1:])
    told: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(told,), daemon=True).start()
    store = TCPStore("127.0.0.1", port, is_master=False)
    serve(_each(told), store, World(rank, size), rank)


def _each(told: queue.SimpleQueue[bytes]) -> Iterator[bytes]:
    while True:
        yield told.get()


def _listen(told: queue.SimpleQueue[bytes]) -> None:
    """Take tasks from the parent; when there are no more, it is gone, and we go too, whatever we do."""
    try:
        while True:
            told.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(0)
