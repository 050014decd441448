"""Running statistics in which the initial values are left, or nothing else is."""

from __future__ import annotations

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import batches, count, stored
from normlab.surgery import Site
from normlab.surgery.statistics.kept import Kept

NOTABLE = 0.05  # 29 updates at momentum 0.1, 299 at 0.01


@rule(
    "NL101",
    "lagging-statistics",
    kind="static",
    level="error",
    why="running statistics start at mean 0 and variance 1, and after n updates of momentum m the share (1 - m)^n of "
    "that is left: until it is gone, eval mode computes something else than training",
    fix="normlab.recalibrate(model, loader) before evaluating",
    thread="keras-team/keras#7265",
)
def lagging_statistics(case: Case) -> Evidence | None:
    """The share that is left, from counter and momentum."""
    shares = {site.name: _left(case, site, keeps) for site, keeps in case.keepers}
    found = {name: share for name, share in shares.items() if share > NOTABLE}
    if not found:
        return None
    worst = max(found, key=lambda name: found[name])
    seen = next(batches(site) for site, _ in case.keepers if site.name == worst)
    if not seen:
        text = f"no update was counted in {count(len(found))}, whose weights are trained: eval mode goes by mean 0 and "
        return Evidence(f"{text}variance 1", tuple(found), {"share": 1.0, "batches": 0})
    text = f"in {count(len(found))} the initial values still make up as much as {100 * found[worst]:.0f} % of the "
    text += f"running statistics, after {count(seen, 'update')}"
    return Evidence(text, tuple(found), {"share": found[worst], "batches": seen})


def _left(case: Case, site: Site, keeps: Kept) -> float:
    """The share of the initial values; 0 for a new layer, of which nobody expects anything yet."""
    seen = batches(site)
    momentum = getattr(site.module, "momentum", None)
    if seen is None or momentum is None or keeps.left is not None or keeps.sums:
        return 0.0
    if seen == 0:
        return 1.0 if _trained(site) and _initial(site, keeps) else 0.0
    return (1 - case.step(site)) ** seen


def _trained(site: Site) -> bool:
    """Do its weight or bias differ from channel to channel, as no initial ones do?"""
    values = (getattr(site.module, name, None) for name in (site.weight, site.bias))
    return any(value is not None and value.numel() > 1 and bool((value != value[0]).any()) for value in values)


def _initial(site: Site, keeps: Kept) -> bool:
    """Is the mean 0 and the variance 1, to the last bit?"""
    if keeps.mean is None or keeps.var is None:
        return False
    values = stored(site, keeps)
    return not bool(values[keeps.mean].any()) and bool((values[keeps.var] == 1).all())
