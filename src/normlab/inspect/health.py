"""Which values leave their healthy ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from normlab.inspect.measure import Row
from normlab.inspect.ranges import RANGES, Range


def judged(rows: Sequence[Row], range: Range) -> list[float | None]:
    """The values by row; None where they say nothing."""
    return [None if _is_quiet(rows, place, range) else range.value(row) for place, row in enumerate(rows)]


def scaled(rows: Sequence[Row], range: Range) -> list[float | None]:
    """The same, divided by what the range compares them with."""
    values = judged(rows, range)
    if not range.to:
        return values
    known = [value for value in values if value and math.isfinite(value)]
    if not known:  # zeros, which compare with nothing, or what is not finite
        return [None if value == 0 else value for value in values]
    unit = known[0] if range.to == "first" else max(known[-max(1, len(known) // 4) :])
    return [None if value is None else value / unit for value in values]


def _is_quiet(rows: Sequence[Row], place: int, range: Range) -> bool:
    """Class scores at the end, whose biases are the same for all examples; or a branch that has been closed on purpose:
    it gives 0, and something after it does not.
    """
    if range.quantity not in ("activation_variance", "stable_rank", "mean_cosine"):
        return False
    if rows[place].type == "Linear" and place == len(rows) - 1:
        return True
    return rows[place].stable_rank == 0 and any(row.stable_rank for row in rows[place + 1 :])


def marked(rows: Sequence[Row]) -> list[Row]:
    """The rows with their marks."""
    marks: list[dict[str, str]] = [{} for _ in rows]
    for range in RANGES:
        for place, side in enumerate(_sides(rows, range)):
            if side:
                marks[place][range.quantity] = side
    return [replace(row, marks=own) for row, own in zip(rows, marks, strict=True)]


def _sides(rows: Sequence[Row], range: Range) -> list[str]:
    values = scaled(rows, range)
    sides = [_side(value, range, row) for value, row in zip(values, rows, strict=True)]
    if range.quantity != "gradient_norm":
        return sides
    return _without_branches(values, sides)


def _side(value: float | None, range: Range, row: Row) -> str:
    if value is None:
        return ""
    if not math.isfinite(value):
        return "nan"
    return "high" if value > range.high else "low" if value < range.low(row) else ""


def _without_branches(values: Sequence[float | None], sides: Sequence[str]) -> list[str]:
    """Gradients vanish where those of all layers from the first on do: a branch may begin closed, the trunk may not."""
    places = [place for place, value in enumerate(values) if value is not None]
    first = places[: max(1, len(places) // 4)]
    lost = bool(first) and all(sides[place] == "low" for place in first)
    found = list(sides)
    for place in places:
        lost = lost and sides[place] == "low"
        if sides[place] == "low" and not lost:
            found[place] = ""
    return found
