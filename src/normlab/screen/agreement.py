"""How well the ranking has agreed with trained accuracy: Kendall's τ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normlab.errors import SpecError

RESAMPLES = 2000


@dataclass(frozen=True)
class Tau:
    """Kendall's τ-b between scores and mean accuracies, with a bootstrap interval.

    Args:
        low, high: 95 %, percentiles of resampled normalizers and seeds.
    """

    tau: float
    low: float
    high: float
    normalizers: int
    seeds: int

    def __str__(self) -> str:
        return f"tau = {self.tau:.2f}, 95 % [{self.low:.2f}, {self.high:.2f}]".replace("-", "−")


@dataclass(frozen=True)
class Panel:
    """One setting of the study: what was trained, in words, and whether the score was chosen there."""

    name: str
    setting: str
    develop: bool
    tau: Tau


@dataclass(frozen=True)
class Agreement:
    """All panels of the committed study."""

    panels: tuple[Panel, ...]

    def as_json(self) -> list[dict[str, Any]]:
        """Plain data."""
        return [asdict(panel) for panel in self.panels]


def shipped() -> Agreement:
    """The result of studies/screen.toml, which comes with the package."""
    found = json.loads((files("normlab.screen") / "agreement.json").read_text(encoding="utf-8"))
    return Agreement(
        tuple(Panel(one["name"], one["setting"], one["develop"], Tau(**one["tau"])) for one in found["panels"])
    )


def kendall(scores: Mapping[str, float], accuracies: Mapping[str, Mapping[int, float]]) -> Tau:
    """Kendall's τ-b between a score and the mean accuracy over seeds.

    The interval resamples normalizers and, within each resample, seeds, both with replacement; copies of a normalizer
    that are drawn twice are tied with each other in both, which τ-b leaves out.

    Args:
        scores: by normalizer, higher is better.
        accuracies: by normalizer and seed.

    Raises:
        SpecError: other normalizers in one than in the other, fewer than three, seeds that differ between them.
    """
    names = sorted(scores)
    if sorted(accuracies) != names or len(names) < 3:
        raise SpecError(
            f"scores of {len(names)} normalizers and accuracies of {len(accuracies)}: the same three or more"
        )
    seeds = sorted(accuracies[names[0]])
    if any(sorted(accuracies[name]) != seeds for name in names):
        raise SpecError("the normalizers were trained with different seeds")
    x = np.array([scores[name] for name in names])
    y = np.array([[accuracies[name][seed] for seed in seeds] for name in names])
    rng = np.random.default_rng(0)
    found: list[float] = []
    while len(found) < RESAMPLES:
        rows, columns = rng.integers(len(names), size=len(names)), rng.integers(len(seeds), size=len(seeds))
        value = _tau(x[rows], y[rows][:, columns].mean(1))
        if np.isfinite(value):
            found.append(value)
    low, high = np.quantile(found, [0.025, 0.975])
    return Tau(_tau(x, y.mean(1)), float(low), float(high), len(names), len(seeds))


def _tau(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    from scipy.stats import kendalltau

    found: Any = kendalltau(x, y)
    return float(found.statistic)
