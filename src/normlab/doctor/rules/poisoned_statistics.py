"""Running statistics that are NaN or infinite."""

from __future__ import annotations

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names


@rule(
    "NL003",
    "poisoned-statistics",
    kind="static",
    level="error",
    why="a single batch with NaN or an overflow stays in a running average forever, a GradScaler skips the step but "
    "not the statistics, and training, which normalizes by the batch, looks fine: it shows in eval mode",
    fix='normlab.recalibrate(model, loader); then normlab.convert(model, "batch(guard_nonfinite=True)")',
    thread="pytorch/pytorch#88474",
)
def poisoned_statistics(case: Case) -> Evidence | None:
    """Count the channels."""
    found, channels, total = [], 0, 0
    for site, keeps in case.keepers:
        buffers = [site.module.get_buffer(name) for name in keeps.statistics]
        buffers = [buffer for buffer in buffers if buffer.device.type != "meta"]
        bad = sum(int((~buffer.isfinite()).sum()) for buffer in buffers)
        total += sum(buffer.numel() for buffer in buffers)
        if bad:
            found.append(site)
            channels += bad
    if not found:
        return None
    text = f"{channels} of {total} running statistics are NaN or infinite, in {count(len(found))}"
    return Evidence(text, names(found), {"nonfinite": channels, "statistics": total})
