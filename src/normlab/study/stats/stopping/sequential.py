"""Group-sequential bounds for the paired t statistic, by simulation.

Bounds from books are for z: with five pairs t has four degrees of freedom and crosses them far too often. The path of
t over the looks does not depend on the unknown SD, so it can be simulated once for all data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from normlab.study.stats import special
from normlab.study.stats.result import Floats
from normlab.study.stats.stopping.paths import null_paths
from normlab.study.stats.stopping.spending import SPENDING, SpendingRule

_Z = np.linspace(-1.0, 7.0, 81)  # normal quantiles of the levels that bounds are computed at, 0.84 to 1.3e-12


@dataclass(frozen=True)
class GroupSequential:
    """Looks after fixed numbers of pairs; the level is spent over them by a spending function.

    Attributes:
        spending: which.
        looks: numbers of pairs, increasing; the last one is all.

    Source: Lan and DeMets, Biometrika 70 (1983); Jennison and Turnbull, Group Sequential Methods (2000), ch. 11 for t.
    """

    spending: SpendingRule
    looks: tuple[int, ...]

    def bounds(self, level: float) -> Floats:
        """[looks] t from which on a one-sided test at `level` rejects."""
        z = -special.normal_quantile(level)
        tails = [special.normal_cdf(-float(np.interp(z, _Z, row))) for row in _table(self)]
        return np.array([special.t_bound(n - 1, tail) for n, tail in zip(self.looks, tails, strict=True)])

    def p(self, look: int, t: Floats) -> Floats:
        """One-sided p of t at a look: the smallest level whose bound it reaches.

        1 where the level would be above 0.84, never below 1.3e-12.
        """
        reached = np.interp(special.t_to_z(self.looks[look] - 1, t), _table(self)[look], _Z, left=-np.inf)
        return special.normal_tail(reached)


@lru_cache(maxsize=8)
def _table(rule: GroupSequential) -> Floats:
    """[looks, levels] normal quantile of the tail of t beyond the bound, at each level of `_Z`, rising along it."""
    null = null_paths(rule.looks)
    reached = [special.t_tail(n - 1, null.t(k)) for k, n in enumerate(rule.looks)]
    tails = [_tails(rule, special.normal_cdf(-float(z)), reached) for z in _Z]
    return np.maximum.accumulate(special.quantile_of_tail(np.array(tails).T), axis=1)


def _tails(rule: GroupSequential, level: float, reached: list[Floats]) -> list[float]:
    """Per look the tail of Student's t beyond the bound; `reached` holds that beyond each simulated t, per look.

    It is what the look may spend, which is exact, and what lies beyond the bound but crossed an earlier one, which is
    simulated: a small share of a small number, so that few paths give an exact bound.
    """
    crossed = np.zeros(len(reached[0]), dtype=bool)
    tails: list[float] = []
    spent = 0.0
    for k, n in enumerate(rule.looks):
        due = SPENDING[rule.spending](level, n / rule.looks[-1])
        tail = due - spent + _crossed_beyond(reached[k][crossed & (reached[k] < due)], due - spent, len(crossed))
        crossed |= reached[k] <= tail
        tails.append(tail)
        spent = due
    return tails


def _crossed_beyond(tails: Floats, due: float, paths: int) -> float:
    """The share of all paths that crossed earlier and lie beyond the bound that leaves `due` to the others."""
    above = np.sort(tails) > due + np.arange(len(tails)) / paths
    return float(np.argmax(above) if above.any() else len(tails)) / paths
