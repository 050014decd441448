"""Morcos' reliance on single channels: what a network loses without one of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from types import NoneType

import torch
from torch import Tensor, nn

from normlab.errors import SpecError, came, require
from normlab.probes.whole.clamp import Accuracy, Fill, clamped


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
    require(channels, (Iterable, NoneType), "channels is a list of numbers, or None for all")
    with clamped(model, layer, accuracy) as clamp:
        intact = clamp.begin(fill)
        every = range(clamp.channels)
        chosen = tuple(every if channels is None else channels)
        if not chosen or not all(isinstance(channel, Integral) and channel in every for channel in chosen):
            wanted = f"should be a list of numbers from 0 to {clamp.channels - 1}, the channels of {layer!r}"
            raise SpecError(f"channels={came(channels)} {wanted}")
        drops = [intact - clamp.accuracy_without([channel]) for channel in chosen]
    return ChannelReliance(clamp.place, intact, chosen, torch.tensor(drops, dtype=torch.float64))
