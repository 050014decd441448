"""What `landscape` has found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normlab.landscape.parts import Settings
from normlab.probes import AblationCurve, ChannelReliance, CovariateShift, Landscape, LipschitzRatio, LossSlice
from normlab.probes import Sharpness as Sharp

QUANTITIES: dict[str, Callable[[Landscape], float]] = {
    "loss variation": lambda at: at.loss_variation[1] - at.loss_variation[0],
    "gradient predictiveness": lambda at: at.predictiveness[1],
    "effective β-smoothness": lambda at: at.effective_beta,
    "Lipschitz constant": lambda at: at.lipschitz,
}
Floats = NDArray[np.float64]
ALIKE = 1.1  # factors nearer to 1 are no difference


@dataclass(frozen=True)
class Track:
    """One network, trained and measured.

    Args:
        name: what normalizes it. losses: of training, before each step and after the last. accuracy: on the data it
            was trained on, in %.
        diverged: the step at which the loss was no number any more; nothing is measured from there on.
        curves, ics, lipschitz: by step.
        slice, surface: around the last weights. sharpness: by scope, for growing ρ.
        ablation, reliance: a few norms, first to last.
    """

    name: str
    losses: tuple[float, ...]
    accuracy: float | None
    diverged: int | None
    curves: dict[int, Landscape]
    ics: dict[int, CovariateShift]
    lipschitz: dict[int, tuple[LipschitzRatio, ...]]
    slice: LossSlice | None
    surface: LossSlice | None
    sharpness: dict[str, tuple[Sharp, ...]]
    ablation: tuple[AblationCurve, ...]
    reliance: tuple[ChannelReliance, ...]


@dataclass(frozen=True)
class Factor:
    """How many times larger a quantity is in the other network, at the steps where both were measured.

    Args:
        given, other: medians over these steps. median: of the factors. less: steps at which the given network has less.
    """

    given: float
    other: float
    median: float
    less: int
    steps: int


@dataclass(frozen=True, repr=False)
class LandscapeReport:
    """What `landscape` returns: print it, `.write(directory)`, `.as_json()`.

    Args:
        subject: the model, data: the batches, in words.
        given: the network as it was given. other: what it is compared with, if anything.
        notes: what was not measured, and why.
        seconds: that all took.
    """

    subject: str
    data: str
    settings: Settings
    given: Track
    other: Track | None
    notes: tuple[str, ...]
    seconds: float

    def factors(self) -> dict[str, Factor]:
        """Of the curves, by name, step by step as in the source; none where nothing is compared."""
        if self.other is None:
            return {}
        steps = [step for step in self.given.curves if step in self.other.curves]
        pairs = [(self.given.curves[step], self.other.curves[step]) for step in steps]
        return {
            name: _factor([value(a) for a, _ in pairs], [value(b) for _, b in pairs])
            for name, value in QUANTITIES.items()
            if pairs
        }

    def factors_at_equal_loss(self) -> dict[str, Factor]:
        """The same where both networks have the same loss, interpolated: one that learns faster is flatter soon.

        Points of the given network whose loss the other never had are left out; none may be left.
        """
        if self.other is None:
            return {}
        theirs = sorted((at.loss, at) for at in self.other.curves.values() if at.loss > 0 and math.isfinite(at.loss))
        known = [loss for loss, _ in theirs]
        mine = [at for at in self.given.curves.values() if known and known[0] <= at.loss <= known[-1]]
        where = np.log([at.loss for at in mine])
        return {
            name: _factor([value(at) for at in mine], _interpolated(where, known, [value(at) for _, at in theirs]))
            for name, value in QUANTITIES.items()
            if mine
        }

    def as_json(self) -> dict[str, Any]:
        """Plain data; what is no finite number is None."""
        from normlab.landscape.plain import plain

        return plain(self)

    def write(self, directory: str | Path) -> list[Path]:
        """Write landscape.json and the figures as SVG; the paths.

        Raises:
            DataError: the directory cannot be written.
        """
        from normlab.landscape.files import write_all

        return write_all(self, Path(directory))

    def __str__(self) -> str:
        from normlab.landscape.text import lines

        return "\n".join(line for line, _ in lines(self, 100))

    __repr__ = __str__


def _interpolated(where: Floats, losses: list[float], values: list[float]) -> list[float]:
    """The values at other logarithms of the loss, between their own logarithms."""
    logs = np.log(np.maximum(np.nan_to_num(np.array(values), nan=np.inf, posinf=1e300), 1e-300))
    return np.exp(np.interp(where, np.log(losses), logs)).tolist()


def _factor(given: list[float], other: list[float]) -> Factor:
    """A walk that left the numbers changed without bound; where both did, nothing is known."""
    a, b = (np.nan_to_num(np.array(values, dtype=np.float64), nan=np.inf, posinf=np.inf) for values in (given, other))
    known = np.isfinite(a) | np.isfinite(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(a == b, 1.0, b / a)[known]
    middle = float(np.median(ratios)) if len(ratios) else math.nan
    return Factor(float(np.median(a)), float(np.median(b)), middle, int((a < b).sum()), len(a))
