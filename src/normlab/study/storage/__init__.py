"""Where a store keeps its files: a directory, or anything that fsspec reaches by URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from normlab.study.storage.bucket import Bucket
from normlab.study.storage.folder import Folder

_URL = re.compile(r"[a-z][a-z0-9+.-]+://|[a-z][a-z0-9+.-]*::", re.IGNORECASE)


class Storage(Protocol):
    """Files by name, `runs/3f.../result.json`; each is there whole or not at all.

    `str()` of it is what people call it. Its methods raise FileNotFoundError where a file is missing and OSError for
    what else goes wrong.
    """

    @property
    def path(self) -> Path:
        """The directory; for a URL, the one on this machine where reports go."""
        ...

    def absolute(self) -> Storage:
        """The same, whatever the working directory becomes."""
        ...

    def names(self, folder: str) -> list[str]:
        """What is in a folder, "" for the whole; nothing where it is missing."""
        ...

    def read(self, name: str) -> bytes:
        """The content of a file."""
        ...

    def write(self, name: str, data: bytes, *, durable: bool = False) -> None:
        """Make or replace a file; `durable` ones outlive a loss of power."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; a missing one is fine."""
        ...

    def workspace(self, folder: str) -> Path:
        """A directory of this machine for what a run writes into `folder`; what is there already is in it."""
        ...

    def settle(self, folder: str, *, leave: tuple[str, ...]) -> None:
        """A run is over: what its workspace holds is kept, but for the names to leave."""
        ...

    def locked(self, owner: str) -> AbstractContextManager[Callable[[], None]]:
        """Nobody else writes here inside; raises StoreLocked where somebody does, with their `owner`.

        What is yielded raises StoreLocked if somebody has taken the place meanwhile, believing us dead.
        """
        ...


def storage(place: str | Path) -> Storage:
    """What a path or URL stands for; `file:///data/x` is a directory.

    Raises:
        Unavailable: the package that fsspec needs for this kind of URL is missing.
        SpecError: no such kind of URL.
    """
    text = str(place)
    if isinstance(place, Path) or not _URL.match(text):
        return Folder(Path(place))
    if text.startswith("file://"):
        return Folder(Path(text.removeprefix("file://")))
    return Bucket(text.rstrip("/"))
