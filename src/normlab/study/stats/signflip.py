"""The exact sign-flip (randomisation) test on the mean difference, and the interval that belongs to it.

If the two labels of a pair could as well be the other way round, each sign of each difference has chance 1/2. The
mean with the pairs F flipped is at least the observed one where Σ_F d <= 0, so both the test and the interval count
subsets of the differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from normlab.study.stats.paired import Alternative
from normlab.study.stats.pairs import checked
from normlab.study.stats.result import Floats, Interval

EXACT_TEST_PAIRS = 32  # 2^16 sums of either half
EXACT_INTERVAL_PAIRS = 16  # 2^16 subset means
RANDOM_SUBSETS = 19_999
_TIE = 1e-9  # of Σ|d|: sums this near to each other differ by rounding only
_BLOCK = 2_000_000  # numbers held at a time when subsets are drawn


@dataclass(frozen=True)
class SignFlip:
    """p of the test; `exact` over all 2^n assignments of signs, or over `assignments` drawn ones."""

    p: float
    exact: bool
    assignments: int


def signflip_test(differences: Floats, alternative: Alternative = "greater", *, seed: int = 0) -> SignFlip:
    """Sign-flip test of labels that are exchangeable within a pair, on the mean difference.

    All 2^n assignments count up to 32 pairs (the sums of two halves are sorted and matched). Beyond, 19,999 drawn
    ones do, with p = (b + 1) / (m + 1), which keeps the level. Two-sided p is twice the smaller one, at most 1.

    Args:
        differences: [pairs], treatment − control.
        alternative: direction of the mean difference that is looked for.
        seed: of the drawn assignments.

    Returns:
        p, never below 2^-n, and how it was found.

    Raises:
        SpecError: fewer than two pairs.

    Source: Fisher, The Design of Experiments (1935), sec. 21; for (b + 1) / (m + 1) Phipson and Smyth,
    arXiv:1603.05766.
    """
    d = checked(differences)
    if alternative == "two-sided":
        one = signflip_test(d if d.sum() >= 0 else -d, seed=seed)
        return replace(one, p=min(1.0, 2 * one.p))
    if alternative == "less":
        d = -d
    limit = _TIE * float(np.abs(d).sum())
    if len(d) <= EXACT_TEST_PAIRS:
        return SignFlip(_sums_up_to(d, limit) / 2 ** len(d), True, 2 ** len(d))
    as_extreme = sum(int((sums <= limit).sum()) for sums, _ in _drawn_subsets(d, seed))
    return SignFlip((as_extreme + 1) / (RANDOM_SUBSETS + 1), False, RANDOM_SUBSETS)


def signflip_interval(differences: Floats, confidence: float = 0.95, *, seed: int = 0) -> Interval:
    """All mean differences that the two-sided sign-flip test does not reject.

    Its ends are order statistics of the means of all 2^n - 1 subsets of the differences; beyond 16 pairs of the
    means of 19,999 drawn subsets, which covers with the same probability.

    Args:
        differences: [pairs], treatment − control, symmetric about their mean.
        confidence: of the two-sided interval.
        seed: of the drawn subsets.

    Returns:
        Both ends, in the unit of the differences; infinite where 2^-n > (1 - confidence) / 2, at 95 % below 6 pairs.

    Raises:
        SpecError: fewer than two pairs.

    Source: Hartigan, JASA 64 (1969), "Using subsample values as typical values".
    """
    d = checked(differences)
    means = _all_means(d) if len(d) <= EXACT_INTERVAL_PAIRS else _drawn_means(d, seed)
    beyond = math.floor((1 - confidence) / 2 * (len(means) + 1) + 1e-9)
    if beyond < 1:
        return -math.inf, math.inf
    ends = np.partition(means, [beyond - 1, len(means) - beyond])
    return float(ends[beyond - 1]), float(ends[len(means) - beyond])


def _subset_sums(values: Floats) -> Floats:
    """[2^n], subset k holds the values whose bit is set in k."""
    sums = np.zeros(2 ** len(values))
    for i, value in enumerate(values):
        sums[2**i : 2 ** (i + 1)] = sums[: 2**i] + value
    return sums


def _sums_up_to(d: Floats, limit: float) -> int:
    """How many of the 2^n subset sums are <= limit."""
    half = len(d) // 2
    first, second = np.sort(_subset_sums(d[:half])), np.sort(_subset_sums(d[half:]))
    return int(np.searchsorted(second, limit - first, side="right").sum())


@lru_cache(maxsize=4)
def _subset_sizes(n: int) -> Floats:
    return _subset_sums(np.ones(n))[1:]


def _all_means(d: Floats) -> Floats:
    return _subset_sums(d)[1:] / _subset_sizes(len(d))


def _drawn_means(d: Floats, seed: int) -> Floats:
    # An empty subset has no mean; its chance is 2^-n, n > 16, and one value takes its place.
    return np.concatenate(
        [np.where(size > 0, sums, d[0]) / np.maximum(size, 1) for sums, size in _drawn_subsets(d, seed)]
    )


def _drawn_subsets(d: Floats, seed: int) -> Iterator[tuple[Floats, Floats]]:
    """Sums and sizes of `RANDOM_SUBSETS` subsets drawn with equal chances, in blocks."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(d))
    for start in range(0, RANDOM_SUBSETS, block):
        rows = min(block, RANDOM_SUBSETS - start)
        packed = rng.integers(0, 256, size=(rows, (len(d) + 7) // 8), dtype=np.uint8)
        inside = np.unpackbits(packed, axis=1, count=len(d)).astype(np.float64)
        yield inside @ d, inside.sum(axis=1)
