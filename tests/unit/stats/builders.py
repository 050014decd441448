"""Scores to compare, made in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from normlab.study.stats import Scores


def scores(arms: dict[str, Any], **given: Any) -> Scores:
    """Scores from arm → one value per seed."""
    values = np.array(list(arms.values()), dtype=np.float64)
    seeds = tuple(f"s{k}" for k in range(values.shape[1]))
    return Scores(**{"metric": "test_accuracy", "arms": tuple(arms), "seeds": seeds, "values": values, **given})


def normal(shape: tuple[int, ...], seed: int = 0, **given: float) -> np.ndarray:
    """Seeded normal numbers."""
    return np.random.default_rng(seed).normal(given.get("mean", 0.0), given.get("sd", 1.0), size=shape)


ALTERNATIVES = ("greater", "less", "two-sided")
SAMPLES = {
    "two": [0.3, -0.1],
    "normal": normal((9,), mean=0.4).tolist(),
    "tied": [1.0, 1.0, -1.0, 2.0, 2.0, -3.0, 0.5],
    "with-zeros": [0.0, 0.3, -0.2, 0.0, 0.9, 0.9, 1.4],
    "all-positive": [0.1, 0.2, 0.3, 0.4, 0.5],
    "sum-zero": [1.0, -1.0, 2.0, -2.0],
    "far-scaled": (1e8 * normal((8,), seed=1)).tolist(),
}
each_sample = pytest.mark.parametrize("d", [np.array(s) for s in SAMPLES.values()], ids=list(SAMPLES))
each_alternative = pytest.mark.parametrize("alternative", ALTERNATIVES)


def within_binomial(count: int, n: int, share: float, sds: float = 4.0) -> bool:
    """Whether `count` of `n` is what a true share gives, up to `sds` standard errors."""
    return abs(count - n * share) <= sds * np.sqrt(n * share * (1 - share))
