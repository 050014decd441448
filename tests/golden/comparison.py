"""What was compared in one case, and how far apart it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden import Case
from tests.golden.claim import shaped
from tests.golden.decisions import DECISIONS


@dataclass
class Comparison:
    """Compares arrays of a case with ours, and remembers.

    Args:
        instead: arrays that are not followed → what to compare with.
    """

    case: Case
    instead: Mapping[str, Tensor] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    failures: list[tuple[float, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def close(self, array: str, actual: Any) -> None:
        """Ours against the array of this name: close where theirs is finite, and finite where it is not."""
        self.seen.add(array)
        expected = self.instead.get(array)
        theirs = self.case.tensor(array)
        if array.startswith(("param1.", "buf1.", "buf2.", "grad.")):
            try:
                actual = shaped(actual.detach(), theirs.shape)
            except AssertionError as error:
                self.fail(array, str(error))
                return
        self.against(array, actual, theirs if expected is None else expected.reshape(theirs.shape))

    def against(self, what: str, actual: Any, expected: Any) -> None:
        """Ours against a value that is no array of its own."""
        a, b = (torch.as_tensor(np.asarray(v) if not isinstance(v, Tensor) else v).detach() for v in (actual, expected))
        if a.shape != b.shape:
            self.fail(what, f"{list(a.shape)} instead of {list(b.shape)}")
            return
        finite = b.isfinite()
        if not finite.all():
            self.note("finite")
            self.true(what, a.isfinite().all(), "is not finite")
        worst, allowed = self.case.difference(a[finite], b[finite])
        if not worst <= allowed:
            self.fail(what, f"off by {worst:.2e}, allowed {allowed:.2e}", worst / allowed)

    def true(self, what: str, holds: Any, otherwise: str) -> None:
        """A condition on ours that is no comparison of arrays."""
        if not bool(holds):
            self.fail(what, otherwise)

    def used(self, *arrays: str) -> None:
        """These arrays were inputs, or are dealt with otherwise."""
        self.seen.update(arrays)

    def fail(self, what: str, how: str, size: float = np.inf) -> None:
        self.failures.append((size, f"{what} {how}"))

    def note(self, decision: str) -> None:
        """Say which decision was followed instead of the case."""
        if DECISIONS[decision] not in self.notes:
            self.notes.append(DECISIONS[decision])

    def left(self) -> list[str]:
        """Arrays that nothing was done with."""
        return sorted(set(self.case.arrays) - self.seen)


Check = Callable[[Comparison], None]
