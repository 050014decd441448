"""Running statistics in which the initial values are left, or nothing else is."""

from __future__ import annotations

from math import ceil, log

from torch import Tensor, nn

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
    site = next(site for site, _ in case.keepers if site.name == worst)
    seen, step = batches(site) or 0, case.step(site)
    missing = ceil(log(NOTABLE) / log(1 - step)) - seen if 0 < step < 1 else 1
    fix = f"normlab.recalibrate(model, loader), {missing} or more batches of training data, before evaluating"
    if not seen:
        text = f"no update was counted in {count(len(found))} of a trained model: in eval mode its mean is 0 and its "
        return Evidence(f"{text}variance 1", tuple(found), {"share": 1.0, "batches": 0}, fix)
    text = f"in {count(len(found))} the initial values still make up as much as {100 * found[worst]:.0f} % of the "
    text += f"running statistics, which count {count(seen, 'update')} of momentum {step:g}"
    return Evidence(text, tuple(found), {"share": found[worst], "batches": seen, "momentum": step}, fix)


def _left(case: Case, site: Site, keeps: Kept) -> float:
    """The share of the initial values; 0 for a new layer, of which nobody expects anything yet."""
    seen, step = batches(site), case.step(site)
    if seen is None or getattr(site.module, "momentum", None) is None or keeps.left is not None or keeps.sums:
        return 0.0
    if seen == 0 or step == 0:
        return 1.0 if _initial(site, keeps) and (seen or _trained(case.model)) else 0.0
    share = (1 - step) ** seen
    var = getattr(site.module, "running_var", None)
    # a variance that still holds this share of 1 is no smaller: else statistics were taken anew, and counters were not
    return 0.0 if isinstance(var, Tensor) and bool((var < 0.99 * share).any()) else share


def _trained(model: nn.Module) -> bool:
    """Do all its vectors vary? What draws some biases and scales at random (RepVGG, DCGAN) leaves others constant."""
    vectors = [p for p in model.parameters() if p.dim() == 1 and p.numel() > 1 and p.device.type != "meta"]
    return bool(vectors) and all(bool((p != p[0]).any()) for p in vectors)


def _initial(site: Site, keeps: Kept) -> bool:
    """Is the mean 0 and the variance 1, to the last bit?"""
    if keeps.mean is None or keeps.var is None:
        return False
    values = stored(site, keeps)
    return not bool(values[keeps.mean].any()) and bool((values[keeps.var] == 1).all())
