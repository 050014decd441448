"""What of a study's scores the looks went by, and what a reader must know about the looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from normlab.study.agenda import rule_of
from normlab.study.looks import Looks
from normlab.study.point import Point, as_table
from normlab.study.spec import Protocol
from normlab.study.stats.result import Comparisons, Finding, Scores


def as_looked_at(scores: Scores, looks: Looks) -> Scores:
    """The scores that the looks made so far have seen; nobody peeks at the others."""
    values, unused = scores.values.copy(), set[tuple[str, str]]()
    for k, arm in enumerate(scores.arms):
        used, needed = looks.used(arm), looks.needed(arm)
        after = list(enumerate(scores.seeds))[used:]
        over = {(arm, seed) for i, seed in after if i >= needed or np.isfinite(values[k, i])}
        unused |= over | {(arm, seed) for _, seed in after if (arm, seed) in scores.diverged}
        values[k, used:] = np.nan
    return replace(
        scores,
        values=values,
        diverged=scores.diverged - unused,
        failed=scores.failed - unused,
        unused=frozenset(unused),
    )


def about_looks(looks: Looks) -> Iterator[Finding]:
    """Gains that no look can judge, and looks that are still to come."""
    if looks.flat:
        yield Finding(
            "warning",
            "no-spread",
            f"All differences of {', '.join(map(repr, looks.flat))} are the same: the metric is too coarse or the seed "
            "not applied. t has no meaning there, so that such a look neither decides nor gives up.",
        )
    made: dict[int, list[str]] = {}
    for arm in looks.going_on:
        made.setdefault(looks.courses[arm].looks, []).append(arm)
    if made:
        each = "; ".join(f"{n} of {', '.join(arms)}" for n, arms in sorted(made.items()))
        yield Finding(
            "note",
            "looks-to-come",
            f"Of {len(looks.design.looks)} looks so many have been made: {each}. Only what they saw is shown.",
        )


def about_futility(c: Comparisons) -> Iterator[Finding]:
    """Arms that were given up, though as few seeds as the study has would do for an effect of the size observed."""
    for row in c.rows:
        if row.stopped is None or c.design is None or row.stopped.course.outcome != "futile":
            continue
        course, needed = row.stopped.course, row.seeds_needed
        if needed is None or needed > c.design.looks[-1] or course.chance is None:
            continue
        aim = "better" if c.design.alternative == "greater" else "better or worse"
        yield Finding(
            "warning",
            "given-up",
            f"{row.arm!r} was given up at look {course.decided}, its chance to be found {aim} being "
            f"{100 * course.chance:.2g} %. The seeds beside its verdict are those of a new study that asks for an "
            f"effect of the size observed, {'for the worse' if row.d_z < 0 else 'as if that were the true one'}.",
        )


def about_changes(
    point: Point, protocol: Protocol, family: Sequence[str], log: Sequence[Mapping[str, Any]]
) -> Iterator[Finding]:
    """A rule that was changed after results were seen; `family` are the arms compared now."""
    for entry in reversed(log):
        seeds = protocol.seeds[: len(entry["seeds"])]
        before = {**_fixed(entry["rule"]), "first seeds": entry["seeds"]}
        now = {**_fixed(rule_of(protocol, family)), "first seeds": seeds}
        changed = [key for key in before if before[key] != now.get(key)]
        if entry["point"] == as_table(point) and changed:
            was = ", ".join(f"{key} was {before[key]}, is {now.get(key)}" for key in changed)
            yield Finding(
                "warning",
                "rule-changed",
                f"Look {entry['look']} of {entry['time'][:10]} was made by another stopping rule ({was}): the level "
                "is no longer kept.",
            )
            return


def _fixed(rule: Mapping[str, Any]) -> dict[str, Any]:
    """What has to stay once a look was made: not futility, and by the e-process not the number of looks."""
    free = {"futility", "looks"} if rule["rule"] == "anytime" else {"futility"}
    return {key: value for key, value in rule.items() if key not in free}
