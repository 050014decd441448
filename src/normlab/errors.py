"""Everything normlab raises on purpose.

    NormlabError
    ├── SpecError            a value, key or name given by the user is wrong; also a ValueError
    │   ├── UnknownName      ... a name is not among those known
    │   └── NotFinite        ... there are NaN or infinite values where numbers are needed
    ├── DataError            results or data files that cannot be used as they are
    ├── StoreError           the store of runs cannot be read or written
    │   ├── Damaged          ... a result is there and cannot be read as one
    │   └── StoreLocked      ... somebody else is writing to it
    ├── ProcessFailed        one of the processes that share a run raised, or ended
    │   └── ProcessLost      ... and with it nothing more can be run
    └── Unavailable          an optional part (package, program, backend) is missing

A message says what came, what would do, and where there is one the nearest name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import partial


class NormlabError(Exception):
    """Base of all errors that normlab raises on purpose; the CLI prints its text and no traceback."""


class SpecError(NormlabError, ValueError):
    """A value, key or name that the user gave cannot be used."""


class UnknownName(SpecError):
    """A name that is not among those known."""

    def __init__(self, kind: str, name: object, known: Iterable[str], *, where: str = "") -> None:
        self.kind, self.name, self.known, self.where = kind, str(name), sorted(known), where
        super().__init__(where + unknown_text(kind, self.name, self.known))

    def __reduce__(self) -> tuple[object, ...]:
        return partial(UnknownName, where=self.where), (self.kind, self.name, self.known)


class NotFinite(SpecError):
    """NaN or infinite values, where numbers are needed."""


class DataError(NormlabError):
    """Results or data files that cannot be used as they are."""


class StoreError(NormlabError):
    """The store of runs cannot be read or written."""


class Damaged(StoreError):
    """A result that is there and cannot be read as one."""


class StoreLocked(StoreError):
    """Somebody else is writing to the store."""


class ProcessFailed(NormlabError):
    """One of the processes that share a run raised, or ended in the middle of it."""


class ProcessLost(ProcessFailed):
    """One of the processes that share all runs is gone, so that nothing more can be run."""


class Unavailable(NormlabError):
    """An optional part that was asked for is missing."""


def last_line(error: BaseException) -> str:
    """`ValueError: what it says`, as a traceback ends."""
    import traceback

    return traceback.format_exception_only(error)[-1].strip()


def came(value: object) -> str:
    """A value as messages show it: itself where that is short, or else what it is."""
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"an instance of {type(value).__name__}"


def require(value: object, kind: type | tuple[type, ...], wanted: str) -> None:
    """Refuse a value of another type; `wanted` reads "recalibrate takes a loader of batches".

    Raises:
        SpecError: says what is wanted, and what came.
    """
    if not isinstance(value, kind):
        raise SpecError(f"{wanted}; got {came(value)}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None where nothing is near."""
    by_folded = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.55)
    return by_folded[close[0]] if close else None


def unknown_text(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown norm 'grup'; did you mean 'group'? Known: batch, group.`"""
    names = list(known)
    close = nearest(name, names)
    hint = f"; did you mean {close!r}?" if close else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(names) or 'none'}."
