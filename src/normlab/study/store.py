"""Runs on disk, one directory each, named by the run's hash.

<store>/store.json            what this directory is, and how the study was defined last
<store>/lock                  held while somebody runs the study
<store>/runs/<key>/result.json      there if and only if the run is finished; appears by atomic rename
                  /checkpoint.pt    how far an unfinished run came
                  /traceback.txt    why its last attempt failed
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import model_validator

from normlab.atomic import write_atomically
from normlab.errors import SpecError, StoreError, StoreLocked
from normlab.study.context import CHECKPOINT, PROGRESS
from normlab.study.job import Strict
from normlab.study.reading import validate

FORMAT = 1
RESULT, TRACEBACK = "result.json", "traceback.txt"


class RunResult(Strict):
    """What is kept of a finished run.

    Attributes:
        status: "diverged" is a result: training became non-finite.
        metrics: by name; None stands for a non-finite value.
        curves: name → one value per logged row; None for a non-finite value.
        correct: hexadecimal, bit-packed: which test examples were classified correctly; None where unknown.
        examples: number of those test examples.
        seconds: computing time.
    """

    key: str
    seed: int
    function: str
    job: Any
    status: Literal["ok", "diverged"]
    reason: str = ""
    counted_as: str = ""
    metrics: dict[str, float | None]
    curves: dict[str, list[float | None]]
    correct: str | None = None
    examples: int = 0
    seconds: float
    environment: dict[str, str]

    @model_validator(mode="after")
    def _whole(self) -> RunResult:
        if self.correct is not None and len(bytes.fromhex(self.correct)) != -(-self.examples // 8):
            raise ValueError(f"correct is not of {self.examples} examples")
        return self

    def correctness(self) -> NDArray[np.bool_] | None:
        """[examples] bool, or None where the training function did not say."""
        if self.correct is None:
            return None
        packed = np.frombuffer(bytes.fromhex(self.correct), dtype=np.uint8)
        return np.unpackbits(packed, count=self.examples).astype(bool)


class Store:
    """A directory of runs; see the module's text for its layout."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, *, create: bool) -> Store:
        """Check that the directory is a store, or make it one.

        Raises:
            StoreError: it cannot be written, holds something else, or is of another format.
        """
        marker = self.path / "store.json"
        try:
            if marker.exists():
                self._check_format(marker)
            elif self.path.is_dir() and any(self.path.iterdir()) and not (self.path / "runs").is_dir():
                raise StoreError(f"{self.path} holds files but is no store of runs; name an empty or new directory")
            elif create:
                (self.path / "runs").mkdir(parents=True, exist_ok=True)
                self.describe({})
        except OSError as error:
            raise StoreError(
                f"cannot use {self.path} as a store: {error.strerror}; choose another with --store"
            ) from None
        return self

    def _check_format(self, marker: Path) -> None:
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))["format"]
        except (ValueError, KeyError, TypeError):
            raise StoreError(
                f"{marker} is damaged; the runs beside it are not. Delete that file and run again"
            ) from None
        if found != FORMAT:
            raise StoreError(
                f"{self.path} has format {found}, this normlab writes {FORMAT}; choose another with --store"
            )

    def describe(self, definition: Mapping[str, Any]) -> None:
        """Write down what the store is for."""
        text = json.dumps({"format": FORMAT, "study": definition}, indent=1, ensure_ascii=False)
        write_atomically(self.path / "store.json", text)

    def directory(self, key: str) -> Path:
        """Where the run with this hash lives."""
        return self.path / "runs" / key

    def prepare(self, key: str) -> Path:
        """Make the directory of a run that is about to start; a checkpoint in it stays."""
        directory = self.directory(key)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / PROGRESS).unlink(missing_ok=True)
        except OSError as error:
            raise _cannot_write(directory, error) from None
        return directory

    def load(self, key: str) -> RunResult | None:
        """The result of a finished run, None where it is not finished.

        Raises:
            StoreError: the file is damaged (cut in the middle, say).
        """
        path = self.directory(key) / RESULT
        try:
            result = validate(RunResult, json.loads(path.read_text(encoding="utf-8")))
            if result.key != key:
                raise SpecError(f"it is the result of run {result.key}")
            return result
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, SpecError) as error:
            raise StoreError(f"{path} is damaged ({str(error).splitlines()[0]})") from None

    def set_aside(self, key: str) -> Path:
        """Rename a damaged result so that the run is repeated; the file is kept."""
        path = self.directory(key) / RESULT
        return path.replace(path.with_name(f"{RESULT}.damaged"))

    def write(self, result: RunResult) -> None:
        """Make a run finished; what it no longer needs goes."""
        directory = self.directory(result.key)
        write_atomically(directory / RESULT, result.model_dump_json(indent=None), durable=True)
        for name in (CHECKPOINT, PROGRESS, TRACEBACK):
            (directory / name).unlink(missing_ok=True)

    def write_failure(self, key: str, text: str) -> None:
        """Keep why an attempt at a run failed; its checkpoint stays, and the next attempt starts from there."""
        try:
            self.directory(key).mkdir(parents=True, exist_ok=True)  # a worker may die before it does this
            write_atomically(self.directory(key) / TRACEBACK, text)
        except OSError as error:
            raise _cannot_write(self.directory(key), error) from None

    def failure(self, key: str) -> str | None:
        """The traceback of a run whose last attempt raised, None otherwise."""
        with suppress(OSError):
            return (self.directory(key) / TRACEBACK).read_text(encoding="utf-8")
        return None

    def has_checkpoint(self, key: str) -> bool:
        """Whether an unfinished run can go on where it was."""
        return (self.directory(key) / CHECKPOINT).exists()

    def progress(self, key: str) -> float:
        """Share of an unfinished run that is done, in [0, 1]."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return float(json.loads((self.directory(key) / PROGRESS).read_text(encoding="utf-8"))["done"])
        return 0.0

    @contextmanager
    def locked(self) -> Generator[None, None, None]:
        """Hold the store for writing; the operating system lets go of it when the process dies, however it dies.

        Raises:
            StoreLocked: somebody holds it; the message says who.
        """
        owner = self.path / "lock.owner"
        lock = FileLock(self.path / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StoreLocked(f"{self.path} is in use by {_owner(owner)}; wait for it, or stop it") from None
        except OSError as error:
            raise StoreError(f"cannot lock {self.path}: {error.strerror}") from None
        try:
            since = datetime.now().astimezone().isoformat(timespec="seconds")
            write_atomically(owner, f"process {os.getpid()} on {socket.gethostname()} since {since}")
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()


def _cannot_write(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write to {path}: {error.strerror}; what is finished is kept, and the same command goes on"
    )


def _owner(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return "another process"
