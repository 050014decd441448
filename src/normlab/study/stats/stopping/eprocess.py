"""The right-Haar e-process of the paired t-test: evidence that may be looked at whenever one likes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from normlab.study.stats import special
from normlab.study.stats.result import Floats

PRIOR = 1.0  # variance of the effect, in SDs of a difference, under the alternative
_LARGEST_T = 1e12


@dataclass(frozen=True)
class EProcess:
    """A look at every number of pairs in `looks`; more may come without a plan, and nothing has to be paid for them.

    Rejecting where e ≥ 1 / level has at most that chance under a mean difference of zero or below, whenever one stops,
    so 1 / max e is a p-value that is always valid.

    Attributes:
        looks: numbers of pairs, increasing, from 2 on.
    """

    looks: tuple[int, ...]

    def bounds(self, level: float) -> Floats:
        """[looks] t from which on e ≥ 1 / level; infinite where no t is enough."""
        return np.array([_bound(n, math.log(1 / level)) for n in self.looks])

    def p(self, look: int, t: Floats) -> Floats:
        """1 / e at a look, at most 1."""
        return np.exp(-np.maximum(log_e_value(self.looks[look], t), 0.0))


def log_e_value(pairs: int, t: Floats, prior: float = PRIOR) -> Floats:
    """Logarithm of the Bayes factor of effects above zero against no effect.

        e = ∫ 2 N(δ; 0, g) f(t | δ√n) / f(t | 0) dδ over δ > 0
          = 2 (1 + ng)^(−1/2) (1 − r w²)^(−n/2) F_n(w √(n r / (1 − r w²))),   r = ng / (1 + ng),  w² = t² / (n − 1 + t²)

    with f the noncentral t density with n − 1 degrees of freedom, w of the sign of t, and F_n the distribution
    function of Student's t with n degrees of freedom. The SD has the
    right-Haar prior 1/σ under both hypotheses, for which the ratio is that of the densities of t alone; as the number
    of pairs grows it is a martingale under no effect. The second line is the integral, done: the mean over the
    effect first, which leaves a χ_n mean of Φ.

    Args:
        pairs: n, 2 or more.
        t: paired t statistics; ±∞ where the differences have no spread.
        prior: g.

    Source: Rouder et al., Psychon. Bull. Rev. 16 (2009) for the two-sided factor; Hendriksen, de Heide and Grünwald,
    Bayesian Analysis 16 (2021), and Pérez-Ortiz et al., Ann. Statist. 52 (2024), for stopping at will.
    """
    t = np.clip(t, -_LARGEST_T, _LARGEST_T)
    spread = 1 + pairs * prior
    rest = (pairs - 1 + t * t / spread) / (pairs - 1 + t * t)  # 1 − r w²
    shift = np.copysign(np.sqrt(pairs * pairs * prior * t * t / (spread * (pairs - 1 + t * t) * rest)), t)
    return math.log(2) - 0.5 * math.log(spread) - 0.5 * pairs * np.log(rest) + special.log_t_cdf(pairs, shift)


def _bound(pairs: int, log_e: float) -> float:
    """The smallest t with this much evidence; e rises with t."""

    def excess(log_t: float) -> float:
        return float(log_e_value(pairs, np.array(math.exp(log_t)))) - log_e

    top = math.log(_LARGEST_T)
    return math.exp(special.rising_root(excess, -7.0, top)) if excess(top) > 0 else math.inf
