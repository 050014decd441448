"""How many seeds a question needs: power of the paired t-test by the noncentral t.

The exact sign-flip test has nearly the same power but cannot reach a level below 2^-n; `fewest_seeds` says where
that begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from normlab.errors import SpecError
from normlab.study.stats import special
from normlab.study.stats.result import Floats
from normlab.study.stats.signflip import EXACT_TEST_PAIRS

MOST_SEEDS = 100_000
_LARGEST_EFFECT = 1e3  # SDs of a difference
Sides = Literal["greater", "two-sided"]


def power(seeds: int, d_z: float, *, alpha: float = 0.05, alternative: Sides = "greater") -> float:
    """Chance that `seeds` pairs reject at level `alpha` where the true effect is `d_z` SDs of a paired difference.

    Raises:
        SpecError: fewer than two seeds, or alpha outside (0, 1).

    Source: Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), sec. 2.
    """
    _check(alpha=alpha)
    if seeds < 2:
        raise SpecError(f"power of {seeds} seed(s) asked; a paired test takes two or more")
    limit = special.LARGEST_NONCENTRALITY
    df, centre = seeds - 1, max(-limit, min(d_z * math.sqrt(seeds), limit))
    if alternative == "greater":
        return 1 - special.noncentral_t_cdf(df, centre, special.t_quantile(df, 1 - alpha))
    critical = special.t_quantile(df, 1 - alpha / 2)
    return 1 - special.noncentral_t_cdf(df, centre, critical) + special.noncentral_t_cdf(df, centre, -critical)


def signflip_power(seeds: int, d_z: float, *, alpha: float = 0.05, alternative: Sides = "greater") -> float:
    """Power of the exact sign-flip test for normal differences.

    Nothing below `fewest_seeds`. Where the level leaves room for one assignment only, all differences must have one
    sign, which has chance Φ(d_z)^n. With more seeds the t-test's power stands for it, which it nearly equals.

    Raises:
        SpecError: fewer than two seeds, or alpha outside (0, 1).
    """
    by_t = power(seeds, d_z, alpha=alpha, alternative=alternative)
    if seeds < fewest_seeds(alpha, alternative):
        return 0.0
    two_sided = alternative == "two-sided"
    if seeds <= EXACT_TEST_PAIRS and math.floor(alpha / (1 + two_sided) * 2**seeds + 1e-9) < 2:
        return special.normal_cdf(d_z) ** seeds + two_sided * special.normal_cdf(-d_z) ** seeds
    return by_t


def seeds_needed(
    d_z: float, *, target: float = 0.8, alpha: float = 0.05, alternative: Sides = "greater", exact: bool = True
) -> int | None:
    """Fewest seeds that detect `d_z` with power `target`; None where more than 100,000 would be needed.

    Args:
        d_z: mean of a paired difference in its own SDs.
        target: power wanted.
        alpha: level of the test.
        alternative: "greater" or "two-sided".
        exact: by the exact sign-flip test; False for the t-test.

    Raises:
        SpecError: alpha or target outside (0, 1).
    """
    _check(alpha=alpha, power=target)

    def enough(seeds: int) -> bool:
        found = signflip_power if exact else power
        return found(seeds, d_z, alpha=alpha, alternative=alternative) >= target

    if d_z == 0 or not enough(MOST_SEEDS):
        return None
    low, high = fewest_seeds(alpha, alternative) - 1 if exact else 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def detectable_effect(seeds: int, *, target: float = 0.8, alpha: float = 0.05, alternative: Sides = "greater") -> float:
    """Smallest d_z that `seeds` pairs detect with power `target`.

    Raises:
        SpecError: fewer than two seeds, alpha or target outside (0, 1), or a target not above alpha.
    """
    _check(alpha=alpha, power=target)
    if target <= alpha:
        raise SpecError(f"power {target} is not above alpha {alpha}; no effect at all reaches that, ask for more")
    high = 1.0
    while power(seeds, high, alpha=alpha, alternative=alternative) < target:
        high *= 2
        if high > _LARGEST_EFFECT:
            raise SpecError(
                f"{seeds} seeds find no effect below d_z {_LARGEST_EFFECT:g} at level {alpha:g}; take more seeds"
            )
    return special.rising_root(lambda d: power(seeds, d, alpha=alpha, alternative=alternative) - target, 0, high)


def power_curve(d_z: float, seeds: Sequence[int], *, alpha: float = 0.05, alternative: Sides = "greater") -> Floats:
    """Power [len(seeds)] of the exact sign-flip test at each number of seeds."""
    return np.array([signflip_power(n, d_z, alpha=alpha, alternative=alternative) for n in seeds])


def fewest_seeds(alpha: float, alternative: Sides = "greater") -> int:
    """Fewest seeds with which the exact sign-flip test can reach `alpha` at all."""
    _check(alpha=alpha)
    tail = alpha if alternative == "greater" else alpha / 2
    return max(2, math.ceil(-math.log2(tail) - 1e-9))


def sd_of_difference(sd: float, rho: float = 0.0) -> float:
    """SD of a paired difference of two arms that each have SD `sd` and correlate by `rho` over seeds.

    Raises:
        SpecError: sd not positive, or rho outside [-1, 1).
    """
    if not sd > 0:
        raise SpecError(f"sd {sd} given; it must be positive, in the unit of the metric")
    if not -1 <= rho < 1:
        raise SpecError(f"rho {rho} given; a correlation over seeds lies in [-1, 1)")
    return sd * math.sqrt(2 * (1 - rho))


def _check(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 < value < 1:
            raise SpecError(
                f"{name} {value} given; it must lie between 0 and 1, {0.8 if name == 'power' else 0.05} say"
            )
