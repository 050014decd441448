"""Running statistics in which the initial values are left, or nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from torch import Tensor, nn

from normlab.doctor.base import Evidence, NotChecked, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import batches, count, stored
from normlab.doctor.passes import Call
from normlab.surgery import Site
from normlab.surgery.statistics.kept import Kept, wide

NOTABLE = 0.05  # 29 updates at momentum 0.1, 299 at 0.01
MEASURED = 0.7  # of that share: statistics that lag show 0.9 and more, such as were taken anew -0.3 to 0.6


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
    """The share that is left, from counter and momentum; a batch of data tells whether it really is.

    `normlab.recalibrate` and torch's `update_bn` weight all batches alike and leave nothing of the initial values, but
    counter and momentum do not show it.
    """
    shares = {site.name: _left(case, site, keeps) for site, keeps in case.keepers}
    certain = {name: share for name, share in shares.items() if share == 1}
    found = certain or {name: share for name, share in shares.items() if share > NOTABLE}
    if not found:
        return None
    worst = max(found, key=lambda name: found[name])
    site = next(site for site, _ in case.keepers if site.name == worst)
    seen, step = batches(site) or 0, case.step(site)
    if not seen:
        text = f"no update was counted in {count(len(found))} of a trained model: in eval mode its mean is 0 and its "
        return Evidence(f"{text}variance 1", tuple(found), {"share": 1.0, "batches": 0})
    text = f"in {count(len(found))} the initial values still make up as much as {100 * found[worst]:.0f} % of the "
    text += f"running statistics, which count {count(seen, 'update')} of momentum {step:g}"
    numbers = {"share": found[worst], "batches": seen, "momentum": step}
    if certain:
        return Evidence(text, tuple(found), numbers)
    measured = _measured(case, found, text)
    if abs(measured) < MEASURED:
        return None
    text += f"; by this batch it is {100 * measured * found[worst]:.0f} %"
    return Evidence(text, tuple(found), numbers | {"measured": measured * found[worst]})


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


def _measured(case: Case, shares: Mapping[str, float], text: str) -> float:
    """How much of these shares is there, by least squares: 1 where all of it is, 0 where the statistics are the data's.

    Raises:
        NotChecked: there is no batch of data, or it tells nothing.
    """
    if case.missing(("data",)) is not None:
        raise NotChecked(f"{text}, unless recalibrate or update_bn took these anew: a batch of data tells")
    keeps = {site.name: kept for site, kept in case.keepers}
    calls = [call for call in case.training.calls if call.site.name in shares and not call.again]
    sums = [_sums(call, keeps[call.site.name], shares[call.site.name]) for call in calls]
    both, own = sum(both for both, _ in sums), sum(own for _, own in sums)
    if not (own > 0 and isfinite(both / own)):
        raise NotChecked(f"{text}, unless these were taken anew, which this batch does not tell")
    return both / own


def _sums(call: Call, keeps: Kept, share: float) -> tuple[float, float]:
    """Σ x y and Σ x² over channels, of y = a x:  μ - m = a s μ,  σ² - v = a s (σ² - 1).

    μ, σ² are the batch's, m, v the running ones, s the share, a the part of it that is there; in deviations, and
    variances, halfway between the two.
    """
    if keeps.mean is None or keeps.var is None or call.mean is None or call.var is None:
        return 0.0, 0.0
    values, mean, var = stored(call.site, keeps), wide(call.mean).cpu(), wide(call.var).cpu()
    m, v = values[keeps.mean].cpu(), values[keeps.var].cpu()
    if m.shape != mean.shape:
        return 0.0, 0.0
    between = ((var + v) / 2).clamp(min=1e-30)
    x1, y1 = share * mean / between.sqrt(), (mean - m) / between.sqrt()
    x2, y2 = share * (var - 1) / between, (var - v) / between
    return float((x1 * y1 + x2 * y2).sum()), float((x1 * x1 + x2 * x2).sum())


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
