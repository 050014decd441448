"""So few values per channel that training and eval mode differ by construction."""

from __future__ import annotations

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names, uses_batch

MOST = 4


@rule(
    "NL029",
    "few-values-per-channel",
    kind="one-batch",
    level="warning",
    why="training divides by the biased deviation and stores the unbiased one; with 2 values x̂ is ±1 in training "
    "whatever came in, and ±0.71 in eval mode",
    fix='larger batches or maps; or normlab.convert(model, "layer", where=[...]) for these layers',
    thread="pytorch/pytorch#19916",
    needs=("batch",),
)
def few_values(case: Case) -> Evidence | None:
    """Values per channel in training, and the ratio of the deviations."""
    trains = {site.name for site in case.sites if uses_batch(site) and case.trains[site.name]}
    few = [c for c in case.training.calls if c.site.name in trains and len(c.shape) > 1 and 2 <= c.values <= MOST]
    if not few:
        return None
    least = min(call.values for call in few)
    ratio = ((least - 1) / least) ** 0.5
    sites = [call.site for call in few]
    text = f"{least} values per channel in {count(len(names(sites)))}: eval outputs are {ratio:.2f} of training's"
    return Evidence(text, names(sites), {"values": least, "ratio": ratio})
