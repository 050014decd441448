"""Which runs form pairs, and what separates the two of a pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normlab.errors import SpecError
from normlab.study.stats.result import Floats, Scores, Settings

_DIGITS = 12  # of the largest value; a float64 has 15 to 16, and subtraction costs the rest


@dataclass(frozen=True)
class Pairs:
    """The seeds at which an arm and its control both have a result, and why the others are not here.

    Attributes:
        differences: [pairs], treatment − control.
        clean: [pairs], neither of the two diverged.
        missing: seeds without a pair, runs of this arm that failed aside.
    """

    arm: str
    seeds: tuple[str, ...]
    treatment: Floats
    control: Floats
    differences: Floats
    clean: tuple[bool, ...]
    diverged: tuple[str, ...]
    failed: tuple[str, ...]
    missing: tuple[str, ...]

    def gains(self, settings: Settings) -> Floats:
        """The differences, positive where the treatment is better."""
        return self.differences if settings.better == "higher" else -self.differences


def pair(scores: Scores, arm: str, settings: Settings) -> Pairs:
    """Pair `arm` with the baseline by seed, where both have a result; a run that diverged has one."""
    two = (arm, settings.baseline)
    values = np.stack([scores.values[scores.arms.index(name)] for name in two])
    gone = np.array([[(name, s) in scores.diverged for s in scores.seeds] for name in two])
    both = np.all(np.isfinite(values) | gone, axis=0)
    both &= np.isfinite(values[:, both]).any()
    treatment, control = counted(values[:, both], settings.better)
    seeds = tuple(s for s, ok in zip(scores.seeds, both, strict=True) if ok)
    failed = of_arm(scores.failed, arm, scores.seeds)
    return Pairs(
        arm=arm,
        seeds=seeds,
        treatment=treatment,
        control=control,
        differences=paired_differences(treatment, control),
        clean=tuple(not diverged for diverged in np.any(gone[:, both], axis=0).tolist()),
        diverged=of_arm(scores.diverged, arm, scores.seeds),
        failed=failed,
        missing=tuple(s for s in scores.seeds if s not in (*seeds, *failed, *of_arm(scores.unused, arm, scores.seeds))),
    )


def counted(values: Floats, better: str) -> Floats:
    """[2, pairs] of an arm and the baseline; NaN, of a diverged run that names no value, becomes the worst of all.

    Without any value all stay NaN.
    """
    known = values[np.isfinite(values)]
    if known.size == 0:
        return values
    return np.where(np.isfinite(values), values, known.min() if better == "higher" else known.max())


def of_arm(runs: frozenset[tuple[str, str]], arm: str, seeds: tuple[str, ...]) -> tuple[str, ...]:
    """The seeds of one arm among (arm, seed) pairs, in the order of the study."""
    return tuple(s for s in seeds if (arm, s) in runs)


def paired_differences(treatment: Floats, control: Floats) -> Floats:
    """treatment − control, free of the noise of binary fractions.

    90.3 − 90.0 and 80.3 − 80.0 differ in float64 by 1e-14. Ties and zeros decide rank tests and sign flips,
    so differences are rounded to 12 digits of the largest value.
    """
    largest = max(np.abs(treatment).max(initial=0), np.abs(control).max(initial=0))
    if largest == 0:
        return treatment - control
    decimals = _DIGITS - int(np.ceil(np.log10(largest)))
    return np.round(treatment - control, min(decimals, 300))


def checked(differences: Floats, least: int = 2) -> Floats:
    """`differences` as float64.

    Raises:
        SpecError: fewer than `least` pairs, or one that is not finite.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or len(d) < least:
        raise SpecError(
            f"{'differences of shape ' + str(d.shape) if d.ndim != 1 else f'{len(d)} pair(s)'} given, "
            f"this takes a vector of {least} or more: train both arms with at least {least} common seeds"
        )
    if not np.isfinite(d).all():
        where = int(np.flatnonzero(~np.isfinite(d))[0])
        raise SpecError(f"difference {where} is {d[where]}: drop pairs without a result before testing")
    return d
