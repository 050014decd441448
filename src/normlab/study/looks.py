"""What a study's results decide by its stopping rule, and so which runs are still wanted.

Everything here is a function of the finished results, so `run`, `status`, `plan` and `report` agree, and a study that
was killed goes on as if it had not been. A look is made of an arm when it and the baseline have all their results up
to there. A run that failed has none: its arm waits (all arms, where it is the baseline's) until the run is made again,
and the others go on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from normlab.study.plan import RunSpec
from normlab.study.point import Point
from normlab.study.result import RunResult
from normlab.study.spec import Protocol
from normlab.study.stats.paired import spread, t_statistic
from normlab.study.stats.pairs import counted, paired_differences
from normlab.study.stats.result import Floats
from normlab.study.stats.stopping import Course, Design, follow, history


def design_of(protocol: Protocol) -> Design | None:
    """The study's stopping rule; None where it runs all seeds."""
    stopping, analysis = protocol.stopping, protocol.analysis
    if stopping.rule == "fixed":
        return None
    looks = stopping.looks_of(len(protocol.seeds))
    return Design(stopping.rule, looks, analysis.alpha, analysis.alternative, stopping.futility)


@dataclass(frozen=True)
class Looks:
    """One grid point: the looks made there, and what they decided.

    Attributes:
        runs: (arm, position of the seed) → run.
        courses: arm of the family → its course.
        t: [arms of the family, looks]; NaN where results are missing, infinite where the gains have no spread.
    """

    point: Point
    design: Design
    runs: Mapping[tuple[str, int], RunSpec]
    courses: Mapping[str, Course]
    t: Floats

    @property
    def going_on(self) -> tuple[str, ...]:
        """Arms with looks to come."""
        last = len(self.design.looks)
        return tuple(a for a, c in self.courses.items() if c.outcome == "open" and c.looks < last)

    def used(self, arm: str) -> int:
        """Seeds of an arm that the looks so far go by; of the baseline, and what is not compared, the most of all."""
        counts = {a: self.design.looks[c.looks - 1] if c.looks else 0 for a, c in self.courses.items()}
        return counts.get(arm, max(counts.values()))

    @property
    def flat(self) -> tuple[str, ...]:
        """Arms whose gains have no spread at the last look made of them."""
        return tuple(
            arm
            for t, (arm, c) in zip(self.t, self.courses.items(), strict=True)
            if c.looks and np.isinf(t[c.looks - 1])
        )

    def needed(self, arm: str) -> int:
        """Seeds of an arm that are used or may be yet."""
        going_on = self.going_on
        return self.design.looks[-1] if arm in going_on or (going_on and arm not in self.courses) else self.used(arm)

    def history(self) -> Iterator[dict[str, Course]]:
        """The courses as they stood after each look that was made of any arm."""
        made = max(course.looks for course in self.courses.values())
        for courses in islice(history(self.t, self.design), made):
            yield dict(zip(self.courses, courses, strict=True))


def looks_at(
    protocol: Protocol, plan: Sequence[RunSpec], point: Point, finished: Mapping[str, RunResult]
) -> Looks | None:
    """What has been seen at one grid point; None for a study that runs all seeds.

    Args:
        plan: one run for each arm, seed and grid point.
        finished: key → result.
    """
    design = design_of(protocol)
    if design is None:
        return None
    position = {seed: i for i, seed in enumerate(protocol.seeds)}
    runs = {(run.arm, position[run.seed]): run for run in plan if run.point == point}
    arms = dict.fromkeys(arm for arm, _ in runs)
    family = [a for a in arms if a != protocol.baseline and a in (protocol.family.arms or arms)]
    t = np.array([[_t(protocol, runs, finished, arm, n) for n in design.looks] for arm in family])
    return Looks(point, design, runs, dict(zip(family, follow(t, design), strict=True)), t)


def _t(
    protocol: Protocol,
    runs: Mapping[tuple[str, int], RunSpec],
    finished: Mapping[str, RunResult],
    arm: str,
    seeds: int,
) -> float:
    """t of the gains over the first seeds; NaN where a result is missing.

    Gains without any spread say that the metric is coarse or the seed not applied: t is infinite, the same for all
    of them, and decides nothing.
    """
    pair = [[finished.get(runs[name, i].key) for i in range(seeds)] for name in (arm, protocol.baseline)]
    if any(result is None for row in pair for result in row):
        return np.nan
    found = [[None if r is None else r.metrics.get(protocol.metric) for r in row] for row in pair]
    values = counted(np.array(found, dtype=float), protocol.analysis.better)
    if not np.isfinite(values).all():
        return np.nan
    gains = paired_differences(values[0], values[1]) * (1 if protocol.analysis.better == "higher" else -1)
    return t_statistic(gains) if spread(gains) > 0 else np.inf


def wanted(looks: Looks, failed: Collection[str]) -> list[RunSpec]:
    """The runs that the next look needs, finished ones among them, seed by seed.

    Args:
        failed: keys of runs that have no result and are not made again now: their arms wait.
    """
    arms = dict.fromkeys(arm for arm, _ in looks.runs)
    others = [arm for arm in arms if arm not in looks.courses]  # the baseline, and what is not compared with it
    going_on = {a: looks.design.looks[looks.courses[a].looks] for a in looks.going_on}
    waiting = {a: n for a, n in going_on.items() if any_failed(looks, a, n, failed)}
    baseline_waits = {n for n in going_on.values() if any(any_failed(looks, a, n, failed) for a in others)}
    able = {a: n for a, n in going_on.items() if a not in waiting and n not in baseline_waits}
    reach = min(able.values(), default=0)  # all look together; an arm whose results are there already waits here
    until = {a: n for a, n in going_on.items() if n <= reach or a not in able}
    until |= dict.fromkeys(others, max(until.values(), default=0))
    last = max(until.values(), default=0)
    return [looks.runs[arm, i] for i in range(last) for arm in arms if i < until.get(arm, 0)]


def any_failed(looks: Looks, arm: str, seeds: int, failed: Collection[str]) -> bool:
    """Whether a run of the arm among its first seeds is one of these."""
    return any(looks.runs[arm, i].key in failed for i in range(seeds))
