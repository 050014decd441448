"""Runs on disk or behind a URL, one folder each, named by the run's hash.

<store>/store.json            what this directory is, and how the study was defined last
<store>/lock, lock.owner      held while somebody runs the study, and by whom; behind a URL lock.json
<store>/runs/<key>/result.json      there if and only if the run is finished; appears by atomic rename
                  /checkpoint.pt    how far an unfinished run came
                  /progress.json    the share of it that is done
                  /traceback.txt    why its last attempt failed
                  /result.json.damaged  one that could not be read, set aside
<store>/decisions.jsonl       the looks of the stopping rule
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from normlab.errors import Damaged, SpecError, StoreError
from normlab.study.context import CHECKPOINT, PROGRESS
from normlab.study.reading import validate
from normlab.study.result import RunResult
from normlab.study.storage import storage

FORMAT = 1
MARKER, RESULT, TRACEBACK = "store.json", "result.json", "traceback.txt"
PASSING = CHECKPOINT, PROGRESS, TRACEBACK  # files that a finished run no longer has
REMOTE_EVERY = 5.0  # seconds between two looks at how far a run is, behind a URL


class Store:
    """The runs of a study; see the module's text for its layout.

    Args:
        place: a directory, or a URL that fsspec reaches, `s3://bucket/study`.
    """

    def __init__(self, place: Path | str) -> None:
        self.files = storage(place)
        self._shares: dict[str, tuple[float, float]] = {}  # key → when asked, share done
        self._sent: dict[str, float] = {}  # key → when this process told its share

    def __str__(self) -> str:
        return str(self.files)

    @property
    def path(self) -> Path:
        """The directory; for a URL, the one on this machine where reports go."""
        return self.files.path

    @property
    def is_remote(self) -> bool:
        """Whether it is behind a URL, where looking takes time."""
        return str(self.files) != str(self.files.path)

    def absolute(self) -> Store:
        """The same store, whatever the working directory becomes."""
        return Store(str(self.files.absolute()))

    def open(self, *, create: bool) -> Store:
        """Check that the place is a store, or make it one.

        Raises:
            StoreError: it cannot be written, holds something else, or is of another format.
        """
        try:
            text = self.read(MARKER)
            if text is not None:
                self._check_format(text)
            elif (names := self.files.names("")) and "runs" not in names:
                raise StoreError(f"{self} holds files but is no store of runs; name an empty or new directory")
            elif create:
                self.describe({})
        except OSError as error:
            why = error.strerror or str(error)
            raise StoreError(f"cannot use {self} as a store: {why}; choose another with --store") from None
        return self

    def _check_format(self, text: str) -> None:
        try:
            found = json.loads(text)["format"]
        except (ValueError, KeyError, TypeError):
            raise StoreError(
                f"{self}/{MARKER} is damaged; the runs beside it are not. Delete that file and run again"
            ) from None
        if found != FORMAT:
            raise StoreError(f"{self} has format {found}, this normlab writes {FORMAT}; choose another with --store")

    def describe(self, definition: Mapping[str, Any]) -> None:
        """Write down what the store is for."""
        text = json.dumps({"format": FORMAT, "study": definition}, indent=1, ensure_ascii=False)
        self.files.write(MARKER, text.encode())

    def read(self, name: str) -> str | None:
        """A file beside the runs, None where there is none.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            return self.files.read(name).decode()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {self}/{name}: {error.strerror}") from None

    def save(self, name: str, text: str) -> None:
        """Write a file beside the runs, so that a reader sees the old one or the new one."""
        with self._writing(name):
            self.files.write(name, text.encode(), durable=True)

    def where(self, key: str) -> str:
        """The folder of a run, as people find it."""
        return f"{self}/runs/{key}"

    def prepare(self, key: str) -> Path:
        """A directory for a run that is about to start; a checkpoint is in it."""
        with self._writing(f"runs/{key}"):
            place = self.files.workspace(f"runs/{key}")
            self.files.remove(f"runs/{key}/{PROGRESS}")
            return place

    def keep(self, key: str, name: str, data: bytes) -> None:
        """Keep a file of a run that is going on.

        Raises:
            StoreError: it cannot be written; what was there before still is.
        """
        if name == PROGRESS and self.is_remote and not self._due(key):
            return
        with self._writing(f"runs/{key}/{name}"):
            self.files.write(f"runs/{key}/{name}", data)

    def _due(self, key: str) -> bool:
        due = time.monotonic() - self._sent.get(key, -REMOTE_EVERY) >= REMOTE_EVERY
        if due:
            self._sent[key] = time.monotonic()
        return due

    def load(self, key: str) -> RunResult | None:
        """The result of a finished run, None where it is not finished.

        Raises:
            Damaged: the file was cut in the middle, say.
            StoreError: it cannot be read; which says nothing about the file.
        """
        path = f"{self.where(key)}/{RESULT}"
        try:
            result = validate(RunResult, json.loads(self.files.read(f"runs/{key}/{RESULT}")))
            if result.key != key:
                raise SpecError(f"it is the result of run {result.key}")
            return result
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, SpecError) as error:
            raise Damaged(f"{path} is damaged ({str(error).splitlines()[0]})") from None

    def load_all(self, keys: Iterable[str]) -> tuple[dict[str, RunResult], dict[str, str]]:
        """The results of those runs that are finished, and what is wrong with those that are damaged, by key.

        Raises:
            StoreError: a file cannot be read.
        """
        results: dict[str, RunResult] = {}
        damaged: dict[str, str] = {}
        for key in dict.fromkeys(keys):
            try:
                result = self.load(key)
            except Damaged as error:
                damaged[key] = str(error)
                continue
            if result is not None:
                results[key] = result
        return results, damaged

    def set_aside(self, key: str) -> str:
        """Rename a damaged result so that the run is repeated; the file is kept."""
        name = f"runs/{key}/{RESULT}"
        with self._writing(name):
            self.files.write(f"{name}.damaged", self.files.read(name), durable=True)
            self.files.remove(name)
        return f"{self.where(key)}/{RESULT}.damaged"

    def write(self, result: RunResult) -> None:
        """Make a run finished; what it no longer needs goes.

        Raises:
            StoreError: it cannot be kept; the run's checkpoint still is.
        """
        folder = f"runs/{result.key}"
        with self._writing(f"{folder}/{RESULT}"):
            self.files.settle(folder, leave=(RESULT, *PASSING))
            self.files.write(f"{folder}/{RESULT}", result.model_dump_json(indent=None).encode(), durable=True)
            for name in PASSING:
                self.files.remove(f"{folder}/{name}")

    def write_failure(self, key: str, text: str) -> None:
        """Keep why an attempt at a run failed; its checkpoint stays, and the next attempt starts from there."""
        with self._writing(f"runs/{key}"):
            self.files.write(f"runs/{key}/{TRACEBACK}", text.encode())

    def failure(self, key: str) -> str | None:
        """The traceback of a run whose last attempt raised, None otherwise."""
        with suppress(OSError):
            return self.files.read(f"runs/{key}/{TRACEBACK}").decode()
        return None

    def has_checkpoint(self, key: str) -> bool:
        """Whether an unfinished run can go on where it was."""
        return CHECKPOINT in self.files.names(f"runs/{key}")

    def progress(self, key: str) -> float:
        """Share of an unfinished run that is done, in [0, 1]; behind a URL asked for every few seconds."""
        at, share = self._shares.get(key, (-REMOTE_EVERY, 0.0))
        if self.is_remote and time.monotonic() - at < REMOTE_EVERY:
            return share
        share = 0.0
        with suppress(OSError, ValueError, KeyError, TypeError):
            share = float(json.loads(self.files.read(f"runs/{key}/{PROGRESS}"))["done"])
        self._shares[key] = (time.monotonic(), share)
        return share

    def locked(self) -> AbstractContextManager[Callable[[], None]]:
        """Hold the store for writing; what is yielded raises StoreLocked once somebody else has taken it over.

        Raises:
            StoreLocked: somebody holds it; the message says who.
        """
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        return self.files.locked(f"process {os.getpid()} on {socket.gethostname()} since {since}")

    @contextmanager
    def _writing(self, name: str) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"cannot write to {self}/{name}: {error.strerror or error}; what is finished is kept, and the same "
                "command goes on"
            ) from None
