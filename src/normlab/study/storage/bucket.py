"""Files behind a URL: s3://bucket/study, gs://..., whatever fsspec reaches.

A file there appears whole, so no renaming is needed. A run works in a scratch directory of its machine.
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normlab.errors import SpecError, Unavailable
from normlab.study.storage.lock import held


@dataclass(frozen=True)
class Bucket:
    """A `Storage` by URL."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def path(self) -> Path:
        """`reports/<last part of the URL>` below the working directory; `runs` is for stores."""
        return Path("reports") / self.url.rpartition("/")[2]

    def absolute(self) -> Bucket:
        """URLs are."""
        return self

    def names(self, folder: str) -> list[str]:
        """Sorted."""
        fs, root = _connected(self.url)
        try:
            with _as_os_errors(self.url):
                found = fs.ls(f"{root}/{folder}".rstrip("/"), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(name for path in found if (name := str(path).rstrip("/").rpartition("/")[2]))

    def read(self, name: str) -> bytes:
        """The content of a file."""
        fs, root = _connected(self.url)
        with _as_os_errors(f"{self.url}/{name}"):
            return fs.cat_file(f"{root}/{name}")

    def write(self, name: str, data: bytes, *, durable: bool = False) -> None:  # noqa: ARG002 - it is, always
        """One request, after which readers see the new file."""
        fs, root = _connected(self.url)
        with _as_os_errors(f"{self.url}/{name}"):
            _make_folder(fs, f"{root}/{name}")
            fs.pipe_file(f"{root}/{name}", data)

    def remove(self, name: str) -> None:
        """Remove a file."""
        fs, root = _connected(self.url)
        with suppress(FileNotFoundError), _as_os_errors(f"{self.url}/{name}"):
            fs.rm_file(f"{root}/{name}")

    def workspace(self, folder: str) -> Path:
        """Scratch of this process, filled with what is at the URL."""
        place = _scratch(self.url) / folder
        place.mkdir(parents=True, exist_ok=True)
        for name in self.names(folder):
            with suppress(FileNotFoundError, IsADirectoryError):
                (place / name).write_bytes(self.read(f"{folder}/{name}"))
        return place

    def settle(self, folder: str, *, leave: tuple[str, ...]) -> None:
        """Send what the run's function wrote for itself, and free the disk."""
        place = _scratch(self.url) / folder
        for file in sorted(place.rglob("*")):
            name = file.relative_to(place).as_posix()
            if file.is_file() and name not in leave:
                self.write(f"{folder}/{name}", file.read_bytes())
        shutil.rmtree(place, ignore_errors=True)

    def locked(self, owner: str) -> AbstractContextManager[Callable[[], None]]:
        """A file that only one can make, with a sign of life in it: after a crash it is free within two minutes."""
        return held(self, owner)

    def create(self, name: str, data: bytes) -> None:
        """Make a file; FileExistsError where there is one."""
        fs, root = _connected(self.url)
        with _as_os_errors(self.url):
            _make_folder(fs, f"{root}/{name}")
            fs.pipe_file(f"{root}/{name}", data, mode="create")


@functools.cache
def _connected(url: str) -> tuple[Any, str]:
    """fsspec's file system and the path in it; one of each for a process and URL."""
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        scheme = url.partition(":")[0]
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
        hint = f"pip install {package[scheme]}" if scheme in package else str(error)
        raise Unavailable(f"{url} needs another package: {hint}") from None
    except ValueError as error:
        raise SpecError(f"{url}: {error}; a store is a directory, or a URL like s3://bucket/study") from None
    return fs, str(root).rstrip("/")


def _make_folder(fs: Any, path: str) -> None:
    """Where folders are real (SFTP, NFS); object stores have none and would make a bucket of the first part."""
    if not hasattr(fs, "bucket_exists") and "s3" not in fs.protocol and "gs" not in fs.protocol:
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)


@functools.cache
def _scratch(url: str) -> Path:  # noqa: ARG001 - one for each
    import atexit

    place = Path(tempfile.mkdtemp(prefix="normlab-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


@contextmanager
def _as_os_errors(where: str) -> Generator[None, None, None]:
    """Whatever a client library raises, as OSError with one line that says what."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error) or os.strerror(errno.EIO)) from None
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {' '.join(str(error).split())}", where) from None
