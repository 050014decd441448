"""Intervals of the mean difference: Student's t and the studentised bootstrap."""

from __future__ import annotations

import math

import numpy as np

from normlab.study.stats import special
from normlab.study.stats.paired import spread
from normlab.study.stats.pairs import checked
from normlab.study.stats.result import Floats, Interval


def t_interval(differences: Floats, confidence: float = 0.95) -> Interval:
    """Two-sided paired-t interval of the mean difference, in the unit of the differences [pairs].

    Raises:
        SpecError: fewer than two pairs.
    """
    d = checked(differences)
    half = special.t_quantile(len(d) - 1, (1 + confidence) / 2) * spread(d) / math.sqrt(len(d))
    return float(d.mean()) - half, float(d.mean()) + half


def bootstrap_t_interval(
    differences: Floats, confidence: float = 0.95, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Two-sided studentised bootstrap interval of the mean difference.

    A resample without spread (one pair drawn n times) is counted as infinitely far out, so that few pairs widen the
    interval instead of being dropped from it; two or three pairs leave it infinite.

    Args:
        differences: [pairs], treatment − control.
        confidence: of the two-sided interval.
        resamples: how many; their (resamples + 1)(1 ± confidence) / 2-th t values are the ends.
        seed: of the resampling.

    Raises:
        SpecError: fewer than two pairs.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), sec. 12.5.
    """
    d = checked(differences)
    n, mean, sd = len(d), float(d.mean()), spread(d)
    if sd == 0:
        return mean, mean
    centred = (d - mean) / sd
    drawn = centred[np.random.default_rng(seed).integers(0, n, size=(resamples, n))]  # [resamples, n]
    means = drawn.mean(axis=1)
    sds = np.sqrt(np.maximum((drawn**2).mean(axis=1) - means**2, 0) * n / (n - 1))
    flat = sds < 1e-7  # of the SD of the sample: rounding, not spread
    t = np.where(flat, np.copysign(math.inf, means), means / np.where(flat, 1, sds) * math.sqrt(n))
    t.sort()
    beyond = max(1, math.floor((resamples + 1) * (1 - confidence) / 2))
    error = sd / math.sqrt(n)
    return mean - float(t[resamples - beyond]) * error, mean - float(t[beyond - 1]) * error
