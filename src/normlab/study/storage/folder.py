"""Files in a directory of this machine, or of a file system that several share."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from normlab.atomic import write_atomically
from normlab.errors import StoreError, StoreLocked


@dataclass(frozen=True)
class Folder:
    """A `Storage` in a directory."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def absolute(self) -> Folder:
        """The same by its whole path."""
        return Folder(self.path.absolute())

    def names(self, folder: str) -> list[str]:
        """Sorted."""
        try:
            return sorted(entry.name for entry in (self.path / folder).iterdir())
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        """The content of a file."""
        try:
            return (self.path / name).read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from None

    def write(self, name: str, data: bytes, *, durable: bool = False) -> None:
        """By rename; folders appear as needed."""
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / name, data, durable=durable)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.path / name).unlink(missing_ok=True)

    def workspace(self, folder: str) -> Path:
        """The folder itself, rid of what a killed process left half-written."""
        place = self.path / folder
        place.mkdir(parents=True, exist_ok=True)
        for partial in place.glob(".*.partial"):
            partial.unlink(missing_ok=True)
        return place

    def settle(self, folder: str, *, leave: tuple[str, ...]) -> None:
        """Everything is where it belongs."""

    @contextmanager
    def locked(self, owner: str) -> Generator[Callable[[], None], None, None]:
        """The operating system lets go of it when the process dies, however it dies."""
        told = self.path / "lock.owner"
        lock = FileLock(self.path / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StoreLocked(f"{self.path} is in use by {_content(told)}; wait for it, or stop it") from None
        except OSError as error:
            raise StoreError(f"cannot lock {self.path}: {error.strerror}") from None
        try:
            write_atomically(told, owner)
            yield lambda: None
        finally:
            told.unlink(missing_ok=True)
            lock.release()


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return "another process"
