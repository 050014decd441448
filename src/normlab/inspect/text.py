"""The report as lines of plain text: verdict, profiles by depth, tables by layer."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from normlab.inspect.measure import QUANTITIES, Row
from normlab.inspect.ranges import RANGES

if TYPE_CHECKING:
    from normlab.inspect.report import Report

Style = Literal["", "bold", "error", "warning", "dim"]
Line = tuple[str, Style]
Legible = Callable[[str], str]

NOTHING = "-"
OUTSIDE = "!"  # behind a number outside its healthy range
_LEVELS = "▁▂▃▄▅▆▇█"
_WIDEST_NAME, _WIDEST_TYPE = 30, 18


@dataclass(frozen=True)
class Column:
    """A column of the tables: its head, what stands in it, and the quantity whose mark it shows."""

    head: str
    cell: Callable[[Row], str]
    quantity: str = ""


def number(value: float | None) -> str:
    """`0.34`, `1.3e-6`; a dash where there is none."""
    if value is None:
        return NOTHING
    if value == 0 or not math.isfinite(value):
        return f"{value:g}".replace("-0", "0")
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.{2 if abs(value) < 0.1 else 3}g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(power)}"


def _affine(role: str) -> tuple[Column, Column]:
    def level(row: Row) -> str:
        value = getattr(row, role)
        return NOTHING if value is None else f"{number(value.mean)} ± {number(value.spread)}"

    def drift(row: Row) -> str:
        value = getattr(row, role)
        return NOTHING if value is None else number(value.rms)

    sign = "γ" if role == "weight" else "β"
    return Column(f"{sign} mean ± sd", level, role), Column("drift", drift)


def _quantity(name: str, head: str) -> Column:
    return Column(head, lambda row: number(getattr(row, name)), name)


LABELS: dict[str, str] = dict(
    zip(QUANTITIES, ("σ", "γ/σ", "beyond 6", "variance", "cosine", "rank", "gradient"), strict=True)
)
NAMES = (Column("layer", lambda row: row.name or "(model)"), Column("type", lambda row: row.type))
SHAPE = Column("shape", lambda row: "x".join(map(str, row.shape)) or "not called")
AFFINES = (*_affine("weight"), *_affine("bias"))
SIGNALS = (*(_quantity(name, head) for name, head in LABELS.items()), _quantity("lag", "lag"))


def lines(report: Report, width: int, legible: Legible = str) -> Iterator[Line]:
    """The report, line by line, with the style of each.

    Args:
        legible: a text in the characters that the output has.
    """
    yield from _wrapped(legible(report.subject), width, "dim")
    yield from _wrapped(legible(report.verdict), width, "bold" if report.healthy else "error")
    for said in report.statements:
        yield from _wrapped(legible(f"{OUTSIDE} {said}"), width, "error" if said.grave else "warning", "  ")
    for note in report.notes:
        yield from _wrapped(legible(f"- {note}"), width, "dim", "  ")
    yield from _profiles(report, width, legible)
    for columns in _tables(report.rows, width, legible):
        yield "", ""
        yield from _table(report.rows, columns, legible)
    if any(row.marks for row in report.rows):
        yield f"{OUTSIDE} outside the healthy range", "dim"


def _wrapped(text: str, width: int, style: Style, after: str = "") -> Iterator[Line]:
    for line in textwrap.wrap(text, width, subsequent_indent=after, break_long_words=False, break_on_hyphens=False):
        yield line, style


def _profiles(report: Report, width: int, legible: Legible) -> Iterator[Line]:
    """A sparkline for each quantity, from the first layer to the last."""
    rows = [row for row in report.rows if row.calls]
    known = [name for name in QUANTITIES if any(row.by_depth(name) is not None for row in rows)]
    if not known or len(rows) < 2:
        return
    heads = {name: legible(LABELS[name]) for name in known}
    start = max(map(len, heads.values()))
    room = min(len(rows), width - start - 40)
    yield "", ""
    yield f"by depth, {len(rows)} layers", "dim"
    for name in known:
        values = [row.by_depth(name) for row in rows]
        finite = [value for value in values if value is not None and math.isfinite(value)]
        ends = f"{number(min(finite))} to {number(max(finite))}" if finite else "never finite"
        ends = number(finite[0]) if finite and min(finite) == max(finite) else ends
        outside = sum(name in row.marks for row in rows)
        said = f"  {OUTSIDE} {outside} outside" if outside else ""
        line = f"{heads[name]:<{start}}  {legible(sparkline(values, room))}  {ends}{said}"
        yield line, "warning" if outside else ""


def sparkline(values: Sequence[float | None], room: int) -> str:
    """One character per layer, or for several where there is no room: the largest of them. By logarithms where the
    values span decades; ` ` where there are none, `x` where they are not finite.
    """
    room = max(1, min(room, len(values)))
    parts = [values[len(values) * k // room : len(values) * (k + 1) // room] for k in range(room)]
    tops = [_top(part) for part in parts]
    finite = [value for value in tops if value is not None and math.isfinite(value)]
    positive = [value for value in finite if value > 0]
    wide = bool(positive) and min(finite) >= 0 and max(positive) > 30 * min(positive)
    places = [math.log(max(value, min(positive))) if wide else value for value in finite]
    low, high = min(places, default=0.0), max(places, default=0.0)

    def level(value: float | None) -> str:
        if value is None:
            return " "
        if not math.isfinite(value):
            return "x"
        place = math.log(max(value, min(positive))) if wide else value
        return _LEVELS[round((place - low) / (high - low) * (len(_LEVELS) - 1)) if high > low else 0]

    return "".join(map(level, tops))


def _top(part: Sequence[float | None]) -> float | None:
    known = [value for value in part if value is not None]
    broken = [value for value in known if not math.isfinite(value)]
    return broken[0] if broken else max(known, default=None)


def _tables(rows: Sequence[Row], width: int, legible: Legible) -> list[tuple[Column, ...]]:
    """All columns in one table where they fit, else what the layers are and what they do in two."""
    columns = _used(rows, (*NAMES, SHAPE, *AFFINES, *SIGNALS))
    if sum(_widths(rows, columns, legible)) + 2 * (len(columns) - 1) <= width:
        return [columns]
    return [_used(rows, (NAMES[0], *SIGNALS)), _used(rows, (*NAMES, SHAPE, *AFFINES))]


def _used(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[Column, ...]:
    return tuple(column for column in columns if any(column.cell(row) != NOTHING for row in rows))


def _widths(rows: Sequence[Row], columns: Sequence[Column], legible: Legible) -> list[int]:
    return [max(len(_head(column, legible)), *(len(_cell(column, row, legible)) for row in rows)) for column in columns]


def _head(column: Column, legible: Legible) -> str:
    return legible(column.head) + " " * (column not in NAMES)  # above the marks


def _cell(column: Column, row: Row, legible: Legible) -> str:
    text = legible(column.cell(row))
    if column in NAMES:
        return _cut(text, _WIDEST_NAME if column is NAMES[0] else _WIDEST_TYPE)
    return text + (OUTSIDE if column.quantity in row.marks else " ")


def _cut(text: str, most: int) -> str:
    """The end of a long name, which tells layers apart."""
    return text if len(text) <= most else f"..{text[2 - most :]}"


def _table(rows: Sequence[Row], columns: Sequence[Column], legible: Legible) -> Iterator[Line]:
    widths = _widths(rows, columns, legible)
    yield _joined([_head(column, legible) for column in columns], columns, widths), "dim"
    grave = {range.quantity for range in RANGES if range.grave}
    for row in rows:
        shown = {column.quantity for column in columns} & row.marks.keys()
        style: Style = "error" if shown & grave else "warning" if shown else "" if row.calls else "dim"
        yield _joined([_cell(column, row, legible) for column in columns], columns, widths), style


def _joined(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if column in NAMES else cell.rjust(width)
        for cell, column, width in zip(cells, columns, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()
