"""The values of one quantity at one layer in one step, from one pass or several."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from normlab.probes.base import Values


class Tally:
    """Adds up as passes come, so that nothing but numbers is kept.

    Args:
        squares: √Σ value²; else the mean, weighted by the number of examples.
    """

    def __init__(self, squares: bool) -> None:
        self.squares = squares
        self.sums: dict[str, Tensor] = {}
        self.weight = 0
        self.open: dict[str, Tensor] | None = None
        self.open_weight = 0

    def add(self, values: Values, examples: int, *, final: bool = True) -> None:
        """Count a pass.

        Args:
            final: False: `replace` may come.
        """
        self.settle()
        self.open, self.open_weight = _named(values), examples
        if final:
            self.settle()

    def replace(self, values: Values, examples: int) -> None:
        """Count a pass in place of the last one, if that was not final."""
        self.open, self.open_weight = _named(values), examples
        self.settle()

    def settle(self) -> None:
        """Make the last pass final."""
        for name, value in (self.open or {}).items():
            term = value.square() if self.squares else value * self.open_weight
            self.sums[name] = self.sums[name] + term if name in self.sums else term
        self.weight += self.open_weight
        self.open, self.open_weight = None, 0

    def join(self, other: Tally) -> None:
        """Count the passes of a later part of the step as well."""
        self.settle()
        other.settle()
        for name, term in other.sums.items():
            self.sums[name] = self.sums[name] + term if name in self.sums else term
        self.weight += other.weight

    def results(self) -> dict[str, Tensor]:
        """The values of the step by part, "" where there are no parts; empty if there was no pass."""
        self.settle()
        return {name: (s.sqrt() if self.squares else s / self.weight) for name, s in self.sums.items()}


def _named(values: Values) -> dict[str, Tensor]:
    return {"": values} if isinstance(values, Tensor) else dict(values)


def as_floats(values: Iterable[Tensor]) -> list[float]:
    """Numbers of tensors [], with one wait for each device and dtype."""
    values = list(values)
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, value in enumerate(values):
        groups.setdefault((value.device, value.dtype), []).append(place)
    found = [0.0] * len(values)
    for places in groups.values():
        for place, number in zip(places, torch.stack([values[p] for p in places]).tolist(), strict=True):
            found[place] = number
    return found
