"""Measured beside published: the difference of two independent means, and its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

from normlab.study.stats import special
from normlab.study.stats.compare import summary
from normlab.study.stats.result import ArmSummary, Interval, Scores


@dataclass(frozen=True)
class Published:
    """What a source says of one arm.

    Attributes:
        mean: in the unit of the metric.
        sd: over runs (n - 1), or None where the source gives none.
        n: runs behind it, or None where the source does not say.
    """

    mean: float
    sd: float | None = None
    n: int | None = None

    @property
    def exact(self) -> bool:
        """Whether nothing is known of its own uncertainty, so that intervals cannot hold it."""
        return self.sd is None or self.n is None


@dataclass(frozen=True)
class Reproduction:
    """One arm: measured, published, and measured − published with its interval; NaN where nothing is measured."""

    measured: ArmSummary
    published: Published
    difference: float
    interval: Interval


@dataclass(frozen=True)
class Reproductions:
    """The published numbers of one table beside ours, in the order of the study's arms.

    Attributes:
        source: where they stand.
        confidence: of the intervals.
        changed: what was set otherwise than in the study file, `train.epochs=2`.
        elsewhere: published grid points that the study does not have, now that something was set otherwise.
    """

    source: str
    confidence: float
    rows: tuple[Reproduction, ...]
    changed: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


def reproduce(scores: Scores, arm: str, published: Published, confidence: float = 0.95) -> Reproduction:
    """One arm's measured mean minus the published one."""
    ours = summary(scores, arm)
    return Reproduction(ours, published, ours.mean - published.mean, difference_interval(ours, published, confidence))


def difference_interval(ours: ArmSummary, theirs: Published, confidence: float = 0.95) -> Interval:
    """Two-sided interval of measured − published; the runs are not paired.

        d ± t_{ν, (1 + confidence) / 2} √(s₁²/n₁ + s₂²/n₂),   ν = (s₁²/n₁ + s₂²/n₂)² / Σ (sᵢ²/nᵢ)² / (nᵢ − 1)

    A published mean without SD or number of runs is taken as it stands: its s₂²/n₂ is 0, and the interval is that of
    the measured mean alone, moved.

    Returns:
        NaN twice where fewer than two runs were measured.

    Source: Welch, Biometrika 34 (1947) 28; Satterthwaite's degrees of freedom.
    """
    if ours.n < 2:
        return math.nan, math.nan
    parts = [(ours.sd**2 / ours.n, ours.n)]
    if theirs.sd is not None and theirs.n is not None:
        parts.append((theirs.sd**2 / theirs.n, theirs.n))
    variance, difference = sum(v for v, _ in parts), ours.mean - theirs.mean
    if variance == 0:
        return difference, difference
    freedom = variance**2 / sum(v**2 / (n - 1) for v, n in parts)
    half = special.t_quantile(freedom, (1 + confidence) / 2) * math.sqrt(variance)
    return difference - half, difference + half
