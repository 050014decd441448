"""What a layer keeps of the batches that it has seen, and how several of these make one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from normlab.layers import (
    BatchLayer,
    ChannelEquilibrium,
    InstanceNorm,
    LpBatchNorm,
    StochasticWhiteningBatchNorm,
)
from normlab.layers.switch import Parts
from normlab.surgery.sites import Site, norm_sites, norm_type

COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Kept:
    """The running statistics of a layer, by the names of their buffers, and what they mean.

    Args:
        mean, var: moments of its input, pooled by the law of total variance. A variance without a mean, as Variance
            Norm has it, cannot tell how far apart the means are: it is averaged.
        deviation: root of such a variance.
        squared: roots of means of squares.
        averaged: statistics of batches that are no moments, such as a largest value: averaged, as the layer itself
            does from batch to batch.
        learned: what changes by steps of its own in training, as a parameter does: no statistic of any batch.
        counter: of batches.
        initial: values that the layer takes out of its averages (`debias`), of which a batch leaves the share `left`.
        sums: mean and var hold sums over all batches, of means and of mean² + variance.
    """

    mean: str | None = None
    var: str | None = None
    deviation: str | None = None
    squared: tuple[str, ...] = ()
    averaged: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()
    counter: str | None = None
    initial: Mapping[str, float] = field(default_factory=dict)
    left: float | None = None
    sums: bool = False

    @property
    def statistics(self) -> tuple[str, ...]:
        """All statistics by name."""
        single = (self.mean, self.var, self.deviation)
        return (*(name for name in single if name is not None), *self.squared, *self.averaged)


def kept(module: nn.Module) -> Kept | None:
    """What a normalization layer keeps; None for one that keeps nothing, or that nothing moves."""
    known = norm_type(module)
    if known is None or known.frozen:
        return None
    if isinstance(module, BatchLayer):
        return _of_batch_layer(module) if module.track_running_stats else None
    buffers = dict(module.named_buffers(recurse=False))
    held = sorted(name for name in buffers if name.startswith("running_"))
    unused = known.fused and not getattr(module, "apply_act", True)  # timm's EvoNorms then only scale and shift
    if unused or not held:
        return None
    keeps = Kept(averaged=tuple(held)) if known.kind == "instance" else _moments(held)
    return replace(keeps, counter=COUNTER) if COUNTER in buffers else keeps


def _moments(names: Sequence[str]) -> Kept:
    """Of these statistics the mean and the variance; all others are averaged."""
    mean, var = (name if name in names else None for name in ("running_mean", "running_var"))
    return Kept(mean, var, averaged=tuple(name for name in names if name not in (mean, var)))


def _of_batch_layer(layer: BatchLayer) -> Kept:
    keeps = replace(_moments(layer.TRACKED), counter=COUNTER)
    if isinstance(layer, InstanceNorm):
        keeps = Kept(averaged=layer.TRACKED, counter=COUNTER)
    elif isinstance(layer, LpBatchNorm) and layer.p == 2:
        # the centred norm is a deviation; largest values, and |x - μ| around means of their own, do not pool
        deviation, squared = ("running_norm", ()) if layer.centred else (None, ("running_norm",))
        keeps = replace(keeps, deviation=deviation, squared=squared, averaged=())
    elif isinstance(layer, ChannelEquilibrium):
        keeps = replace(keeps, averaged=("running_wm",), squared=("running_scale",))
    elif isinstance(layer, StochasticWhiteningBatchNorm):
        keeps = replace(keeps, learned=("whitening",))
    elif isinstance(layer, Parts):
        keeps = replace(keeps, sums=not layer.moving_average)
    if not layer.debias or layer.momentum is None:
        return keeps
    every: dict[str, Any] = layer._initial  # pyright: ignore[reportPrivateUsage]
    initial = {name: every[name] for name in keeps.statistics if name != "running_wm"}  # which `debias` leaves alone
    return replace(keeps, initial=initial, left=1 - layer.newest_share())


def keepers(model: nn.Module) -> list[tuple[Site, Kept]]:
    """The layers of a model that keep statistics, and what they keep."""
    found = ((site, kept(site.module)) for site in norm_sites(model))
    return [(site, keeps) for site, keeps in found if keeps is not None]


def buffers_of(module: nn.Module, keeps: Kept) -> dict[str, Tensor]:
    """The statistics themselves, as they are stored."""
    return {name: module.get_buffer(name) for name in keeps.statistics}


def wide(value: Tensor) -> Tensor:
    """In float64, on the CPU where the device has no such numbers."""
    value = value.detach()
    return value.cpu().double() if value.device.type == "mps" else value.double()


def effective(keeps: Kept, stored: Mapping[str, Tensor], batches: Tensor | None) -> dict[str, Tensor]:
    """The statistics that the layer normalizes by in eval mode, in float64.

    Args:
        stored: as in the buffers. batches: the counter.
    """
    values = {name: wide(stored[name]) for name in keeps.statistics}
    if keeps.left is not None and batches is not None:
        left = keeps.left ** wide(batches)
        for name, first in keeps.initial.items():
            values[name] = torch.where(left == 1, values[name], (values[name] - left * first) / (1 - left))
    if keeps.sums and batches is not None and keeps.mean is not None and keeps.var is not None:
        number = wide(batches).clamp(min=1)
        mean, second = values[keeps.mean] / number, values[keeps.var] / number
        values |= {keeps.mean: mean, keeps.var: (second - mean.square()).clamp(min=0)}
    return values


def to_store(keeps: Kept, values: Mapping[str, Tensor], batches: Tensor | None) -> dict[str, Tensor]:
    """The other way: what the buffers have to hold, if the counter is `batches`."""
    stored = {name: values[name] for name in keeps.statistics}
    if keeps.sums and batches is not None and keeps.mean is not None and keeps.var is not None:
        number, mean = wide(batches).clamp(min=1), values[keeps.mean]
        stored |= {keeps.mean: mean * number, keeps.var: (values[keeps.var] + mean.square()) * number}
    if keeps.left is not None and batches is not None:
        left = keeps.left ** wide(batches)
        for name, first in keeps.initial.items():
            stored[name] = torch.where(left == 1, stored[name], stored[name] * (1 - left) + left * first)
    return stored


def pool(keeps: Kept, parts: Sequence[Mapping[str, Tensor]], weights: Tensor) -> dict[str, Tensor]:
    """One set of effective statistics from several: what all their batches together have.

    Args:
        parts: k of them, in float64.
        weights: [k], such as numbers of values; parts of weight 0 are left out, also where they hold NaN.
    """
    share = weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
    stacked = {name: torch.stack([part[name] for part in parts]) for name in keeps.statistics}
    for values in stacked.values():
        values[share.to(values.device) == 0] = 0
    pooled = {name: _mean(stacked[name], share) for name in keeps.averaged}
    pooled |= {name: _mean(stacked[name].square(), share).sqrt() for name in keeps.squared}
    spread: Tensor | float = 0.0
    if keeps.mean is not None:
        pooled[keeps.mean] = _mean(stacked[keeps.mean], share)
        spread = _mean((stacked[keeps.mean] - pooled[keeps.mean]).square(), share)
    if keeps.var is not None:
        pooled[keeps.var] = _mean(stacked[keeps.var], share) + spread
    if keeps.deviation is not None:
        pooled[keeps.deviation] = (_mean(stacked[keeps.deviation].square(), share) + spread).sqrt()
    return pooled


def _mean(values: Tensor, share: Tensor) -> Tensor:
    """Σ share · values over the first dimension; equal values give that very number."""
    by = share.to(values.device).reshape(-1, *[1] * (values.dim() - 1))
    center = values[share.argmax()]
    return center + (by * (values - center)).sum(0)
