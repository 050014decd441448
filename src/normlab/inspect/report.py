"""The result of `normlab.inspect`, and the ways to show it."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from normlab.atomic import write_atomically
from normlab.errors import DataError
from normlab.inspect.measure import QUANTITIES, Row
from normlab.inspect.ranges import RANGES
from normlab.inspect.verdict import Statement


def is_measured(rows: Sequence[Row]) -> bool:
    """There is a number."""
    return any(getattr(row, name) is not None for row in rows for name in QUANTITIES)


@dataclass(frozen=True)
class Report:
    """What `normlab.inspect` found; print it.

    Args:
        subject: the model, where and with what batch it was run.
        verdict: in a sentence.
        statements: what is wrong, or to be remarked, the grave first.
        rows: the layers in the order in which they are called; those that are not, at the end.
        notes: what else is to be known: the loss, initial values, layers that were not called.
    """

    subject: str
    verdict: str
    statements: tuple[Statement, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Something was measured, and nothing grave was found."""
        return is_measured(self.rows) and not self._grave

    @property
    def exit_code(self) -> int:
        """0 where healthy, 1 where not; 2 where nothing could be measured."""
        return 0 if self.healthy else 1 if self._grave else 2

    @property
    def _grave(self) -> bool:
        return any(said.grave for said in self.statements)

    def as_json(self) -> dict[str, Any]:
        """All of it in plain values; NaN and infinities are texts."""
        ranges = {
            range.quantity: {
                "low": range.low(self.rows[0]),
                "high": range.high,
                "compared_with": range.to or None,
                "why": range.why,
            }
            for range in RANGES
        }
        found = {**asdict(self), "healthy": self.healthy, "healthy_ranges": ranges}
        return _plain(found)

    def html(self, path: str | os.PathLike[str]) -> None:
        """Write a page with the verdict, profiles by depth and the table; it loads nothing and opens offline.

        Raises:
            DataError: the path cannot be written.
        """
        from normlab.inspect import page

        text = page.text(self)
        try:
            write_atomically(Path(path), text)
        except OSError as error:
            raise DataError(f"{os.fspath(path)} cannot be written: {error.strerror or error}") from None

    def __str__(self) -> str:
        from normlab.inspect import text

        width = min(max(shutil.get_terminal_size((120, 24)).columns, 60), 200)
        return "\n".join(line for line, _ in text.lines(self, width))

    def _repr_html_(self) -> str:
        from normlab.inspect import page

        return page.fragment(self)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]  # pyright: ignore[reportUnknownVariableType]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
