"""Distribution functions, typed; `scipy.stats` has them too but takes longer to import than a comparison to compute."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from normlab.study.stats.result import Floats

LARGEST_NONCENTRALITY = 2e4


def normal_cdf(x: float) -> float:
    """P(Z <= x)."""
    return float(special.ndtr(x))


def normal_quantile(p: float) -> float:
    """The x with P(Z <= x) = p."""
    return float(special.ndtri(p))


def t_cdf(df: float, t: float) -> float:
    """P(T <= t) of Student's t."""
    return float(special.stdtr(df, t))


def t_quantile(df: float, p: float) -> float:
    """The t with P(T <= t) = p."""
    return float(special.stdtrit(df, p))


def t_bound(df: float, tail: float) -> float:
    """The t with P(T > t) = tail, however small that is."""
    return float(-special.stdtrit(df, tail))


def t_tail(df: float, t: Floats) -> Floats:
    """P(T > t) of each."""
    return np.asarray(special.stdtr(df, -t), dtype=np.float64)


def log_t_cdf(df: float, t: Floats) -> Floats:
    """log P(T <= t) of each."""
    return np.log(special.stdtr(df, t))


def t_to_z(df: float, t: Floats) -> Floats:
    """The normal quantile with the same upper tail as each t; keeps its precision far out."""
    lower = special.stdtr(df, -np.abs(t))
    return np.copysign(-special.ndtri(lower), t)


def normal_tail(z: Floats) -> Floats:
    """P(Z > z) of each."""
    return np.asarray(special.ndtr(-np.asarray(z)), dtype=np.float64)


def quantile_of_tail(tail: Floats) -> Floats:
    """The z with P(Z > z) = tail, of each."""
    return np.asarray(-special.ndtri(tail), dtype=np.float64)


def noncentral_t_cdf(df: float, noncentrality: float, t: float) -> float:
    """P(T <= t) of the noncentral t, to 1e-6 for noncentralities up to `LARGEST_NONCENTRALITY`."""
    p = float(special.nctdtr(df, noncentrality, t))
    # SciPy gives NaN where the smaller tail is below its precision.
    return p if not math.isnan(p) else float(t > noncentrality)


def beta_quantile(a: float, b: float, p: float) -> float:
    """The x with P(B <= x) = p of the beta distribution."""
    return float(special.betaincinv(a, b, p))


def log_gamma(x: float) -> float:
    """Logarithm of the gamma function."""
    return float(special.gammaln(x))


def rising_root(f: Callable[[float], float], low: float, high: float) -> float:
    """Root of an increasing function between `low` and `high`, to 1e-12 of their distance, by bisection.

    Slower than `scipy.optimize.brentq`, whose import takes longer than all the roots of a table.
    """
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if f(middle) < 0 else (low, middle)
    return 0.5 * (low + high)
