"""The report as an HTML page: nothing to load, no script, opens offline, prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normlab.inspect.figures import profiles
from normlab.inspect.measure import Row
from normlab.inspect.ranges import RANGES
from normlab.inspect.text import AFFINES, NAMES, NOTHING, SHAPE, SIGNALS, Column
from normlab.page import format as fmt
from normlab.page.template import render

if TYPE_CHECKING:
    from normlab.inspect.report import Report

SIGNS = {"high": "▲", "low": "▼", "nan": "✕"}
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Cell:
    """One of the table: its text, the sign of a value outside its range, and why there is none."""

    text: str
    sign: str
    title: str


def text(report: Report) -> str:
    """The whole page."""
    from markupsafe import Markup

    drawn = [(profile.title, profile.caption, Markup(svg)) for profile, svg in profiles(report.rows)]
    ranges = [(range.label, _ends(range.low(report.rows[0]), range.high, range.to), range.why) for range in RANGES]
    return render(_HERE / "page.html.j2", {**_view(report), "figures": drawn, "ranges": ranges})


def fragment(report: Report) -> str:
    """Verdict and table, for a notebook."""
    return render(_HERE / "report.html.j2", {**_view(report), "figures": []})


def _view(report: Report) -> dict[str, Any]:
    head, _, reasons = report.verdict.partition(": ")
    columns = [column for column in (*NAMES, SHAPE, *AFFINES, *SIGNALS) if _is_used(column, report)]
    return {
        "subject": fmt.printable(report.subject),
        "verdict": head,
        "reasons": fmt.printable(reasons[:1].upper() + reasons[1:]),
        "healthy": report.healthy,
        "statements": [("worse" if said.grave else "", fmt.printable(str(said))) for said in report.statements],
        "notes": [fmt.printable(note) for note in report.notes],
        "heads": [(column.head, column not in NAMES) for column in columns],
        "rows": [(bool(row.marks), list(_cells(row, columns))) for row in report.rows],
    }


def _is_used(column: Column, report: Report) -> bool:
    return any(column.cell(row) != NOTHING for row in report.rows)


def _cells(row: Row, columns: list[Column]) -> Iterator[Cell]:
    for column in columns:
        shown = fmt.printable(column.cell(row)).replace("-", fmt.MINUS if column in SIGNALS else "-")
        mark = row.marks.get(column.quantity, "")
        yield Cell(shown, SIGNS.get(mark, ""), row.missing.get(column.quantity, mark))


def _ends(low: float, high: float, to: str) -> str:
    """`from 0.0001 to 1000 times the last layers`."""
    start = f"from {low:.3g}" if 0 < low < float("inf") else ""
    end = f"up to {high:g}" if high < float("inf") else ""
    return " ".join(filter(None, [start, end, f"times the {to} layer{'s' * (to == 'last')}" if to else ""]))
