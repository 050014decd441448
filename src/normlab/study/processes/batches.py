"""Batch statistics of a network that several processes train together."""

from __future__ import annotations

from contextlib import suppress

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from normlab.errors import SpecError
from normlab.layers import BatchLayer, GhostBatchNorm, InstanceNorm
from normlab.surgery.convert import convert
from normlab.surgery.sites import Site, norm_sites
from normlab.surgery.statistics.kept import keepers
from normlab.surgery.sync import sync_stats

_OF_A_PART = (GhostBatchNorm, InstanceNorm)  # what they normalize by lies within one process's part of a batch


def synchronise(model: nn.Module) -> nn.Module:
    """Let every batch-type normalizer take its statistics over the processes' parts of a batch together.

    torch's batch norms, and those of timm and others that derive from them, become normlab's, with the very same
    parameters: torch's SyncBatchNorm works on GPUs only. Ghost batches stay parts of a process's part.

    Returns:
        The model; another module only where it is one batch norm itself.

    Raises:
        SpecError: a layer with batch statistics of which it is not known how to take them over processes.
    """
    foreign = [site for site in norm_sites(model) if _is_foreign(site)]
    strange = [site for site in foreign if not isinstance(site.module, _BatchNorm)]
    if strange:
        kind = type(strange[0].module)
        raise SpecError(
            f"several processes cannot share a batch: the statistics of {strange[0].name} ({kind.__module__}."
            f"{kind.__qualname__}) cannot be taken over processes; use one device, or a normalizer of normlab"
        )
    if foreign:
        model = convert(model, "batch(sync=True)", where=_is_foreign).model
    for module in model.modules():
        if isinstance(module, BatchLayer) and not isinstance(module, _OF_A_PART):
            module.sync = True
    return model


def _is_foreign(site: Site) -> bool:
    """Batch statistics that are not taken by a layer of normlab."""
    return site.kind == "batch" and not site.frozen and not isinstance(site.module, BatchLayer)


def settle(model: nn.Module) -> None:
    """Pool the running statistics that each process has kept of its own parts (ghost batches, instances)."""
    if any(not getattr(site.module, "sync", False) for site, _ in keepers(model)):
        with suppress(SpecError):  # statistics that are not finite stay so, as in one process
            sync_stats(model)
