"""Images decoded once: uint8 arrays in the cache, checked, shared by all processes through the page cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from normlab.atomic import write_atomically
from normlab.errors import DataError
from normlab.study.data.places import CACHE_DIR, cache_dir

FORMAT = 1  # part of every key; raised when the same sources would be decoded to other arrays
ABOUT = "about.json"
BLOCK = 1 << 24


@dataclass(frozen=True)
class Cached:
    """An entry of the cache: arrays by name, memory maps of their files, and what is known about them."""

    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, str]


class Shelf:
    """An entry of the cache while it is being filled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays: dict[str, NDArray[Any]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """A new array that lives in its file."""
        path = self._folder / f"{name}.npy"
        self._arrays[name] = open_memmap(path, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):  # a disk that fills up while a memory map is written kills the process
            with path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return self._arrays[name]

    def close(self, facts: Mapping[str, str]) -> None:
        """Write down the checksums of all arrays, and what is known about them."""
        sums = {name: checksum([array]) for name, array in self._arrays.items()}
        whole = checksum(self._arrays.values())
        self._arrays.clear()
        about = {"facts": {**facts, "data_checksum": whole}, "checksums": sums}
        write_atomically(self._folder / ABOUT, json.dumps(about, indent=1), durable=True)


def checksum(arrays: Sequence[NDArray[Any]] | Any) -> str:
    """SHA-256 of shapes, types and contents, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{list(array.shape)}".encode())
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, len(content), BLOCK):
            digest.update(content[start : start + BLOCK].data)
    return f"sha256:{digest.hexdigest()}"


def cached(name: str, key: Sequence[object], fill: Callable[[Shelf], Mapping[str, str]]) -> Cached:
    """The entry for `key`, filled first where there is none; of many processes that ask at once, one does it.

    Args:
        name: of the dataset, for people who look into the cache.
        key: all that decides the arrays; plain values.
        fill: creates the arrays on the shelf and fills them; returns what is known about them.

    Raises:
        DataError: the cache cannot be written, or as `fill` raises.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, *key]).encode()).hexdigest()[:16]
    entry = cache_dir() / "data" / f"{name}-{digest}"
    try:
        return _read(entry) or _fill(entry, fill)
    except OSError as error:
        raise DataError(
            f"cache {entry.parent}: {error.strerror or error}; {CACHE_DIR} can name a folder elsewhere, with room for "
            "the decoded images"
        ) from None


def _fill(entry: Path, fill: Callable[[Shelf], Mapping[str, str]]) -> Cached:
    entry.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(entry.with_name(f".{entry.name}.lock")):
        if (found := _read(entry)) is not None:  # by another process, meanwhile
            return found
        for left in entry.parent.glob(f".{entry.name}.*/"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", dir=entry.parent))
        try:
            shelf = Shelf(partial)
            shelf.close(fill(shelf))
            partial.chmod(0o755)
            partial.replace(entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    found = _read(entry)
    if found is None:
        raise DataError(f"cache {entry}: what was just written reads back differently; is the disk sound?")
    return found


def _read(entry: Path) -> Cached | None:
    """What the entry holds; None where there is none, or it is damaged, which is told and then made anew."""
    try:
        about = json.loads((entry / ABOUT).read_text(encoding="utf-8"))
        arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="c") for name in about["checksums"]}
        wrong = [name for name, array in arrays.items() if checksum([array]) != about["checksums"][name]]
        facts = dict(about["facts"])
    except FileNotFoundError:
        if not entry.exists():
            return None
        wrong, arrays, facts = ["a missing file"], {}, {}
    except (ValueError, KeyError, TypeError, EOFError) as error:
        wrong, arrays, facts = [str(error)], {}, {}
    if not wrong:
        return Cached(arrays, facts)
    warnings.warn(f"cache {entry} is damaged ({', '.join(wrong)}); decoding again", stacklevel=2)
    _discard(entry)
    return None


def _discard(entry: Path) -> None:
    """Out of the way at once, so that nobody finds half of it."""
    aside = entry.with_name(f".{entry.name}.damaged.{os.getpid()}")
    try:
        entry.replace(aside)
    except FileNotFoundError:
        return  # another process was first
    shutil.rmtree(aside, ignore_errors=True)
