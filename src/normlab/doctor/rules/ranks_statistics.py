"""Processes with other running statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, stored
from normlab.surgery.statistics.kept import buffers_of

NOTABLE = 0.01


def told(case: Case) -> dict[str, dict[str, Tensor]]:
    """Name → mean, in units of the deviation where there is one, and every other statistic."""
    found: dict[str, dict[str, Tensor]] = {}
    for site, keeps in case.keepers:
        if all(buffer.device.type != "meta" for buffer in buffers_of(site.module, keeps).values()):
            found[site.name] = {name: value.cpu() for name, value in stored(site, keeps).items()}
    return found


@rule(
    "NL013",
    "ranks-differ-in-statistics",
    kind="distributed",
    level="error",
    why="each process averages the statistics of its own data, and DDP keeps those of process 0: the others' are lost, "
    "and what is evaluated or saved depends on the process",
    fix="normlab.sync_stats(model) in all processes, before evaluating and saving",
    thread="facebookresearch/fvcore#152",
    needs=("processes",),
    collect=told,
)
def ranks_statistics(case: Case) -> Evidence | None:
    """The largest distance of a statistic from that of process 0, in units of its size."""
    every: list[dict[str, dict[str, Tensor]]] = case.told["NL013"]
    gaps = {name: max(_distance(every[0][name], one[name]) for one in every if name in one) for name in every[0]}
    found = {name: gap for name, gap in gaps.items() if not gap[0] <= NOTABLE}
    if not found:
        return None
    worst = max(found, key=lambda name: found[name])
    distance, statistic = found[worst]
    by = f"{distance:.2g} standard deviations" if statistic == "running_mean" else f"{100 * distance:.2g} %"
    text = f"running statistics of {len(found)} of {count(len(gaps), 'norm')} differ between the processes: "
    text += f"{statistic} of {worst or 'the model'} by {by}"
    return Evidence(text, tuple(found), {"distance": distance, "norms": len(found)})


def _distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[float, str]:
    """The largest, and of which statistic; NaN counts as infinitely far."""
    tiny = torch.finfo(torch.float64).tiny
    found: list[tuple[float, str]] = [(0.0, "")]
    for name, value in one.items():
        unit = one["running_var"].sqrt() if name == "running_mean" and "running_var" in one else value.abs()
        if name in other and value.shape == other[name].shape:
            far = ((other[name] - value).abs() / unit.clamp(min=tiny)).nan_to_num(nan=torch.inf, posinf=torch.inf)
            same = (value == other[name]) | (value.isnan() & other[name].isnan())
            found.append((float(far.masked_fill(same, 0.0).max()), name))
    return max(found)
