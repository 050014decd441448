"""SyncBatchNorm made of a lazy BatchNorm."""

from __future__ import annotations

from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.lazy import LazyModuleMixin

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names


@rule(
    "NL106",
    "no-channels",
    kind="static",
    level="error",
    why="convert_sync_batchnorm makes SyncBatchNorm(0) of a lazy layer that has seen no input, which fits no input",
    fix='make the model anew, run it once, then normlab.convert(model, "batch(sync=True)")',
    thread="pytorch/pytorch#187298",
)
def no_channels(case: Case) -> Evidence | None:
    """Norms of 0 channels that will not get any."""
    found = [
        site
        for site in case.sites
        if isinstance(site.module, _BatchNorm)
        and not isinstance(site.module, LazyModuleMixin)
        and site.module.num_features == 0
    ]
    if not found:
        return None
    text = f"num_features=0 in {count(len(found))} of type {type(found[0].module).__name__}"
    return Evidence(text, names(found), {"layers": len(found)})
