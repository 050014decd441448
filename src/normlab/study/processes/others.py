"""The processes besides the first one, as the first one sees them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from contextlib import suppress

from torch.distributed import Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

from normlab.errors import ProcessFailed, ProcessLost
from normlab.study.distributed import QUIET, World
from normlab.study.processes.helper import Task, round_of
from normlab.study.processes.round import Round

START = "import sys; sys.path[:] = {path!r}; from normlab.study.processes.helper import main; main()"


class Others(ABC):
    """Who else takes part in runs."""

    def __init__(self, store: Store, size: int) -> None:
        self.store, self.size = store, size
        self.number = 0  # of the next run

    def begin(self, task: Task) -> Round:
        """Tell them what to do."""
        round_ = round_of(self.store, self.number, World(0, self.size))
        self.tell(task.packed())
        self.number += 1
        return round_

    @abstractmethod
    def tell(self, packed: bytes) -> None:
        """Send them a task."""

    @abstractmethod
    def lost(self) -> str:
        """Which of them has ended and how, as far as can be seen from here; empty for none."""

    @abstractmethod
    def gone(self, text: str) -> ProcessFailed:
        """The error where one of them is gone."""

    @abstractmethod
    def failed(self) -> None:
        """A run has failed, or was interrupted."""

    @abstractmethod
    def dismiss(self) -> None:
        """There are no more runs."""


class Helpers(Others):
    """Processes on this machine, started here."""

    def __init__(self, size: int) -> None:
        master = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        super().__init__(master, size)
        command = [sys.executable, "-c", START.format(path=sys.path), str(master.port)]
        # a process group of their own: Ctrl-C is for the first process, which ends the others
        self.started = [
            subprocess.Popen(
                [*command, str(rank), str(size)], stdin=subprocess.PIPE, process_group=0, env=os.environ | QUIET
            )
            for rank in range(1, size)
        ]

    def tell(self, packed: bytes) -> None:
        """Through their standard input, which nobody else can write to."""
        for helper in self.started:
            assert helper.stdin is not None
            with suppress(BrokenPipeError):  # it has ended, which `lost` tells
                pickle.dump(packed, helper.stdin)
                helper.stdin.flush()

    def lost(self) -> str:
        """None of them ends before we do, unless something ends it."""
        codes = [(rank, helper.poll()) for rank, helper in enumerate(self.started, 1)]
        ended = [(rank, code) for rank, code in codes if code is not None]
        return f"rank {ended[0][0]} of {self.size} processes {_ending(ended[0][1])}" if ended else ""

    def gone(self, text: str) -> ProcessFailed:
        """It costs this run; the next one starts others."""
        return ProcessFailed(text)

    def failed(self) -> None:
        """They are ended, whatever they are doing."""
        self.dismiss()

    def dismiss(self) -> None:
        """Kill them."""
        for helper in self.started:
            helper.kill()
        for helper in self.started:
            helper.communicate()


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed; for memory?"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


class Followers(Others):
    """The processes of torchrun, which watches them, and ends all where one ends."""

    def __init__(self) -> None:
        store, rank, size = meet()
        assert rank == 0
        super().__init__(store, size)

    def tell(self, packed: bytes) -> None:
        """Through torchrun's store; an empty task means that there are no more."""
        self.store.set(f"task{self.number}", packed)  # pyright: ignore[reportArgumentType] - bytes are fine

    def lost(self) -> str:
        """Unknown from here."""
        return ""

    def gone(self, text: str) -> ProcessFailed:
        """No run can be made any more."""
        return ProcessLost(f"{text}; what is finished is kept, and the same command goes on from the last checkpoint")

    def failed(self) -> None:
        """They stay."""

    def dismiss(self) -> None:
        """They end."""
        self.tell(b"")


def meet() -> tuple[Store, int, int]:
    """The store of the processes that torchrun has started, this one's rank, and their number."""
    return next(iter(rendezvous("env://")))
