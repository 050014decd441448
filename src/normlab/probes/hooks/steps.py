"""At which steps probes measure."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from normlab.errors import SpecError, came


class Steps:
    """Every so many, from 0 on, or those named.

    Args:
        start: the number of the first one.

    Raises:
        SpecError: both are given, or what is given are no numbers of steps.
    """

    def __init__(self, every: int | None, steps: Iterable[int] | None, start: int = 0) -> None:
        if every is not None and steps is not None:
            raise SpecError(f"every={every} and steps={came(steps)} both say when to measure: give one of them")
        self.every = (
            _whole(every, 1, f"every={every!r} should be a number of steps, 1 or more") if every is not None else 1
        )
        self.start = _whole(start, 0, f"start={start!r} should be the number of a step, 0 or more")
        self.named = None if steps is None else _numbers(steps)

    def __contains__(self, step: int) -> bool:
        return step % self.every == 0 if self.named is None else step in self.named

    def __str__(self) -> str:
        return f"every={self.every}" if self.named is None else f"steps={came(sorted(self.named))}"


def _numbers(steps: Any) -> frozenset[int]:
    wrong = f"steps={came(steps)} should be numbers of steps, from 0 on, as in steps=[0, 10, 100]"
    if not isinstance(steps, Iterable):
        raise SpecError(wrong)
    found = frozenset(_whole(step, 0, wrong) for step in steps)  # pyright: ignore[reportUnknownVariableType]
    if not found:
        raise SpecError(wrong)
    return found


def _whole(value: Any, least: int, wrong: str) -> int:
    """The value as an int, which NumPy's are too; no truth value."""
    try:
        number = operator.index(value)
    except TypeError:
        raise SpecError(wrong) from None
    if number < least or isinstance(value, bool):
        raise SpecError(wrong)
    return number
