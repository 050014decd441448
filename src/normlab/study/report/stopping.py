"""What a report says of a stopping rule, in words."""

from __future__ import annotations

from normlab.page import format as fmt
from normlab.study.stats.result import Comparison, Comparisons
from normlab.study.stats.stopping.design import Design

RULES = {"obrien_fleming": "O'Brien–Fleming", "pocock": "Pocock"}


def rule(design: Design) -> str:
    """The stopping rule in a few words."""
    if design.rule == "anytime":
        return "anytime-valid t (e-process, a look after every seed)"
    return f"{RULES[design.rule]} bounds for t at {fmt.enumeration([str(n) for n in design.looks])} seeds"


def interval_kind(c: Comparisons) -> str:
    """How the intervals of the table were found."""
    if c.design is None:
        return "paired t, two-sided, unadjusted"
    if c.design.rule == "anytime":
        return "confidence sequence, two-sided, valid whenever one stops, not adjusted for the number of recipes"
    return "t, two-sided, adjusted for the looks (stage-wise; repeated where it goes on), not for the number of recipes"


def p_kind(c: Comparisons, test: str) -> str:
    """What the p of the table is, before Holm."""
    return f"{test} p" if c.design is None else f"the level at which the looks would have decided ({test})"


def seeds(c: Comparisons) -> str:
    """`15 paired seeds`; `5-10 of 15 paired seeds` where a stopping rule did without some, or has not come to them."""
    planned = fmt.plural(len(c.scores.seeds), "paired seed")
    used = {len(row.seeds) for row in c.rows}
    if c.design is None or not used or used == {len(c.scores.seeds)}:
        return planned
    return f"{'–'.join(str(n) for n in sorted({min(used), max(used)}))} of {planned}"


def when(row: Comparison) -> str:
    """`stopped at look 2`, `given up at look 1`; "" where all seeds were run, or none is decided."""
    course = None if row.stopped is None else row.stopped.course
    if course is None or course.decided is None or row.stopped is None:
        return ""
    if course.outcome == "futile":
        return f"given up at look{fmt.NBSP}{course.decided}"
    return f"stopped at look{fmt.NBSP}{course.decided}" if course.decided < len(row.stopped.bounds) else ""
