"""Makes the running statistics of all processes one."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from normlab.errors import SpecError
from normlab.surgery.sites import Site, norm_sites
from normlab.surgery.statistics.borrow import label, require_shapes
from normlab.surgery.statistics.gather import group_of, rows_of
from normlab.surgery.statistics.kept import Kept, buffers_of, effective, keepers, pool, to_store, wide


@torch.no_grad()
def sync_stats(model: nn.Module, process_group: dist.ProcessGroup | None = None) -> list[str]:
    """Pool the running statistics of the processes, which each have seen a part of the data; one collective for all.

        μ = Σ_p n_p μ_p / Σ_p n_p,    σ² = Σ_p n_p (σ_p² + (μ_p - μ)²) / Σ_p n_p        n_p batches seen by process p

    DDP leaves every process with the statistics of its own batches, or with those of process 0. Call this in all
    processes before evaluating and before saving. Counters become the largest one. Layers that agree in all processes,
    such as synchronized ones, stay as they are, to the last bit.

    Where a layer does not count its batches, as torch's InstanceNorm, processes count alike. What is no moment is
    averaged; of a variance that comes without a mean (`variance`, `evo_b0`) the spread of the means is not known, and
    is left out.

    Args:
        process_group: the processes to pool over; None is all.

    Returns:
        The names of the layers that were changed.

    Raises:
        SpecError: torch.distributed is not initialized; no layer keeps running statistics; those of a process are not
            finite. Then nothing is changed, in any process.

    Source: pytorch#22095; the law of total variance.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise SpecError("sync_stats pools over processes: call torch.distributed.init_process_group first")
    require_shapes(model)
    found = keepers(model)
    if not found:
        kinds = ", ".join(sorted({type(site.module).__name__ for site in norm_sites(model)}))
        raise SpecError(f"there are no running statistics to pool: the model has {kinds or 'no normalization layer'}")
    rows = [_row(site, keeps) for site, keeps in found]
    shared = rows_of(torch.cat(rows), group_of(process_group)).split([len(row) for row in rows], 1)
    for (site, _), parts in zip(found, shared, strict=True):
        poisoned = (~parts.isfinite().all(1)).nonzero().flatten().tolist()
        if poisoned:
            raise SpecError(f"the statistics of {label(site)} are not finite in process {poisoned[0]}: recalibrate it")
    differ = [not bool((parts == parts[0]).all()) for parts in shared]
    for (site, keeps), parts, differs in zip(found, shared, differ, strict=True):
        if differs:
            _take(site.module, keeps, parts)
    return [site.name for (site, _), differs in zip(found, differ, strict=True) if differs]


def _row(site: Site, keeps: Kept) -> Tensor:
    """The counter, all statistics as they are stored, and what is learned beside them: [k]."""
    module = site.module
    buffers = [*buffers_of(module, keeps).values(), *map(module.get_buffer, keeps.learned)]
    count = wide(buffers[0]).new_zeros(1) if keeps.counter is None else wide(module.get_buffer(keeps.counter))[None]
    return torch.cat([count, *(wide(buffer).flatten() for buffer in buffers)])


def _take(module: nn.Module, keeps: Kept, rows: Tensor) -> None:
    """Write what the rows [processes, k] together are."""
    names = (*keeps.statistics, *keeps.learned)
    buffers = [module.get_buffer(name) for name in names]
    columns = rows[:, 1:].split([buffer.numel() for buffer in buffers], 1)
    stored = {name: flat.reshape(-1, *buffer.shape) for name, flat, buffer in zip(names, columns, buffers, strict=True)}
    counts = rows[:, 0]
    weights = counts if bool((counts > 0).any()) else torch.ones_like(counts)
    parts = [effective(keeps, {name: v[p] for name, v in stored.items()}, counts[p]) for p in range(len(rows))]
    values = to_store(keeps, pool(keeps, parts, weights), counts.max())
    for name in keeps.learned:
        values[name] = torch.einsum("p,p...->...", weights / weights.sum(), stored[name])
    if keeps.counter is not None:
        module.get_buffer(keeps.counter).copy_(counts.max())
    for name, value in values.items():
        module.get_buffer(name).copy_(value)
