"""A stopping rule with everything that has to be fixed before the first look."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from normlab.study.stats.result import Floats
from normlab.study.stats.stopping.eprocess import EProcess
from normlab.study.stats.stopping.sequential import GroupSequential

Rule = Literal["obrien_fleming", "pocock", "anytime"]


@dataclass(frozen=True)
class Design:
    """When one looks, and what then stops a comparison.

    Attributes:
        rule: how the level is spread over the looks.
        looks: numbers of pairs at which one looks, increasing, from 2 on.
        alpha: family-wise level, one-sided unless `alternative` says otherwise.
        alternative: "greater" has the level for better and for worse each, "two-sided" for both together.
        futility: a comparison whose chance to be decided falls below this is given up; 0 = never.
    """

    rule: Rule
    looks: tuple[int, ...]
    alpha: float = 0.05
    alternative: Literal["greater", "two-sided"] = "greater"
    futility: float = 0.0

    @property
    def test(self) -> GroupSequential | EProcess:
        """The one-sided test of one comparison."""
        return EProcess(self.looks) if self.rule == "anytime" else GroupSequential(self.rule, self.looks)

    def bounds(self, level: float) -> Floats:
        """[looks] size of t from which on one comparison at `level` is decided; read-only."""
        return _bounds(self.test, level if self.alternative == "greater" else level / 2)


@lru_cache(maxsize=256)
def _bounds(test: GroupSequential | EProcess, level: float) -> Floats:
    bounds = test.bounds(level)
    bounds.setflags(write=False)
    return bounds
