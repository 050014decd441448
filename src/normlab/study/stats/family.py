"""From the gains of a family of comparisons to one verdict each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from normlab.study.stats.effects import cohen_d_z
from normlab.study.stats.paired import equivalence
from normlab.study.stats.power import seeds_needed
from normlab.study.stats.result import Floats, Settings, Verdict
from normlab.study.stats.signflip import signflip_test


@dataclass(frozen=True)
class Judgement:
    """What the family says about one comparison; the fields are those of `Comparison`."""

    p_signflip: float = math.nan
    p_holm: float = math.nan
    p_holm_worse: float = math.nan
    p_equivalent: float | None = None
    verdict: Verdict = "no data"
    seeds_needed: int | None = None


@dataclass(frozen=True)
class _Family:
    """[comparisons] each: p of the sign-flip test as it came, and adjusted for better, worse and equivalent."""

    p: Floats
    better: Floats
    worse: Floats
    equivalent: Floats | None


def holm(p: Sequence[float] | Floats) -> Floats:
    """Adjusted p values [comparisons]: rejecting those <= α keeps the chance of any false rejection at α.

    Source: Holm, Scand. J. Statist. 6 (1979).
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def judge(gains: Sequence[Floats], settings: Settings) -> tuple[Judgement, ...]:
    """Test every comparison of a family and correct for their number.

    Better and worse are two questions, each with its own correction at `settings.alpha`; a two-sided alternative
    asks both at once. What is neither may be equivalent, if a margin is set.

    Args:
        gains: per comparison, [pairs], positive where the treatment is better. Fewer than two pairs are "no data";
            such a comparison keeps its place in the family with p = 1, because it was planned.
        settings: level, alternative, equivalence margin, power.

    Returns:
        One judgement per comparison, in the same order.
    """
    family = _adjust(gains, settings)
    return tuple(_judge_one(k, g, family, settings) if len(g) >= 2 else Judgement() for k, g in enumerate(gains))


def _adjust(gains: Sequence[Floats], settings: Settings) -> _Family:
    def each(test: Callable[[Floats], float]) -> Floats:
        return np.array([test(g) if len(g) >= 2 else 1.0 for g in gains])

    p = each(lambda g: signflip_test(g, settings.alternative, seed=settings.seed).p)
    better = worse = holm(p)
    if settings.alternative == "greater":
        worse = holm(each(lambda g: signflip_test(g, "less", seed=settings.seed).p))
    margin = settings.equivalence
    return _Family(p, better, worse, None if margin is None else holm(each(lambda g: equivalence(g, margin))))


def _judge_one(k: int, gains: Floats, family: _Family, settings: Settings) -> Judgement:
    p_equivalent = None if family.equivalent is None else float(family.equivalent[k])
    verdict: Verdict = "unresolved"
    if family.better[k] <= settings.alpha and gains.mean() > 0:
        verdict = "better"
    elif family.worse[k] <= settings.alpha and gains.mean() < 0:
        verdict = "worse"
    elif p_equivalent is not None and p_equivalent <= settings.alpha:
        verdict = "equivalent"
    return Judgement(
        p_signflip=float(family.p[k]),
        p_holm=float(family.better[k]),
        p_holm_worse=float(family.worse[k]),
        p_equivalent=p_equivalent,
        verdict=verdict,
        seeds_needed=_seeds_to_resolve(gains, family, settings) if verdict == "unresolved" else None,
    )


def _seeds_to_resolve(gains: Floats, family: _Family, settings: Settings) -> int | None:
    """Seeds in all at which an effect as large as the observed one is found with `settings.power`.

    The level is that of Holm's next step: alpha over the comparisons not yet rejected in the observed direction.
    """
    d_z = cohen_d_z(gains)
    rejected = (family.better if d_z >= 0 else family.worse) <= settings.alpha
    level = settings.alpha / int((~rejected).sum())
    needed = seeds_needed(abs(d_z), target=settings.power, alpha=level, alternative=settings.alternative)
    return None if needed is None else max(needed, len(gains) + 1)
