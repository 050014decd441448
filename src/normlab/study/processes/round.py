"""One run attempted by several processes: they meet, say how they fared, and part."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # pyright: ignore[reportPrivateImportUsage]

from normlab.errors import ProcessFailed, last_line
from normlab.study.distributed import World

TIMEOUT = timedelta(minutes=10)  # of a collective: how far apart the processes may be
GRACE = 60.0  # seconds between the first process's end and the others'
ANSWER = 5.0  # seconds for a sign of life
POLL = 0.05


@dataclass(frozen=True)
class Report:
    """How a process fared; `error` is empty where all went well, else the last line, and `traceback` all of it."""

    error: str = ""
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Report:
        """Of a process that raised."""
        return cls(last_line(error), "".join(traceback.format_exception(error)))


@dataclass(frozen=True)
class Round:
    """What the processes of one run tell each other besides tensors, through a key-value store of torch.

    "cause" is the rank of the first that failed: what the others run into after that are consequences. A process that
    sees it says that it is alive; who neither reports nor does that is gone.
    """

    store: Store
    world: World

    def arrive(self) -> None:
        """Say that this process is here."""
        self.store.set(f"here/{self.world.rank}", "1")

    def await_all(self, check: Callable[[], None]) -> None:
        """Wait until all are here; `check` raises where one of them cannot come."""
        keys = [f"here/{rank}" for rank in range(self.world.size)]
        while not self.store.check(keys):
            check()
            time.sleep(POLL)

    @contextmanager
    def joined(self, device: str, lost: Callable[[], str] = str) -> Generator[None, None, None]:
        """Inside, torch.distributed is ready to use.

        Args:
            device: where this process computes.
            lost: says which process is gone, if one is; what it knows better than a broken connection.
        """
        dist.init_process_group(
            _backend(device, self),
            store=PrefixStore("group", self.store),
            rank=self.world.rank,
            world_size=self.world.size,
            timeout=TIMEOUT,
        )
        parted = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(parted, lost), daemon=True)
        watcher.start()
        try:
            yield
        except BaseException:
            _abort()  # the others' collectives fail now, not in ten minutes
            raise
        finally:
            parted.set()
            watcher.join()
            if dist.is_initialized():
                dist.destroy_process_group()

    def _watch(self, parted: threading.Event, lost: Callable[[], str]) -> None:
        """While this process works: answer where another one failed, and break off what waits for it on GPUs."""
        with suppress(RuntimeError):  # the store is gone, and with it the first process
            while not parted.wait(0.5):
                if self.store.check(["cause"]) or lost():
                    self.store.set(f"alive/{self.world.rank}", "1")
                    if dist.is_initialized() and dist.get_backend() != "gloo":  # whose sockets tell it of themselves
                        _abort()
                    return

    def failed(self, report: Report) -> None:
        """Say that this process failed; the first one to say so is the cause."""
        self.store.compare_set("cause", "", str(self.world.rank))
        self._say(report)

    def done(self) -> None:
        """Say that this process is through."""
        self._say(Report())

    def _say(self, report: Report) -> None:
        self.store.set(f"report/{self.world.rank}", json.dumps(vars(report)))

    def report(self, rank: int) -> Report | None:
        """What a process has said, None before it does."""
        key = f"report/{rank}"
        return Report(**json.loads(self.store.get(key))) if self.store.check([key]) else None

    def cause(self) -> int:
        """Which process failed first."""
        return int(self.store.get("cause"))

    def silent(self, lost: Callable[[], str]) -> list[int]:
        """After a failure: the processes that give no sign of life, though they had time to, or one is known `lost`."""
        deadline = time.monotonic() + ANSWER
        others = list(range(1, self.world.size))
        while others and not lost() and time.monotonic() < deadline:
            others = [r for r in others if not (self.report(r) or self.store.check([f"alive/{r}"]))]
            time.sleep(POLL)
        return others

    def await_reports(self, check: Callable[[], None]) -> None:
        """Wait, in the first process, until all others are through.

        Raises:
            ProcessFailed: one is not, long after this one.
        """
        deadline = time.monotonic() + GRACE
        for rank in range(1, self.world.size):
            while (report := self.report(rank)) is None:
                check()
                if time.monotonic() > deadline:
                    raise ProcessFailed(
                        f"rank {rank} of {self.world.size} processes was not through {GRACE:.0f} s after the first "
                        "one; all should call the same methods of context.world in the same order"
                    )
                time.sleep(POLL)
            if report.error:
                raise self.failure(rank, report)

    def failure(self, rank: int, report: Report) -> ProcessFailed:
        """The error of another process as one of this process."""
        error = ProcessFailed(f"rank {rank} of {self.world.size} processes: {report.error}")
        error.__cause__ = _Elsewhere(report.traceback)
        return error

    def part(self) -> None:
        """Let the others go; the first process does this last."""
        self.store.set("over", "1")

    def await_parting(self) -> None:
        """Stay, so that nobody's last collective breaks, until the first process has what it needs."""
        while not self.store.check(["over"]):
            time.sleep(POLL)


class _Elsewhere(Exception):
    """The traceback of another process, shown above ours."""

    def __str__(self) -> str:
        return f"\n{self.args[0].rstrip()}"


def _abort() -> None:
    if dist.is_initialized():
        dist.distributed_c10d._abort_process_group()  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType]


def _backend(device: str, round_: Round) -> str:
    """NCCL where each process has a GPU of its own, which it insists on."""
    if torch.device(device).type != "cuda":
        return "gloo"
    return "cpu:gloo,cuda:nccl" if _apart(device, round_) else "gloo"


def _apart(device: str, round_: Round) -> bool:
    """Does no other process use this process's GPU?"""
    mine = str(torch.cuda.get_device_properties(device).uuid)  # pyright: ignore[reportUnknownMemberType]
    round_.store.set(f"gpu/{round_.world.rank}", mine)
    everyone = [round_.store.get(f"gpu/{rank}") for rank in range(round_.world.size)]
    return len(set(everyone)) == len(everyone)
