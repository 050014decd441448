"""Everything that is known of each comparison and has no place in the table: a statistic a row, a recipe a column."""

from __future__ import annotations

from collections.abc import Callable

from normlab.page import format as fmt
from normlab.study.report import wording
from normlab.study.report.table import Cell, Column, Row, Table
from normlab.study.stats.result import Comparison, Comparisons, Interval, Stopped, TestSet

MOST_LOOKS = 3  # that the table shows t and bounds of: the last ones
Text = Callable[[Comparison], str]


def details(c: Comparisons) -> Table:
    """The other tests, intervals and effect sizes; statistics that no recipe has are left out."""
    rows = [(name, [text(row) for row in c.rows]) for name, text in _statistics(c).items()]
    return Table(
        heading="Other tests, intervals and effect sizes",
        columns=(Column("statistic", 9, right=False), *(Column(fmt.printable(row.arm), 8) for row in c.rows)),
        rows=tuple(
            Row((Cell(name), *map(Cell, texts))) for name, texts in rows if any(text != fmt.NOTHING for text in texts)
        ),
        footer=(f"p values in this table are not adjusted, {_aside(c)} aside.",),
    )


def _aside(c: Comparisons) -> str:
    return "the TOST's" if c.design is None else "the TOST's for recipes and the stage-wise ones for looks"


def _statistics(c: Comparisons) -> dict[str, Text]:
    d, ci = wording.places(c), f"{fmt.percent(c.settings.confidence)} CI"
    return {
        "p, sign-flip": lambda r: fmt.p_value(r.p_signflip),
        "p, paired t": lambda r: fmt.p_value(r.p_t),
        "p, Wilcoxon signed-rank": lambda r: fmt.p_value(r.p_wilcoxon),
        "p, TOST (Holm)": lambda r: fmt.NOTHING if r.p_equivalent is None else fmt.p_value(r.p_equivalent),
        "p, stage-wise": _stop(lambda s: fmt.NOTHING if s.p_stagewise is None else fmt.p_value(s.p_stagewise)),
        "Δ, median-unbiased": _stop(lambda s: fmt.number(s.estimate, d, signed=True) if s.p_stagewise else fmt.NOTHING),
        "t at each look": _stop(lambda s: ", ".join(fmt.number(t, 2) for t in s.course.t[-MOST_LOOKS:])),
        "bounds of t": _stop(lambda s: ", ".join(fmt.number(b, 2) for b in _last(s.bounds, s.course.looks))),
        f"Δ, sign-flip {ci}": lambda r: fmt.interval(r.interval_signflip, d),
        f"Δ, bootstrap-t {ci}": lambda r: fmt.interval(r.interval_bootstrap_t, d),
        f"Δ, seeds and examples drawn, {ci}": _test_set(lambda t: fmt.interval(t.interval, d)),
        "test-set SE of Δ": _test_set(lambda t: fmt.number(t.se_examples, d)),
        "SE of Δ over seeds and examples": _test_set(lambda t: fmt.number(t.se_total, d)),
        "examples on which the two disagree": _test_set(lambda t: fmt.percent(t.disagreement)),
        f"d_z, noncentral-t {ci}": lambda r: fmt.interval(r.d_z_interval, 1),
        f"P(better), {ci}": lambda r: _shares(r.improvement_interval),
        "error reduction": lambda r: fmt.NOTHING if r.error_reduction is None else fmt.chance(r.error_reduction),
        f"SD ratio, Pitman–Morgan {ci}": lambda r: f"{fmt.number(r.sd_ratio, 2)} {_plain(r.sd_ratio_interval)}",
        "p, SD ratio (two-sided)": lambda r: fmt.p_value(r.sd_ratio_p),
        "ρ over seeds": lambda r: fmt.number(r.rho, 2),
    }


def _test_set(text: Callable[[TestSet], str]) -> Text:
    return lambda r: fmt.NOTHING if r.test_set is None else text(r.test_set)


def _stop(text: Callable[[Stopped], str]) -> Text:
    return lambda r: fmt.NOTHING if r.stopped is None else text(r.stopped) or fmt.NOTHING


def _last(bounds: tuple[float, ...], looks: int) -> tuple[float, ...]:
    """Those of the looks that are shown."""
    return bounds[max(0, looks - MOST_LOOKS) : looks]


def _shares(ends: Interval) -> str:
    return f"{fmt.chance(ends[0])} to {fmt.chance(ends[1])}"


def _plain(ends: Interval) -> str:
    return f"[{fmt.number(ends[0], 2)}, {fmt.number(ends[1], 2)}]"
