"""Small questions about norms that several rules ask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from normlab.doctor.passes import Call
from normlab.layers import BatchLayer
from normlab.surgery import Site, affine_params
from normlab.surgery.statistics.kept import Kept, buffers_of, effective


def names(sites: Iterable[Site]) -> tuple[str, ...]:
    """Without repetitions."""
    return tuple(dict.fromkeys(site.name for site in sites))


def called(site: Site) -> str:
    """A layer, in a sentence."""
    return f"layer {site.name}" if site.name else "the model"


def count(number: int, noun: str = "layer") -> str:
    """`1 layer`, `3 layers`."""
    return f"{number} {noun}" + "s" * (number != 1)


def trained_affine(site: Site) -> list[nn.Parameter]:
    """The weight and bias of a norm that are trained."""
    if site.frozen:
        return []
    return [value for value in affine_params(site.module) if value is not None and value.requires_grad]


def synced(site: Site) -> bool:
    """Are its batch statistics those of all processes?"""
    return isinstance(site.module, nn.SyncBatchNorm) or (isinstance(site.module, BatchLayer) and site.module.sync)


def uses_batch(site: Site) -> bool:
    """Does it normalize by moments of the batch in training mode?"""
    return site.kind == "batch" and not site.frozen


def stored(site: Site, keeps: Kept) -> dict[str, Tensor]:
    """The statistics that a layer normalizes by in eval mode, float64."""
    counter = getattr(site.module, "num_batches_tracked", None)
    return effective(keeps, buffers_of(site.module, keeps), counter)


def batches(site: Site) -> int | None:
    """How many batches it has counted; None where it does not count."""
    counter: Any = getattr(site.module, "num_batches_tracked", None)
    return int(counter) if isinstance(counter, Tensor) and counter.device.type != "meta" else None


def shift(call: Call, keeps: Kept) -> float | None:
    """How far the batch's means are from the running ones, rms over channels, in running standard deviations."""
    if keeps.mean is None or keeps.var is None or call.mean is None:
        return None
    values = stored(call.site, keeps)
    mean, var = (values[name].to(call.mean.device) for name in (keeps.mean, keeps.var))
    if mean.shape != call.mean.shape:
        return None
    deviation = (var + float(getattr(call.site.module, "eps", 0.0))).clamp(min=torch.finfo(torch.float32).tiny).sqrt()
    return float(((call.mean.double() - mean) / deviation).square().mean().sqrt())
