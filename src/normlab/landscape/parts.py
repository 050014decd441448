"""What `landscape` can measure, by name, and how much of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from normlab.errors import SpecError, UnknownName, came, require
from normlab.probes.whole.calls import as_number
from normlab.probes.whole.landscape import SHARES

PARTS = {
    "curves": "loss variation, gradient predictiveness and effective β-smoothness along training",
    "ics": "internal covariate shift by layer",
    "lipschitz": "what each norm does to the length of the gradient that goes back through it",
    "slice": "the loss on a line around the weights",
    "surface": "the loss on a square around the weights",
    "sharpness": "the loss a little way up its gradient, in SAM's direction",
    "ablation": "accuracy without some of a layer's channels",
}
SLICE_POINTS, SURFACE_POINTS = 21, 11  # in each dimension
RHOS = (0.01, 0.02, 0.05, 0.1, 0.2)
SCOPES = ("all", "norm")
LAYERS, ORDERS, ABLATION_POINTS, CHANNELS = 3, 5, 11, 32  # of ablation: layers, orders, points of a curve, at most
FEW = 3  # points of training at which whole layers are measured


@dataclass(frozen=True)
class Settings:
    """How much is measured, of each network alike.

    Args:
        parts: names of `PARTS`. steps: of training; 0 measures the weights as they are.
        points: at how many of the steps the curves are measured.
        trained: the weights are those of a checkpoint.
    """

    parts: tuple[str, ...]
    steps: int
    points: int
    lr: float
    seed: int
    trained: bool

    @property
    def at(self) -> tuple[int, ...]:
        """Steps before which the curves are measured, evenly spaced; after the last step, too."""
        if self.steps == 0 or self.points == 1:
            return (self.steps,)
        number = min(self.points, self.steps + 1)
        return tuple(sorted({round(k * self.steps / (number - 1)) for k in range(number)}))

    @property
    def few(self) -> tuple[int, ...]:
        """The first of them, the middle one and the last."""
        return tuple(sorted({self.at[0], self.at[len(self.at) // 2], self.at[-1]}))

    @property
    def step_sizes(self) -> tuple[float, ...]:
        """Half to four times the learning rate."""
        return tuple(self.lr * share for share in SHARES)

    @property
    def as_they_are(self) -> bool:
        """Running statistics are part of what is looked at; otherwise they lag behind, or are those of no data."""
        return self.steps == 0 and self.trained


def choose(only: str | Iterable[str] | None) -> tuple[str, ...]:
    """The parts that are asked for, in order; a text may list several, with commas.

    Raises:
        UnknownName: a part that is none.
        SpecError: none is left.
    """
    if only is None:
        return tuple(PARTS)
    require(only, Iterable, "only names parts, in a text with commas or a list")
    asked = [str(name).strip() for name in (only.split(",") if isinstance(only, str) else only)]
    for name in filter(None, asked):
        if name not in PARTS:
            raise UnknownName("part of a landscape", name, PARTS)
    if not any(asked):
        raise SpecError(f"only={only!r} names no part: {', '.join(PARTS)}")
    return tuple(name for name in PARTS if name in asked)


def check(steps: object, points: object, lr: object) -> None:
    """Raise SpecError for numbers that make no training."""
    if not (isinstance(steps, int) and isinstance(points, int) and steps >= 0 and points >= 1):
        raise SpecError(
            f"steps={came(steps)} and points={came(points)} should be whole numbers, 0 or more, and 1 or more"
        )
    if not 0 < as_number(lr) < float("inf"):
        raise SpecError(f"lr={came(lr)} should be a number above 0, the learning rate of plain gradient descent")


def check_seed(seed: object) -> None:
    """Raise SpecError for what torch takes as no seed."""
    if not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
        raise SpecError(f"seed={came(seed)} should be a whole number, of 64 bits at most")
