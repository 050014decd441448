"""How large an effect is: standardised, as a probability, as a ratio of errors or of spreads."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from normlab.study.stats import special
from normlab.study.stats.paired import spread, t_statistic
from normlab.study.stats.pairs import checked
from normlab.study.stats.result import Floats, Interval

_LARGEST_T = 3000.0  # 6 of it stay below the largest noncentrality


class SdRatio(NamedTuple):
    """SD of the treatment / SD of the control, its interval, and two-sided p of a ratio of 1."""

    ratio: float
    interval: Interval
    p: float


def cohen_d_z(gains: Floats) -> float:
    """Mean difference of the pairs [pairs] over its SD, with Hedges' correction for small samples.

    At two pairs no correction exists (its factor would be zero) and none is made. Infinite where all differences are
    the same, zero where all are zero.

    Raises:
        SpecError: fewer than two pairs.

    Source: Hedges, J. Educ. Stat. 6 (1981), eq. 6e.
    """
    t, df = t_statistic(gains), len(gains) - 1
    if math.isnan(t):
        return 0.0
    correction = (
        math.exp(special.log_gamma(df / 2) - special.log_gamma((df - 1) / 2)) / math.sqrt(df / 2) if df > 1 else 1
    )
    return t / math.sqrt(df + 1) * correction


def d_z_interval(gains: Floats, confidence: float = 0.95) -> Interval:
    """Two-sided interval of the standardised mean difference, by inverting the noncentral t.

    Unbounded where all differences are zero, and at infinity where all are the same.

    Raises:
        SpecError: fewer than two pairs.

    Source: Steiger and Fouladi (1997), in What If There Were No Significance Tests?, ch. 9.
    """
    t, df = t_statistic(gains), len(gains) - 1
    if not math.isfinite(t):
        return (-math.inf, math.inf) if math.isnan(t) else (t, t)
    beyond = max(1.0, abs(t) / _LARGEST_T)  # where both ends grow in proportion to t
    t /= beyond

    def end(tail: float) -> float:
        reach = 10 + 6 * abs(t)  # one degree of freedom is the widest: its χ lies below 6 but for 2e-9
        root = special.rising_root(lambda nc: tail - special.noncentral_t_cdf(df, nc, t), -reach, reach)
        return root * beyond / math.sqrt(df + 1)

    return end((1 + confidence) / 2), end((1 - confidence) / 2)


def improvement(gains: Floats) -> float:
    """Share of pairs [pairs] in which the treatment is better; ties count half."""
    d = checked(gains, 1)
    return float((d > 0).mean() + (d == 0).mean() / 2)


def improvement_interval(gains: Floats, confidence: float = 0.95) -> Interval:
    """Two-sided interval of the probability that the treatment is better on a new seed.

    Clopper-Pearson, with ties as half successes: tables of recipes live near 100 %, where Wilson's interval covers
    too rarely and this one never does. A tie only lowers the variance, so counting it half keeps that.

    Raises:
        SpecError: no pair.

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    n, wins, tail = len(gains), improvement(gains) * len(gains), (1 - confidence) / 2
    low = special.beta_quantile(wins, n - wins + 1, tail) if wins > 0 else 0.0
    high = special.beta_quantile(wins + 1, n - wins, 1 - tail) if wins < n else 1.0
    return low, high


def error_reduction(treatment: Floats, control: Floats, *, better: str = "higher") -> float | None:
    """Share of the control's error that the treatment removes, from metrics [pairs] in %.

    The error is 100 - metric, or the metric where low is good. None where the control makes no error.
    """
    theirs, ours = float(control.mean()), float(treatment.mean())
    if better == "higher":
        theirs, ours = 100 - theirs, 100 - ours
    return (theirs - ours) / theirs if theirs > 0 else None


def sd_ratio(treatment: Floats, control: Floats, confidence: float = 0.95) -> SdRatio:
    """Is the treatment steadier? Ratio of the SDs of two correlated samples [pairs].

    Exact for bivariate normal pairs; tails heavier than normal make it reject too often. Two pairs, or an arm
    without spread, allow no statement: the interval is (0, ∞) and p is 1.

    Raises:
        SpecError: fewer than two pairs.

    Source: Pitman, Biometrika 31 (1939); Morgan, Biometrika 31 (1939).
    """
    checked(treatment - control)
    ours, theirs, df = spread(treatment), spread(control), len(treatment) - 2
    if ours == 0 or theirs == 0 or df < 1:
        ratio = 1.0 if ours == theirs else math.inf if theirs == 0 else ours / theirs
        return SdRatio(ratio, (0.0, math.inf), 1.0)
    ratio, unexplained = ours / theirs, 1 - correlation(treatment, control) ** 2
    k = 1 + 2 * unexplained * special.t_quantile(df, (1 + confidence) / 2) ** 2 / df
    factor = math.sqrt(k + math.sqrt(k * k - 1))
    return SdRatio(ratio, (ratio / factor, ratio * factor), _pitman_morgan_p(ratio, unexplained, df))


def _pitman_morgan_p(ratio: float, unexplained: float, df: int) -> float:
    if math.isclose(ratio, 1, rel_tol=1e-12):
        return 1.0
    if unexplained <= 0:
        return 0.0
    t = abs(ratio - 1 / ratio) * math.sqrt(df / unexplained) / 2
    return min(1.0, 2 * special.t_cdf(df, -t))


def correlation(treatment: Floats, control: Floats) -> float:
    """Pearson's correlation of the two arms over their pairs [pairs]; NaN where an arm does not vary."""
    if np.ptp(treatment) == 0 or np.ptp(control) == 0:
        return math.nan
    a, b = ((x - x.mean()) / np.ptp(x) for x in (treatment, control))
    return float(np.clip(a @ b / math.sqrt(float(a @ a) * float(b @ b)), -1, 1))
