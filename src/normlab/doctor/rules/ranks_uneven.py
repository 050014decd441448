"""Processes with batches of other sizes, or with more of them."""

from __future__ import annotations

from normlab.doctor.base import Evidence, NotChecked, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import synced


def told(case: Case) -> tuple[int | None, int | None, bool]:
    """Number of batches, examples in this one, and are there synchronized norms?"""
    try:
        length = len(case.loader) if case.loader is not None else None
    except TypeError:
        length = None
    size = None if case.inputs is None else case.inputs.size
    return length, size, any(synced(site) for site in case.sites)


@rule(
    "NL107",
    "ranks-uneven-batches",
    kind="distributed",
    level="error",
    why="where one process has a batch more, the others do not answer its collectives, of synchronized norms or of "
    "DDP, and it hangs; statistics of unequal batches are not those of the whole",
    fix='DistributedSampler(..., drop_last=True); normlab.convert(model, "batch(sync=True)") weighs unequal batches',
    thread="horovod/horovod#2241",
    needs=("processes",),
    collect=told,
)
def ranks_uneven(case: Case) -> Evidence | None:
    """Lengths of the loaders, sizes of the batches."""
    every = case.told["NL107"]
    lengths, sizes = [one[0] for one in every], [one[1] for one in every]
    if lengths == [None] * len(every) and sizes == [None] * len(every):
        raise NotChecked("neither a batch nor a loader with a length was given")
    waiting = sum(one[2] for one in every)
    if len(set(lengths)) > 1:
        text = f"the processes have {', '.join(map(str, lengths))} batches"
        text += f", and synchronized norms in {waiting} of {len(every)}" if waiting else ""
        return Evidence(text, (), {"fewest": min(n or 0 for n in lengths), "most": max(n or 0 for n in lengths)})
    if len(set(sizes)) > 1:
        text = f"the batches of the processes have {', '.join(map(str, sizes))} examples"
        return Evidence(text, (), {"smallest": min(n or 0 for n in sizes), "largest": max(n or 0 for n in sizes)})
    return None
