"""Futility: how likely a comparison still is to be decided."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from normlab.study.stats.result import Floats
from normlab.study.stats.stopping.design import Design
from normlab.study.stats.stopping.paths import SEED

FUTURES = 5_000
_T = np.linspace(-6.0, 12.0, 55)


def chance(design: Design, look: int, t: float, level: float) -> float:
    """Chance that a later look decides a comparison of which `t` is known at `look`.

    The conditional power of the looks to come, averaged over the means and SDs that the pairs so far leave open
    (posterior under the prior 1/σ): five pairs say little about the effect, and taking their mean for the truth would
    give good arms up. "greater" counts being found better, "two-sided" worse too.

    Args:
        look: index of the look.
        t: of the pairs so far.
        level: of this one comparison.

    Source: Spiegelhalter, Freedman and Blackburn, Controlled Clin. Trials 7 (1986).
    """
    return float(np.interp(t, _T, _curve(design, look, level)))


@lru_cache(maxsize=512)
def _curve(design: Design, look: int, level: float) -> Floats:
    """The chance at each of `_T`, by one set of futures."""
    bounds, rng = design.bounds(level), np.random.default_rng([SEED, look, *design.looks])
    before, later = design.looks[look], range(look + 1, len(design.looks))
    sd = np.sqrt((before - 1) / rng.chisquare(before - 1, FUTURES))  # the pairs so far have SD 1
    shift = sd * rng.standard_normal(FUTURES) / np.sqrt(before)
    sizes = [design.looks[k] - design.looks[k - 1] for k in later]
    blocks = [shift + sd * rng.standard_normal(FUTURES) / np.sqrt(new) for new in sizes]
    inside = [sd**2 * (rng.chisquare(new - 1, FUTURES) if new > 1 else 0.0) for new in sizes]
    found: list[float] = []
    for mean_before in _T / np.sqrt(before):
        mean, squares, n = np.full(FUTURES, mean_before), np.full(FUTURES, before - 1.0), before
        decided = np.zeros(FUTURES, dtype=bool)
        for k, new, block, within in zip(later, sizes, blocks, inside, strict=True):
            step = block + mean_before - mean
            squares = squares + within + step**2 * (n * new / (n + new))
            mean = mean + step * (new / (n + new))
            n += new
            then = mean * np.sqrt(n * (n - 1) / squares)
            decided |= (then if design.alternative == "greater" else np.abs(then)) >= bounds[k]
        found.append(float(decided.mean()))
    return np.array(found)
