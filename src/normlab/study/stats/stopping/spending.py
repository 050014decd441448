"""How much of a level may be spent by a share of the seeds: error-spending functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from normlab.study.stats import special

Spending = Callable[[float, float], float]
SpendingRule = Literal["obrien_fleming", "pocock"]


def obrien_fleming(level: float, share: float) -> float:
    """2 (1 − Φ(z / √τ)) with z the (1 − level/2) quantile: almost nothing early, nearly all of it at the end.

    Args:
        level: one-sided level of the whole test, in (0, 1).
        share: τ, the share of the seeds that are in, in (0, 1].

    Source: Lan and DeMets, Biometrika 70 (1983), α1*.
    """
    return 2 * special.normal_cdf(special.normal_quantile(level / 2) / math.sqrt(share))


def pocock(level: float, share: float) -> float:
    """level · ln(1 + (e − 1) τ): about equally much at every look; arguments as for `obrien_fleming`.

    Source: Lan and DeMets, Biometrika 70 (1983), α2*.
    """
    return level * math.log(1 + (math.e - 1) * share)


SPENDING: dict[SpendingRule, Spending] = {"obrien_fleming": obrien_fleming, "pocock": pocock}
