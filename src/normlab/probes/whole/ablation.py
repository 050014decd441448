"""What a network loses with its channels: Morcos' ablation curve and reliance on single channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from normlab.errors import SpecError
from normlab.probes.whole.clamp import Clamp, clamped
from normlab.seeding import Streams

Accuracy = Callable[[], float]
Fill = Literal["zero", "mean"]


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


@dataclass(frozen=True)
class ChannelReliance:
    """How much accuracy each single channel carries.

    Args:
        place: the module whose output is clamped.
        accuracy: of the intact network; drops: what is lost of it without channel c, [channels], float64.
        channels: which they are.

    Source: Morcos et al., arXiv:1803.06959, sec. 3.2.
    """

    place: str
    accuracy: float
    channels: tuple[int, ...]
    drops: Tensor

    @property
    def mean(self) -> float:
        """The mean drop."""
        return float(self.drops.mean())

    @property
    def max(self) -> float:
        """The largest drop."""
        return float(self.drops.max())


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
        SpecError: `accuracy` does not call it; its output is no tensor with channels; orders that are none.
    """
    with clamped(model, layer) as clamp:
        intact = _start(clamp, accuracy, fill)
        c = clamp.channels
        numbers = range(c + 1) if points is None else sorted({round(k * c / (points - 1)) for k in range(points)})
        every = _orders(orders, c, layer, seed)
        rows = [[intact if not k else _clamp(clamp, accuracy, order[:k]) for k in numbers] for order in every]
    return AblationCurve(clamp.place, tuple(numbers), torch.tensor(every), torch.tensor(rows, dtype=torch.float64))


def channel_reliance(
    model: nn.Module, accuracy: Accuracy, layer: str, *, channels: Sequence[int] | None = None, fill: Fill = "zero"
) -> ChannelReliance:
    """Clamp one channel of a layer at a time, in eval mode.

    Args:
        accuracy, layer, fill: as of `ablation_curve`.
        channels: which; None for all.

    Raises:
        as `ablation_curve`.
    """
    with clamped(model, layer) as clamp:
        intact = _start(clamp, accuracy, fill)
        chosen = tuple(range(clamp.channels)) if channels is None else tuple(channels)
        if not all(0 <= channel < clamp.channels for channel in chosen):
            raise SpecError(f"channels={list(chosen)} should be from 0 to {clamp.channels - 1}, those of {layer!r}")
        drops = [intact - _clamp(clamp, accuracy, [channel]) for channel in chosen]
    return ChannelReliance(clamp.place, intact, chosen, torch.tensor(drops, dtype=torch.float64))


def _start(clamp: Clamp, accuracy: Accuracy, fill: Fill) -> float:
    if fill not in ("zero", "mean"):
        raise SpecError(f"fill={fill!r} should be 'zero' or 'mean'")
    intact = float(accuracy())
    clamp.learn()
    if fill == "mean":
        clamp.collect_means(accuracy)
    return intact


def _clamp(clamp: Clamp, accuracy: Accuracy, channels: Sequence[int]) -> float:
    clamp.chosen = torch.tensor(list(channels))
    try:
        return float(accuracy())
    finally:
        clamp.chosen = None


def _orders(orders: int | Sequence[Sequence[int]], c: int, layer: str, seed: int) -> list[list[int]]:
    if isinstance(orders, int):
        numbers = range(orders)
        found = [Streams(seed).numpy("probe", "ablation", layer, k).permutation(c).tolist() for k in numbers]
    else:
        found = [list(map(int, order)) for order in orders]
    if not found or any(sorted(order) != list(range(c)) for order in found):
        raise SpecError(f"orders={orders!r} should be a number of orders, or orders of the {c} channels of {layer!r}")
    return found
