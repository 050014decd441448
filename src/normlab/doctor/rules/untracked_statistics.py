"""`layer.track_running_stats = False`, set on a layer that has running statistics."""

from __future__ import annotations

from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import batches, count, names


@rule(
    "NL301",
    "untracked-statistics",
    kind="static",
    level="error",
    why="set after construction, the flag stops the running statistics but leaves them in place, and eval mode goes "
    "on normalizing by them, however old they are",
    fix="layer.track_running_stats = True for these layers; normlab.recalibrate(model, loader)",
    thread="pytorch/pytorch#30294",
)
def untracked_statistics(case: Case) -> Evidence | None:
    """The flag, and buffers all the same."""
    found = [
        site
        for site in case.sites
        if isinstance(site.module, _BatchNorm)
        and not site.module.track_running_stats
        and site.module.running_mean is not None
    ]
    if not found:
        return None
    oldest = min(batches(site) or 0 for site in found)
    text = f"running statistics of {count(oldest, 'update')} are held, but not tracked, in {count(len(found))}: eval "
    text += "mode goes by them"
    return Evidence(text, names(found), {"layers": len(found), "batches": oldest})
