"""What a stopping rule costs and finds before the first seed is run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normlab.study.stats.result import Floats
from normlab.study.stats.stopping.decide import follow
from normlab.study.stats.stopping.design import Design
from normlab.study.stats.stopping.paths import SEED

EFFECTS = (0.0, 0.7, 1.0, 1.5, 2.0, 3.0)
STUDIES = 400


@dataclass(frozen=True)
class Expected:
    """Means over simulated studies in which all arms gain equally.

    Attributes:
        effect: gain in SDs of a paired difference.
        found: share of arms found better.
        seeds: of an arm.
        baseline: seeds of the baseline, which runs as long as any arm.
    """

    effect: float
    found: float
    seeds: float
    baseline: float


def expected(
    design: Design, arms: int, *, effects: tuple[float, ...] = EFFECTS, studies: int = STUDIES
) -> tuple[Expected, ...]:
    """Expected seeds and power by a fixed seed, for normal scores that all arms share one baseline for.

    Args:
        arms: compared with the baseline.
        effects: one row each.
        studies: simulated for each effect.
    """
    rng = np.random.default_rng([SEED, arms, *design.looks])
    draws = rng.standard_normal((studies, arms + 1, design.looks[-1])) / np.sqrt(2)
    gains = draws[:, 1:] - draws[:, :1]  # SD 1, correlated by the baseline
    return tuple(_row(design, effect, t_paths(gains + effect, design.looks)) for effect in effects)


def t_paths(gains: Floats, looks: tuple[int, ...]) -> Floats:
    """[..., looks] t of the first so many of the gains [..., pairs]."""
    parts = [gains[..., :n] for n in looks]
    return np.stack([p.mean(-1) * np.sqrt(p.shape[-1]) / p.std(-1, ddof=1) for p in parts], axis=-1)


def _row(design: Design, effect: float, t: Floats) -> Expected:
    courses = [follow(study, design) for study in t]
    seeds = np.array([[design.looks[c.looks - 1] for c in study] for study in courses])
    found = np.mean([[c.outcome == "better" for c in study] for study in courses])
    return Expected(effect, float(found), float(seeds.mean()), float(seeds.max(axis=1).mean()))
