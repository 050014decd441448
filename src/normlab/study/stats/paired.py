"""Tests of one treatment against one control on the differences of their pairs: t, Wilcoxon, equivalence."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from normlab.errors import SpecError
from normlab.study.stats import special
from normlab.study.stats.pairs import checked
from normlab.study.stats.result import Floats

Alternative = Literal["greater", "less", "two-sided"]
WILCOXON_EXACT_PAIRS = 200


class TTest(NamedTuple):
    """A t statistic on n - 1 degrees of freedom and its p."""

    t: float
    p: float


def t_statistic(differences: Floats) -> float:
    """mean / (sd / √n); infinite where all differences are the same, NaN where all are zero."""
    d = checked(differences)
    mean, sd = float(d.mean()), spread(d)
    if sd == 0:
        return math.copysign(math.inf, mean) if mean else math.nan
    return mean / (sd / math.sqrt(len(d)))


def spread(values: Floats) -> float:
    """SD (n - 1), exactly zero where all values are the same; scaled first, so that no square overflows."""
    scale = float(np.ptp(values))
    return float((values / scale).std(ddof=1)) * scale if scale > 0 else 0.0


def paired_t(differences: Floats, alternative: Alternative = "greater") -> TTest:
    """Paired t-test of a zero mean difference.

    Args:
        differences: [pairs], treatment − control, in any unit.
        alternative: direction of the mean difference that is looked for.

    Returns:
        t and p. As the authors of the source have it, equal arms give NaN and a constant gain gives p = 0.

    Raises:
        SpecError: fewer than two pairs.

    Source: Davis and Frank, arXiv:2110.13989, sec. 4.3.
    """
    t = t_statistic(differences)
    df = len(differences) - 1
    if alternative == "two-sided":
        return TTest(t, min(1.0, 2 * special.t_cdf(df, -abs(t))) if not math.isnan(t) else math.nan)
    return TTest(t, special.t_cdf(df, -t if alternative == "greater" else t))


def equivalence(differences: Floats, margin: float) -> float:
    """p of the two one-sided tests (TOST) that the mean difference lies within ±margin.

    Args:
        differences: [pairs], treatment − control.
        margin: positive, in the unit of the differences.

    Returns:
        The larger p of the two paired t-tests; 0 or 1 where all differences are the same.

    Raises:
        SpecError: fewer than two pairs, or a margin that is not positive.

    Source: Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987).
    """
    if not margin > 0:
        raise SpecError(f"equivalence margin {margin} given; it must be positive, in the unit of the metric")
    above = paired_t(differences + margin, "greater").p
    below = paired_t(differences - margin, "less").p
    # NaN: every difference equals the margin, which is not inside it.
    return 1.0 if math.isnan(above) or math.isnan(below) else max(above, below)


def wilcoxon(differences: Floats, alternative: Alternative = "greater") -> float:
    """p of Wilcoxon's signed-rank test, exact also with ties.

    Zero differences are dropped (Wilcoxon's own rule) and ties share their mean rank; the distribution is that of
    the ranks at hand over all signs, up to 200 pairs, beyond that its normal limit with continuity correction.

    Args:
        differences: [pairs], treatment − control.
        alternative: direction of the shift that is looked for.

    Returns:
        p; 1 where all differences are zero.

    Raises:
        SpecError: fewer than two pairs.

    Source: Wilcoxon, Biometrics Bulletin 1 (1945); Pratt and Gibbons, Concepts of Nonparametric Theory (1981).
    """
    d = checked(differences)
    d = d[d != 0]
    if alternative == "less":
        d = -d
    ranks = _doubled_midranks(np.abs(d))
    observed = int(ranks[d > 0].sum())
    upper = _upper_tail(ranks, observed)
    if alternative != "two-sided":
        return upper
    lower = _upper_tail(ranks, int(ranks.sum()) - observed)  # the distribution is symmetric
    return min(1.0, 2 * min(upper, lower))


def _doubled_midranks(magnitudes: Floats) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    _, inverse, counts = np.unique(magnitudes, return_inverse=True, return_counts=True)
    return (2 * np.cumsum(counts) - counts + 1)[inverse]  # whole numbers, so sums of them can index


def _upper_tail(ranks: np.ndarray[tuple[int], np.dtype[np.int64]], observed: int) -> float:
    """P(sum of the ranks that get a plus >= observed), each sign with probability 1/2."""
    if len(ranks) > WILCOXON_EXACT_PAIRS:
        mean, sd = ranks.sum() / 2, math.sqrt(float((ranks.astype(np.float64) ** 2).sum())) / 2
        return special.normal_cdf(-(observed - mean - 1) / sd)  # doubled ranks: half a step is 1
    chance = np.zeros(int(ranks.sum()) + 1)
    chance[0] = 1.0
    for r in ranks:
        chance[r:] += chance[:-r].copy()
        chance /= 2
    return float(min(1.0, chance[observed:].sum()))
