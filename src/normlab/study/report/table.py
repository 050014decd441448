"""A panel as a table of texts with emphasis: what terminal, Markdown, LaTeX and HTML print, each in its own way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from normlab.page import format as fmt
from normlab.study.report import wording
from normlab.study.report.document import Document, Panel
from normlab.study.report.stopping import when
from normlab.study.stats.result import Comparison, Comparisons

Style = Literal["default", "paper"]


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        detail: text that follows where there is room for it.
        mark: ‡ or §, explained in the footer.
        strong: significant; bold.
        best: the best mean of its table; underlined.
    """

    text: str
    detail: str = ""
    mark: str = ""
    strong: bool = False
    best: bool = False

    @property
    def full(self) -> str:
        """Text, mark and detail."""
        return self.text + self.mark + self.detail


@dataclass(frozen=True)
class Column:
    """One column; on a narrow page those of the lowest `rank` go first."""

    head: str
    rank: int
    right: bool = True  # a number; never wrapped


@dataclass(frozen=True)
class Row:
    """One recipe; `note` names its diverged, failed and missing runs, `verdict` is for colours."""

    cells: tuple[Cell, ...]
    note: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Table:
    """One panel."""

    heading: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footer: tuple[str, ...]


def tables(document: Document, style: Style) -> tuple[Table, ...]:
    """One table per panel."""
    return tuple(table(panel, style) for panel in document.panels)


def table(panel: Panel, style: Style) -> Table:
    """The table of one panel: "default" with all statistics, "paper" as in Davis and Frank."""
    return _paper(panel.comparisons) if style == "paper" else _default(panel.comparisons)


def _default(c: Comparisons) -> Table:
    columns = (
        Column("recipe", 9, right=False),
        Column("n", 2),
        Column("mean ± SD", 4),
        Column(f"Δ vs {fmt.printable(c.baseline.arm)}" if len(c.baseline.arm) <= 12 else "Δ vs baseline", 8),
        Column(f"{fmt.percent(c.settings.confidence)} CI", 6),
        Column("d_z", 3),
        Column("P(better)", 1),
        Column("p_holm", 5),
        Column("verdict", 7, right=False),
    )
    return Table(wording.heading(c), columns, tuple(_row(row, c) for row in c.rows), wording.footer(c))


def _row(row: Comparison, c: Comparisons) -> Row:
    d = wording.places(c)
    strong = row.verdict in ("better", "worse")
    test_set = wording.TEST_SET if wording.within_test_set(row) else ""
    cells = (
        Cell(fmt.printable(row.arm), strong=strong),
        Cell(str(len(row.seeds)), mark=wording.UNEQUAL if wording.fewer_pairs(row, c) else ""),
        Cell(fmt.mean_sd(row.mean, row.sd, d)),
        Cell(fmt.number(row.delta, d, signed=True), mark=test_set, strong=strong),
        Cell(fmt.interval(row.interval, d)),
        Cell(fmt.number(row.d_z, 1)),
        Cell(fmt.chance(row.improvement)),
        Cell(fmt.p_value(wording.decisive_p(row)), strong=strong),
        Cell(row.verdict, detail=wording.verdict_detail(row, c.settings, d), strong=strong),
    )
    return Row(cells, wording.irregular(row, c), row.verdict)


def _paper(c: Comparisons) -> Table:
    """Bold = significant without adjustment, or by the looks of a stopping rule; underlined = best mean.

    Source: Davis and Frank, arXiv:2110.13989, table 1.
    """
    d, b = wording.places(c), c.baseline
    means = [b.mean, *(row.mean for row in c.rows)]
    best = _best(means, c.settings.better)
    rows = [Row((Cell(fmt.printable(b.arm)), Cell(fmt.mean_sd(b.mean, b.sd, d), best=best == 0)))]
    for i, row in enumerate(c.rows, start=1):
        p = row.p_t if c.design is None else row.p_holm
        value = Cell(fmt.mean_sd(row.mean, row.sd, d), strong=p <= c.settings.alpha, best=best == i)
        rows.append(Row((Cell(fmt.printable(row.arm)), value), _paper_note(row, c)))
    columns = Column("arm", 9, right=False), Column("mean ± SD", 8)
    return Table(wording.heading(c), columns, tuple(rows), (wording.paper_bold(c),))


def _paper_note(row: Comparison, c: Comparisons) -> str:
    """How many seeds a stopping rule gave a recipe, and its bad runs."""
    stop = f"{fmt.plural(len(row.seeds), 'seed')}, {when(row)}" if when(row) else ""
    return "; ".join(filter(None, [stop, wording.irregular(row, c)]))


def _best(means: list[float], better: str) -> int | None:
    if all(map(math.isnan, means)):
        return None
    return int(np.nanargmax(means) if better == "higher" else np.nanargmin(means))
