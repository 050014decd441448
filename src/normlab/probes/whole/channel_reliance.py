"""Morcos' reliance on single channels: what a network loses without one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normlab.errors import SpecError
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
    with clamped(model, layer, accuracy) as clamp:
        intact = clamp.begin(fill)
        chosen = tuple(range(clamp.channels)) if channels is None else tuple(channels)
        if not chosen or not all(0 <= channel < clamp.channels for channel in chosen):
            raise SpecError(f"channels={list(chosen)} should be from 0 to {clamp.channels - 1}, those of {layer!r}")
        drops = [intact - clamp.accuracy_without([channel]) for channel in chosen]
    return ChannelReliance(clamp.place, intact, chosen, torch.tensor(drops, dtype=torch.float64))
