"""Estimates that know that the study may have stopped early: the plain mean is too large then, its interval off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from normlab.study.stats import special
from normlab.study.stats.paired import spread, t_statistic
from normlab.study.stats.result import Floats, Interval
from normlab.study.stats.stopping.decide import Course
from normlab.study.stats.stopping.design import Design
from normlab.study.stats.stopping.paths import null_paths

PATHS = 50_000
_REACH = 10.0  # of the interval, in those of the t interval without looks


@dataclass(frozen=True)
class Adjusted:
    """What the pairs say of the mean gain, the looks taken into account.

    Attributes:
        p_stagewise: one-sided p of no gain; None where the rule has no order of its own.
        estimate: median-unbiased, in the unit of the gains; the mean where there is no such.
        interval: two-sided, in the unit of the gains.
        method: "stage-wise", "repeated" or "confidence sequence".
    """

    p_stagewise: float | None
    estimate: float
    interval: Interval
    method: str


def adjusted(gains: Floats, course: Course, design: Design, confidence: float) -> Adjusted:
    """Estimate and interval of a comparison after `course.looks` looks.

    Where it has stopped by a group-sequential rule: by stage-wise ordering, from the pairs of the look at which it
    first crossed the bounds of its level; that lies before the look that decided it if other arms left it that level
    later. A result is the more extreme the earlier it crossed the upper bound, then the larger t is at the look where
    it stopped, then the later it crossed the lower one; p(μ) is the chance of one at least as extreme under a true mean
    μ, its roots at 1/2 and (1 ∓ confidence) / 2 are the estimate and the interval. That t about μ has Student's
    distribution is exact; that the study had not stopped before is a matter of μ/σ, for which the SD of the pairs
    stands.

    Where it goes on: the repeated interval, mean ± bound · SD / √n, which holds at all looks together, and so does
    the confidence sequence of the e-process, which is the interval there in any case.

    Args:
        gains: [pairs] the differences at the looks made of it, positive where the treatment is better.
        course: at least one look.
        confidence: of the interval.

    Source: Tsiatis, Rosner and Mehta, Biometrics 40 (1984); Jennison and Turnbull, J. R. Statist. Soc. B 51 (1989).
    """
    goes_on, stage = course.decided is None and course.looks < len(design.looks), _stage(course, design)
    if design.rule != "anytime" and not goes_on:
        gains = gains[: design.looks[stage]]
    mean, sd = float(gains.mean()), spread(gains)
    if design.rule == "anytime" or goes_on or sd == 0:
        half = float(design.test.bounds((1 - confidence) / 2)[course.looks - 1]) * sd / math.sqrt(len(gains))
        half = 0.0 if sd == 0 else half
        method = "confidence sequence" if design.rule == "anytime" else "repeated"
        return Adjusted(None, mean, (mean - half, mean + half), method)
    order = _order(design, stage, course.level)
    t, tail = t_statistic(gains), (1 - confidence) / 2
    reach = _REACH * (1 + special.t_bound(len(gains) - 1, tail) / math.sqrt(len(gains)))

    def root(p: float) -> float:
        def excess(effect: float) -> float:
            return order.p(t - effect * math.sqrt(len(gains)), effect) - p

        return special.rising_root(excess, mean / sd - reach, mean / sd + reach) * sd

    return Adjusted(order.p(t, 0.0), root(0.5), (root(tail), root(1 - tail)), "stage-wise")


def _stage(course: Course, design: Design) -> int:
    """The look, from 0, at which the comparison crossed the bounds of its level; the last one made where it did not."""
    sign = {"better": 1, "worse": -1}.get(course.outcome, 0)
    beyond = [sign * t >= bound for t, bound in zip(course.t, design.bounds(course.level), strict=False)]
    return beyond.index(True) if sign and True in beyond else course.looks - 1


class _Order:
    """Stage-wise ordering of the results of one comparison that stopped at `look`."""

    def __init__(self, design: Design, look: int, level: float) -> None:
        paths, bounds = null_paths(design.looks, PATHS), design.bounds(level)
        half = [bounds[k] * paths.sds[k] / math.sqrt(design.looks[k]) for k in range(look)]
        # a path stops at a look where the true mean is at least this, or at most that
        self.up = [h - paths.means[k] for k, h in enumerate(half)]
        self.down = [-h - paths.means[k] for k, h in enumerate(half)]
        self.here, self.df = paths.t(look), design.looks[look] - 1  # t about the true mean

    def p(self, t: float, effect: float) -> float:
        """Chance of a result at least as extreme as `t`, which is about the true mean of `effect` SDs."""
        stopped, above = np.zeros(PATHS, dtype=bool), np.zeros(PATHS, dtype=bool)
        for up, down in zip(self.up, self.down, strict=True):
            crossed = up <= effect
            above |= crossed & ~stopped
            stopped |= crossed | (down >= effect)
        # Student's tail is exact; of the simulated paths only those that stopped before correct it.
        further = int(np.count_nonzero(stopped & (self.here >= t)))
        return special.t_cdf(self.df, -t) + (int(np.count_nonzero(above)) - further) / PATHS


_order = lru_cache(maxsize=32)(_Order)
