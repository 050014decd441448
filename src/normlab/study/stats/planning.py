"""Which of effect, number of seeds and power is missing, and what it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from normlab.errors import SpecError
from normlab.study.stats.effects import cohen_d_z
from normlab.study.stats.paired import spread
from normlab.study.stats.pairs import pair
from normlab.study.stats.power import Sides, detectable_effect, sd_of_difference, seeds_needed, signflip_power
from normlab.study.stats.request import checked_family
from normlab.study.stats.result import Scores, Settings

USUAL_POWER = 0.8
_WAYS = "--effect D_Z, or --delta D with --sd S, or --pilot results.csv"


@dataclass(frozen=True)
class Question:
    """What is known about a study to come; None = not said.

    Attributes:
        effect: mean paired difference in its own SDs.
        delta: mean difference in the unit of the metric.
        sd: SD of one arm over seeds.
        rho: correlation of the two arms over seeds.
        pilot: finished runs, whose paired differences give SDs and, without `delta`, effects.
        baseline: the control of the pilot.
        seeds: number of pairs.
        power: chance to find the effect.
        alpha: family-wise level.
        alternative: "greater" or "two-sided".
        family: arms tested together.
    """

    effect: float | None = None
    delta: float | None = None
    sd: float | None = None
    rho: float | None = None
    pilot: Scores | None = None
    baseline: str = ""
    seeds: int | None = None
    power: float | None = None
    alpha: float = 0.05
    alternative: Sides = "greater"
    family: int = 1

    @property
    def level(self) -> float:
        """Of Holm's first step, the most demanding one."""
        return self.alpha / self.family


@dataclass(frozen=True)
class Plan:
    """One answer: `seeds` pairs find `effect` with `power`; `seeds` None = more than 100,000.

    Attributes:
        arm: of the pilot, or "".
        delta: the effect in the unit of the metric; None where its SD is not known.
    """

    arm: str
    effect: float
    delta: float | None
    seeds: int | None
    power: float


def plan(question: Question) -> tuple[Plan, ...]:
    """Complete what is known: one plan, or one per arm of the pilot; losses are looked for as losses.

    Raises:
        SpecError: too little or too much is given, or a value that cannot be.
    """
    _check(question)
    if question.pilot is not None:
        return tuple(
            _complete(question, arm, *known) for arm, known in _pilot_effects(question, question.pilot).items()
        )
    sd = None if question.sd is None else sd_of_difference(question.sd, question.rho or 0.0)
    effect = question.delta / sd if question.delta is not None and sd is not None else question.effect
    return (_complete(question, "", effect, sd),)


def _complete(q: Question, arm: str, effect: float | None, sd: float | None) -> Plan:
    target = USUAL_POWER if q.power is None else q.power
    seeds, level, sides = q.seeds, q.level, q.alternative
    if effect is None:
        assert seeds is not None  # else _check has refused
        effect = detectable_effect(seeds, target=target, alpha=level, alternative=sides)
    elif seeds is None:
        seeds = seeds_needed(abs(effect), target=target, alpha=level, alternative=sides)
    reached = target if seeds is None else signflip_power(seeds, abs(effect), alpha=level, alternative=sides)
    return Plan(arm, effect, None if sd is None else effect * sd, seeds, reached)


def _pilot_effects(q: Question, pilot: Scores) -> dict[str, tuple[float, float]]:
    """Per arm: d_z, and the SD of its paired differences."""
    found: dict[str, tuple[float, float]] = {}
    settings = Settings(q.baseline)
    for arm in checked_family(pilot, settings):
        d = pair(pilot, arm, settings).differences
        sd = spread(d) if len(d) >= 2 else 0.0
        if sd == 0:
            raise SpecError(f"pilot: the {len(d)} differences of {arm!r} have no spread to plan with; run more seeds")
        found[arm] = (cohen_d_z(d) if q.delta is None else q.delta / sd, sd)
    return found


def _check(q: Question) -> None:
    if q.family < 1:
        raise SpecError(f"family {q.family} given; it counts the arms tested together, 1 or more")
    if not 0 < q.alpha < 1:
        raise SpecError(f"alpha {q.alpha} given; it must lie between 0 and 1, 0.05 is usual")
    for name, size in (("--effect", q.effect), ("--delta", q.delta)):
        if size is not None and not 0 < abs(size) < math.inf:
            raise SpecError(f"{name} {size:g} given; name the smallest one that matters, finite and not zero")
    _check_ways(q)
    known = q.effect is not None or q.delta is not None or q.pilot is not None
    if known and q.seeds is not None and q.power is not None:
        raise SpecError("effect, seeds and power are all given; leave out the one that is asked for")
    if not known and q.seeds is None:
        raise SpecError(f"too little is given. For the seeds needed: {_WAYS}. For the smallest effect found: --seeds N")


def _check_ways(q: Question) -> None:
    """At most one way to give the effect, and each with what it takes."""
    if q.effect is not None and (q.delta, q.sd, q.rho, q.pilot) != (None, None, None, None):
        raise SpecError(f"the effect is given more than once; keep one of: {_WAYS}")
    if q.pilot is not None and (q.sd, q.rho) != (None, None):
        raise SpecError("--pilot gives the SD and the correlation already; leave out --sd and --rho")
    if q.delta is not None and q.sd is None and q.pilot is None:
        raise SpecError(
            f"--delta {q.delta:g} says nothing without a spread; add --sd S of one arm, or --pilot results.csv"
        )
    if q.rho is not None and q.sd is None:
        raise SpecError("--rho says nothing without --sd S of one arm; add it")
    if q.sd is not None and q.delta is None and q.seeds is None:
        raise SpecError("--sd needs --delta D (for the seeds it takes) or --seeds N (for the smallest delta found)")
