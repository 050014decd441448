"""Executors map `attempt` over runs: worker processes of this machine, or tasks of a Ray cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Protocol

from normlab.study.executors.events import Event
from normlab.study.plan import RunSpec
from normlab.study.run import Options, TrainFunction
from normlab.study.store import Store


class Executor(Protocol):
    """Carries out what is in `waiting`, from its left end, and reports as it goes.

    `waiting` stays the caller's, who may add to it and take from it whenever an event is out; it is over when that is
    empty and nothing runs. Closing the generator stops everything; what is not finished resumes another time.

    Args:
        workers: how many runs at once; as many as there is room for unless given.

    Raises:
        StoreError: results cannot be kept, because a disk is full, say.
        SpecError: `function` cannot be sent to another process, or a run asks for more than there is.
    """

    def __call__(
        self,
        function: TrainFunction,
        waiting: deque[RunSpec],
        store: Store,
        options: Options,
        *,
        workers: int | None = None,
    ) -> Generator[Event, None, None]:
        """Carry out the runs."""
        ...


def executor(on: str | None = None) -> Executor:
    """Where runs are made.

    Args:
        on: None or "local" for processes of this machine; "ray" for a Ray of our own on this machine; "auto",
            "host:port" or "ray://host:port" for a Ray cluster that is there.

    Raises:
        SpecError: it reads like none of these.
        Unavailable: ray is not installed, or nobody answers at the address.
    """
    from normlab.study.executors import local

    if on is None or on == "local":
        return local.execute
    from normlab.study.executors.ray import connect

    return connect(on)
