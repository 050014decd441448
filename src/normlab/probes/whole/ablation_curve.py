"""Morcos' ablation curve: what a network loses with more and more channels of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, came, require
from normlab.probes.whole.clamp import Accuracy, Fill, clamped
from normlab.seeding import Streams


@dataclass(frozen=True)
class AblationCurve:
    """Accuracy when more and more channels of a layer are clamped.

    Args:
        place: the module whose output is clamped: the layer, or the activation that takes its output directly.
        ablated: numbers of clamped channels, from 0 to all.
        orders: [orders, C], in which order they were.
        accuracy: [orders, len(ablated)], float64, in the unit of the accuracy.

    Source: Morcos et al., arXiv:1803.06959, sec. 3.1.
    """

    place: str
    ablated: tuple[int, ...]
    orders: Tensor
    accuracy: Tensor

    @property
    def areas(self) -> Tensor:
        """Area under the curve over the share of clamped channels, by the trapezoidal rule, [orders]."""
        shares = torch.tensor(self.ablated, dtype=torch.float64) / self.ablated[-1]
        return torch.trapezoid(self.accuracy, shares)

    @property
    def area(self) -> float:
        """Their mean."""
        return float(self.areas.mean())


def ablation_curve(
    model: nn.Module,
    accuracy: Accuracy,
    layer: str,
    *,
    orders: int | Sequence[Sequence[int]] = 10,
    points: int | None = None,
    fill: Fill = "zero",
    seed: int = 0,
) -> AblationCurve:
    """Clamp the channels of a layer one after another, in several random orders, in eval mode.

    Args:
        accuracy: evaluates the model on data, normally training data: it is called points x orders times.
        layer: name of a module; a norm is clamped behind the activation module that takes its output directly.
        orders: how many, or the orders themselves.
        points: of each curve, at evenly spaced numbers of channels; None for all, C + 1.
        fill: clamp to "zero", or to the "mean" of the channel over the data of `accuracy`.
        seed: of the orders.

    Raises:
        UnknownName: no such layer.
        SpecError: `accuracy` is no function, or does not call the layer, whose output has to be a tensor with channels;
            orders, points or a fill that are none.
    """
    require(seed, int, "seed is an integer")
    if points is not None and not (isinstance(points, int) and points >= 2):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(f"points={came(points)} should be 2 or more, the intact network and the one without the layer")
    with clamped(model, layer, accuracy) as clamp:
        intact = clamp.begin(fill)
        c = clamp.channels
        numbers = range(c + 1) if points is None else sorted({round(k * c / (points - 1)) for k in range(points)})
        every = _orders(orders, c, layer, seed)
        rows = [[clamp.accuracy_without(order[:k]) if k else intact for k in numbers] for order in every]
    return AblationCurve(clamp.place, tuple(numbers), torch.tensor(every), torch.tensor(rows, dtype=torch.float64))


def _orders(orders: int | Sequence[Sequence[int]], c: int, layer: str, seed: int) -> list[list[int]]:
    if isinstance(orders, int):
        numbers = range(orders)
        found = [Streams(seed).numpy("probe", "ablation", layer, k).permutation(c).tolist() for k in numbers]
    else:
        try:
            found = [list(map(int, order)) for order in orders]
        except (TypeError, ValueError):
            found = []
    if not found or any(sorted(order) != list(range(c)) for order in found):
        raise SpecError(
            f"orders={came(orders)} should be a number of orders, or orders of the {c} channels of {layer!r}"
        )
    return found
