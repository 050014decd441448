"""SyncBatchNorm on the CPU."""

from __future__ import annotations

from torch import nn

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names

SUPPORTED = ("cuda", "xpu", "hpu")


@rule(
    "NL207",
    "sync-on-cpu",
    kind="distributed",
    level="error",
    why="torch's SyncBatchNorm raises in training as soon as there is a process group: it knows no CPU",
    fix='normlab.convert(model, "batch(sync=True)"), which works on gloo as well',
    thread="open-mmlab/mmsegmentation#2147",
    needs=("processes",),
)
def sync_on_cpu(case: Case) -> Evidence | None:
    """The type and the device."""
    found = [site for site in case.sites if isinstance(site.module, nn.SyncBatchNorm) and case.trains[site.name]]
    if not found or case.device.type in SUPPORTED:
        return None
    text = f"{type(found[0].module).__name__} on {case.device}, with a process group, in {count(len(found))}"
    return Evidence(text, names(found), {"layers": len(found)})
