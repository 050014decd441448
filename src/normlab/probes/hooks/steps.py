"""At which steps probes measure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from normlab.errors import SpecError


class Steps:
    """Every so many, from 0 on, or those named.

    Raises:
        SpecError: both are given, or what is given are no numbers of steps.
    """

    def __init__(self, every: int | None, steps: Iterable[int] | None) -> None:
        if every is not None and steps is not None:
            raise SpecError(f"every={every} and steps={steps!r} both say when to measure: give one of them")
        if every is not None and (not isinstance(every, int) or every < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SpecError(f"every={every!r} should be a number of steps, 1 or more")
        self.every = every or 1
        self.named = None if steps is None else frozenset(steps)
        numbers = [] if self.named is None else list[Any](self.named)
        if self.named is not None and not (numbers and all(isinstance(k, int) and k >= 0 for k in numbers)):
            raise SpecError(f"steps={steps!r} should be numbers of steps, from 0 on")

    def __contains__(self, step: int) -> bool:
        return step % self.every == 0 if self.named is None else step in self.named

    @property
    def first(self) -> int:
        """The first of them."""
        return 0 if self.named is None else min(self.named)
