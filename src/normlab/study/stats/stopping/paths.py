"""Simulated paths of the paired t statistic over the looks of a study."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from normlab.study.stats.result import Floats

PATHS = 400_000  # a level of 0.05 is met to ± 0.0004
SEED = 20211


@dataclass(frozen=True)
class Paths:
    """Normal differences with SD 1 and mean 0, summed up at each look: enough for t at any true mean.

    Attributes:
        looks: [looks] numbers of pairs.
        means: [looks, paths] mean of the differences so far.
        sds: [looks, paths] their SD (n − 1).
    """

    looks: tuple[int, ...]
    means: Floats
    sds: Floats

    def t(self, look: int) -> Floats:
        """[paths] t at a look."""
        return self.means[look] * np.sqrt(self.looks[look]) / self.sds[look]


@lru_cache(maxsize=4)
def null_paths(looks: tuple[int, ...], paths: int = PATHS) -> Paths:
    """Paths by a fixed seed: the same bounds every time and everywhere.

    Only sums between looks are drawn, a normal and a χ², so the number of pairs costs nothing.
    """
    rng = np.random.default_rng([SEED, *looks])
    mean, squares, before = np.zeros(paths), np.zeros(paths), 0
    means, sds = np.empty((len(looks), paths)), np.empty((len(looks), paths))
    for k, n in enumerate(looks):
        new = n - before
        block = rng.standard_normal(paths) / np.sqrt(new)  # mean of the new pairs
        inside = rng.chisquare(new - 1, paths) if new > 1 else 0.0
        squares += inside + (block - mean) ** 2 * (before * new / n)  # about the mean: Chan's update
        mean = mean + (block - mean) * (new / n)
        means[k], sds[k], before = mean, np.sqrt(squares / (n - 1)), n
    return Paths(looks, means, sds)
