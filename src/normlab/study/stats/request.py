"""Is what was asked for possible? Every refusal says what came and what would do."""

from __future__ import annotations

import math

from normlab.errors import SpecError, UnknownName
from normlab.study.stats.result import Scores, Settings

BASELINE_NAMES = ("base", "baseline", "control")


def find_baseline(arms: tuple[str, ...]) -> str:
    """The one arm called base, baseline or control, in upper or lower case.

    Raises:
        SpecError: none or several are; the arms are listed.
    """
    found = [a for a in arms if a.strip().lower() in BASELINE_NAMES]
    if len(found) == 1:
        return found[0]
    problem = f"{' and '.join(map(repr, found))} could all be it" if found else "none is called base or control"
    raise SpecError(f"which arm is the baseline? {problem}; say --baseline ARM. Arms: {', '.join(arms)}.")


def checked_family(scores: Scores, settings: Settings) -> tuple[str, ...]:
    """The arms that are compared and corrected together, in the order of the study; none if there is a baseline only.

    Raises:
        SpecError: a setting that cannot be used, or scores whose shape is not [arms, seeds].
        UnknownName: a baseline or family that names no arm.
    """
    _check_values(settings)
    if scores.values.shape != (len(scores.arms), len(scores.seeds)):
        raise SpecError(
            f"scores of shape {scores.values.shape} given for {len(scores.arms)} arms and {len(scores.seeds)} seeds; "
            "one row per arm and one column per seed would do"
        )
    if settings.baseline not in scores.arms:
        raise UnknownName("arm", settings.baseline, scores.arms, where="baseline: ")
    if settings.family is None:
        return tuple(a for a in scores.arms if a != settings.baseline)
    return _check_family(settings.family, scores, settings)


def _check_family(family: tuple[str, ...], scores: Scores, settings: Settings) -> tuple[str, ...]:
    for arm in family:
        if arm not in scores.arms:
            raise UnknownName("arm", arm, scores.arms, where="family: ")
    if settings.baseline in family:
        raise SpecError(
            f"family holds the baseline {settings.baseline!r}, which is not compared with itself; leave it out"
        )
    if not family or len(set(family)) < len(family):
        raise SpecError(f"family ({', '.join(family)}) given; name one arm or more, each once")
    return tuple(a for a in scores.arms if a in family)


def _check_values(settings: Settings) -> None:
    shares = {"alpha": settings.alpha, "confidence": settings.confidence, "power": settings.power}
    for (name, value), usual in zip(shares.items(), (0.05, 0.95, 0.8), strict=True):
        if not 0 < value < 1:
            raise SpecError(f"{name} {value} given; it must lie between 0 and 1, {usual} is usual")
    margin = settings.equivalence
    if margin is not None and not 0 < margin < math.inf:
        raise SpecError(f"equivalence margin {margin} given; it must be positive, in the unit of the metric")
    if settings.resamples < 100:
        raise SpecError(f"resamples {settings.resamples} given; 100 are the least, 2000 are usual")
    choices = {"alternative": ("greater", "two-sided"), "better": ("higher", "lower")}
    for name, known in choices.items():
        if getattr(settings, name) not in known:
            raise UnknownName(name, getattr(settings, name), known)
