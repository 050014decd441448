"""What of a study's scores the looks went by, and what a reader must know about the looks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from normlab.study.agenda import rule_of
from normlab.study.looks import Looks
from normlab.study.plan import Point
from normlab.study.spec import Protocol
from normlab.study.stats.result import Finding, Scores


def as_looked_at(scores: Scores, looks: Looks) -> Scores:
    """The scores that the looks made so far have seen; nobody peeks at the others."""
    values, unused = scores.values.copy(), set[tuple[str, str]]()
    for k, arm in enumerate(scores.arms):
        used, needed = looks.used(arm), looks.needed(arm)
        finished = np.isfinite(values[k])
        unused |= {(arm, seed) for i, seed in enumerate(scores.seeds) if i >= used and (i >= needed or finished[i])}
        values[k, used:] = np.nan
    return replace(
        scores,
        values=values,
        diverged=scores.diverged - unused,
        failed=scores.failed - unused,
        unused=frozenset(unused),
    )


def about_looks(looks: Looks) -> Iterator[Finding]:
    """Looks that are still to come."""
    if looks.going_on:
        n = {len(looks.design.looks) if c.outcome != "open" else c.looks for c in looks.courses.values()}
        yield Finding(
            "note",
            "looks-to-come",
            f"{min(n)} of {len(looks.design.looks)} looks have been made of {', '.join(looks.going_on)}, and only what "
            "they saw is shown.",
        )


def about_changes(point: Point, protocol: Protocol, log: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """A rule that was changed after results were seen."""
    for entry in log:
        seeds = protocol.seeds[: len(entry["seeds"])]
        before = {**_fixed(entry["rule"]), "first seeds": entry["seeds"]}
        now = {**_fixed(rule_of(protocol)), "first seeds": seeds}
        changed = [key for key in before if before[key] != now.get(key)]
        if entry["point"] == dict(point) and changed:
            was = ", ".join(f"{key} was {before[key]}, is {now.get(key)}" for key in changed)
            yield Finding(
                "warning",
                "rule-changed",
                f"The stopping rule was changed after look {entry['look']} of {entry['time'][:10]} ({was}): it no "
                "longer keeps its level.",
            )
            return


def _fixed(rule: Mapping[str, Any]) -> dict[str, Any]:
    """What has to stay once a look was made: not futility, and by the e-process not the number of looks."""
    free = {"futility", "looks"} if rule["rule"] == "anytime" else {"futility"}
    return {key: value for key, value in rule.items() if key not in free}
