"""Running statistics in half precision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names

MEAN, BATCHES = 3.0, 1000


@rule(
    "NL011",
    "half-statistics",
    kind="static",
    level="error",
    why="an update smaller than half the distance to the next number of 8 or 11 bits is rounded away, so that running "
    "statistics stop on the way, and eval mode normalizes by what they stopped at",
    fix='normlab.convert(model, "batch") keeps them in float32; or leave the model in float32, under autocast',
    thread="facebookresearch/fairscale#442",
)
def half_statistics(case: Case) -> Evidence | None:
    """Where a running mean of this type and momentum ends, on the way from 0 to a mean of 3."""
    halves = (torch.float16, torch.bfloat16)
    found = [
        (site, keeps)
        for site, keeps in case.keepers
        if any(site.module.get_buffer(name).dtype in halves for name in keeps.statistics)
    ]
    if not found:
        return None
    site, keeps = found[0]
    dtype, step = site.module.get_buffer(keeps.statistics[0]).dtype, case.step(site)
    end = _end(dtype, step)
    text = f"the running statistics of {count(len(found))} are {str(dtype).removeprefix('torch.')}: with momentum "
    text += f"{step:g}, after {BATCHES} batches of mean {MEAN:g}, a running mean is {end:.3g}"
    return Evidence(text, names(site for site, _ in found), {"layers": len(found), "mean": MEAN, "running_mean": end})


def _end(dtype: torch.dtype, momentum: float) -> float:
    mean, var = torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype)
    x: Tensor = (torch.tensor([[-2.0], [2.0]]) + MEAN).to(dtype)
    for _ in range(BATCHES):
        F.batch_norm(x, mean, var, training=True, momentum=momentum)
    return float(mean)
