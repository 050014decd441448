"""What the looks decide about a family of comparisons, and when.

Holm and looks go together like this. For each comparison the sequential p-value is the smallest level at which the
bounds would have been crossed at a look made so far; it only falls, and under no effect it is ≤ p with chance ≤ p at
the end of all looks, so at any time before. At each look Holm's method is applied to the sequential p-values of the
whole family. The p-values that a study would end with, had it never stopped, are no larger, Holm's method only rejects
more as p-values fall, and at the end it keeps the family-wise error at α whatever the dependence: so it does for
whatever is decided on the way, whichever arms are dropped or given up, and for whatever reason.

A comparison that is decided makes the level of the others larger, at looks they already had too: that is the closed
test with one group-sequential test per intersection of Maurer and Bretz, Stat. Biopharm. Res. 5 (2013).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from normlab.study.stats.family import holm
from normlab.study.stats.result import Floats
from normlab.study.stats.stopping.chance import chance
from normlab.study.stats.stopping.design import Design

Outcome = Literal["better", "worse", "futile", "open"]


@dataclass(frozen=True)
class Course:
    """One comparison over the looks.

    Attributes:
        outcome: "futile" was given up, "open" has not been decided at the looks made so far.
        looks: how many were made of it.
        decided: number of the look (from 1) that decided it; None where open.
        t: at each look made.
        p, p_worse: sequential p-values after the last look made, of better and of worse; equal where two-sided.
        p_holm, p_holm_worse: the same, adjusted over the family.
        level: at which it was tested last, α over the comparisons not rejected before it.
        chance: of being decided yet, as asked at the last look; None where it was not.
    """

    outcome: Outcome
    looks: int
    decided: int | None
    t: tuple[float, ...]
    p: float
    p_worse: float
    p_holm: float
    p_holm_worse: float
    level: float
    chance: float | None = None


def follow(t: Floats, design: Design) -> tuple[Course, ...]:
    """Take the decisions that the results call for.

    Args:
        t: [comparisons, looks], positive where the treatment is better; NaN where the look has not been made of that
            comparison, because results are missing; what comes after a NaN is not looked at. Infinite where the
            differences have no spread: t has no meaning then, and the look counts as 0 and gives nothing up.
        design: the rule.

    Returns:
        One course per comparison. It depends on nothing but `t`, and more results never take a decision back, except
        that of giving up.
    """
    state = _State(t, design)
    for look in range(len(design.looks)):
        state.take(look)
    return tuple(state.course(k) for k in range(len(t)))


def history(t: Floats, design: Design) -> Iterator[tuple[Course, ...]]:
    """The courses as they stood after each look in turn; arguments as for `follow`, whose result is the last one."""
    state = _State(t, design)
    for look in range(len(design.looks)):
        state.take(look)
        yield tuple(state.course(k) for k in range(len(t)))


class _State:
    """A family between two looks."""

    def __init__(self, t: Floats, design: Design) -> None:
        self.flat = np.isinf(t)
        self.t, self.design = np.where(self.flat, 0.0, t), design
        count = len(t)
        self.p, self.p_worse = np.ones(count), np.ones(count)
        self.upwards = np.zeros(count, dtype=bool)  # two-sided: the sign of t at the look that gave p
        self.outcome: list[Outcome] = ["open"] * count
        self.decided: list[int | None] = [None] * count
        self.made = np.zeros(count, dtype=int)
        self.chance: list[float | None] = [None] * count

    def take(self, look: int) -> None:
        """The next look at every comparison that is still open and has all its results."""
        now = [
            k
            for k, outcome in enumerate(self.outcome)
            if outcome == "open" and self.made[k] == look and not np.isnan(self.t[k, look])
        ]
        if not now:
            return
        self._update(now, look)
        for k in np.flatnonzero(holm(self.p) <= self.design.alpha):
            self._close(int(k), look, "better")
        for k in np.flatnonzero(holm(self.p_worse) <= self.design.alpha):
            self._close(int(k), look, "worse")
        if self.design.futility and look + 1 < len(self.design.looks):
            for k in now:
                self._give_up(k, look)

    def _update(self, now: list[int], look: int) -> None:
        test, t = self.design.test, self.t[now, look]
        up, down = test.p(look, t), test.p(look, -t)
        if self.design.alternative == "two-sided":
            up = down = np.minimum(2 * np.minimum(up, down), 1.0)
            self.upwards[now] = np.where(up < self.p[now], t > 0, self.upwards[now])
        self.p[now], self.p_worse[now] = np.minimum(self.p[now], up), np.minimum(self.p_worse[now], down)
        self.made[now] += 1
        for k in now:
            self.chance[k] = None  # of the look before

    def _close(self, k: int, look: int, outcome: Outcome) -> None:
        """A decision stands; what was given up can still be decided by the level that others leave to it."""
        if self.outcome[k] not in ("open", "futile"):
            return
        if self.design.alternative == "two-sided":
            outcome = "better" if self.upwards[k] else "worse"
        self.outcome[k], self.decided[k] = outcome, look + 1

    def _give_up(self, k: int, look: int) -> None:
        if self.outcome[k] != "open" or self.flat[k, look]:
            return
        likely = self.chance[k] = chance(self.design, look, float(self.t[k, look]), self._level(k))
        if likely < self.design.futility:
            self.outcome[k], self.decided[k] = "futile", look + 1

    def _level(self, k: int) -> float:
        """α over the comparisons that Holm's method had not rejected when it came to this one."""
        p = self.p_worse if self.outcome[k] == "worse" else self.p
        rejected = holm(p) <= self.design.alpha
        before = rejected & ((p < p[k]) | ((p == p[k]) & (np.arange(len(p)) < k)))
        return self.design.alpha / (len(p) - int(before.sum()))

    def course(self, k: int) -> Course:
        """What is known in the end."""
        return Course(
            outcome=self.outcome[k],
            looks=int(self.made[k]),
            decided=self.decided[k],
            t=tuple(float(x) for x in self.t[k, : self.made[k]]),
            p=float(self.p[k]),
            p_worse=float(self.p_worse[k]),
            p_holm=float(holm(self.p)[k]),
            p_holm_worse=float(holm(self.p_worse)[k]),
            level=self._level(k),
            chance=self.chance[k],
        )
