"""From the looks of a stopping rule to the verdicts of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from normlab.study.stats.effects import cohen_d_z
from normlab.study.stats.family import Judgement, holm
from normlab.study.stats.paired import equivalence
from normlab.study.stats.power import seeds_needed
from normlab.study.stats.result import Comparison, Floats, Settings, Stopped, Verdict
from normlab.study.stats.signflip import signflip_test
from normlab.study.stats.stopping.after import adjusted
from normlab.study.stats.stopping.decide import Course
from normlab.study.stats.stopping.design import Design


@dataclass(frozen=True)
class Stopping:
    """A design and how far the comparisons have come by it: arm → course."""

    design: Design
    courses: Mapping[str, Course]


def judge_stopped(
    gains: Sequence[Floats], courses: Sequence[Course], design: Design, settings: Settings
) -> tuple[Judgement, ...]:
    """One judgement per comparison: what the looks decided, with the p-values adjusted for looks and family.

    Equivalence is asked once, at the last look, of what has come so far undecided: a test made at one time only,
    whether or not it is reached, keeps its level.

    Args:
        gains: per comparison, [pairs] of the looks made of it, positive where the treatment is better.
        courses: the same comparisons.
    """
    equivalent = _equivalent(gains, courses, design, settings)
    return tuple(
        _judge(g, c, None if equivalent is None else float(equivalent[k]), settings)
        if len(g) >= 2
        else Judgement(p_holm=c.p_holm, p_holm_worse=c.p_holm_worse)
        for k, (g, c) in enumerate(zip(gains, courses, strict=True))
    )


def _equivalent(
    gains: Sequence[Floats], courses: Sequence[Course], design: Design, settings: Settings
) -> Floats | None:
    margin, last = settings.equivalence, len(design.looks)
    if margin is None:
        return None
    asked = [c.outcome == "open" and c.looks == last for c in courses]
    return holm([equivalence(g, margin) if ask else 1.0 for g, ask in zip(gains, asked, strict=True)])


def _judge(gains: Floats, course: Course, p_equivalent: float | None, settings: Settings) -> Judgement:
    verdict: Verdict = "unresolved"
    if course.outcome in ("better", "worse"):
        verdict = course.outcome
    elif p_equivalent is not None and p_equivalent <= settings.alpha:
        verdict = "equivalent"
    return Judgement(
        p_signflip=signflip_test(gains, settings.alternative, seed=settings.seed).p,
        p_holm=course.p_holm,
        p_holm_worse=course.p_holm_worse,
        p_equivalent=p_equivalent,
        verdict=verdict,
        seeds_needed=_needed(gains, course, settings) if verdict == "unresolved" else None,
    )


def _needed(gains: Floats, course: Course, settings: Settings) -> int | None:
    """Seeds of a study without looks that would find an effect as large as the observed one, at this level."""
    needed = seeds_needed(
        abs(cohen_d_z(gains)), target=settings.power, alpha=course.level, alternative=settings.alternative
    )
    return None if needed is None else max(needed, len(gains) + 1)


def with_stop(row: Comparison, gains: Floats, stopping: Stopping, settings: Settings) -> Comparison:
    """The row with an interval and an estimate that know of the looks."""
    course, design = stopping.courses[row.arm], stopping.design
    bounds = tuple(float(b) for b in design.bounds(course.level))
    if len(gains) < 2:
        return replace(row, stopped=Stopped(course, bounds, math.nan, None, ""))
    found = adjusted(gains, course, design, settings.confidence)
    low, high = found.interval
    if settings.better == "lower":
        low, high = -high, -low
    sign = 1 if settings.better == "higher" else -1
    return replace(
        row,
        interval=(low, high),
        stopped=Stopped(course, bounds, sign * found.estimate, found.p_stagewise, found.method),
    )
