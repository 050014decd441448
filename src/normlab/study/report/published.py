"""The table of measured beside published numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

from normlab.page import format as fmt
from normlab.study.report import wording
from normlab.study.report.document import Panel
from normlab.study.report.table import Cell, Column, Row, Table
from normlab.study.stats.published import Published, Reproduction, Reproductions
from normlab.study.stats.result import Comparisons


def published(panel: Panel) -> Table | None:
    """One row for each arm that the source has a number of; None where the study names no source.

    The differences to the baseline stand there too, since these are what a paper claims: ours and theirs.
    """
    r, c = panel.published, panel.comparisons
    if r is None:
        return None
    columns = (
        Column("recipe", 9, right=False),
        Column("n", 2),
        Column("measured", 6),
        Column("published", 7),
        Column("difference", 8),
        Column(f"{fmt.percent(r.confidence)} CI", 5),
        Column("Δ measured", 3),
        Column("Δ published", 4),
    )
    d = _places(r, c)
    base = next((row for row in r.rows if row.measured.arm == c.baseline.arm), None)
    rows = tuple(_row(row, base, d) for row in r.rows)
    heading = f"Measured beside published: {fmt.printable(r.source)}"
    return Table(heading, columns if rows else columns[:1], rows, tuple(_footer(r, c)))


def _row(row: Reproduction, base: Reproduction | None, d: int) -> Row:
    ours, theirs = row.measured, row.published
    apart = row.interval[0] > 0 or row.interval[1] < 0
    cells = (
        Cell(fmt.printable(ours.arm), strong=apart),
        Cell(str(ours.n)),
        Cell(fmt.mean_sd(ours.mean, ours.sd, d)),
        Cell(fmt.mean_sd(theirs.mean, math.nan if theirs.sd is None else theirs.sd, d)),
        Cell(fmt.number(row.difference, d, signed=True), strong=apart),
        Cell(fmt.interval(row.interval, d)),
        *(
            Cell(fmt.NOTHING if base is None or row is base else fmt.number(gain, d, signed=True))
            for gain in _gains(row, base)
        ),
    )
    return Row(cells)


def _gains(row: Reproduction, base: Reproduction | None) -> tuple[float, float]:
    """Recipe − baseline, measured and published; means of all runs, so that ours may differ from the paired Δ."""
    if base is None:
        return math.nan, math.nan
    return row.measured.mean - base.measured.mean, row.published.mean - base.published.mean


def _places(r: Reproductions, c: Comparisons) -> int:
    """Decimals as in the other table, and never fewer than the source's own two."""
    spreads = [row.published.sd for row in r.rows if row.published.sd is not None]
    return max(wording.places(c), fmt.decimals(spreads) if spreads else 0)


def _footer(r: Reproductions, c: Comparisons) -> Iterator[str]:
    if r.rows:
        yield _theirs([row.published for row in r.rows])
        yield (
            "difference: measured − published; CI: Welch's t, two-sided, unadjusted, the runs are not paired; bold: it "
            "excludes 0"
        )
        yield f"Δ: recipe − {fmt.printable(c.baseline.arm)}, means of all runs"
    else:
        yield "the source has no numbers of this table"
    if any(row.published.exact for row in r.rows):
        yield (
            "a published mean without SD or number of runs is taken as it stands: the CI then holds the uncertainty of "
            "our mean alone"
        )
    if r.changed:
        changes = ", ".join(map(fmt.printable, r.changed))
        yield f"no reproduction: this was run with {changes}, and the published numbers belong to the file as it stands"
    if r.elsewhere:
        yield f"published, too, for what is not run here: {'; '.join(map(fmt.printable, r.elsewhere))}"


def _theirs(values: list[Published]) -> str:
    """`published: mean ± SD of 15 runs`."""
    what = "mean ± SD" if any(p.sd is not None for p in values) else "mean"
    n = values[0].n
    return f"published: {what} of {'an unknown number of runs' if n is None else fmt.plural(n, 'run')}"
