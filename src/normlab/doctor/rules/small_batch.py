"""Batch statistics of a handful of examples."""

from __future__ import annotations

import statistics

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names, synced, uses_batch

MOST = 4


@rule(
    "NL004",
    "small-batch",
    kind="one-batch",
    level="warning",
    why="mean and variance of so few examples are noise, which training adapts to and eval mode does not have; "
    "ImageNet error of a ResNet-50 with BN goes from 23.6 % at 32 per GPU to 27.3 at 4 and 34.7 at 2 "
    "(arXiv:1803.08494)",
    fix='normlab.convert(model, "group(lower=True)", sample=batch); of a pretrained model normlab.freeze(model)',
    thread="facebookresearch/maskrcnn-benchmark#267",
    needs=("batch",),
)
def small_batch(case: Case) -> Evidence | None:
    """The loader's batch size, or else that of what reaches the first of them, and how uncertain its means are."""
    several = case.processes is not None
    found = [s for s in case.sites if uses_batch(s) and case.trains[s.name] and not (several and synced(s))]
    size = _size(case, {site.name for site in found})
    if size is None or size > MOST:
        return None
    text = f"batches of {size} for {count(len(found), 'batch norm')}"
    noise = _noise(case, size) if case.trial().error is None else None
    numbers: dict[str, float | int | str] = {"size": size}
    if noise is not None:
        text += f": the mean of a channel is uncertain by {noise:.2g} of its standard deviation (median layer)"
        numbers["noise"] = noise
    return Evidence(text, names(found), numbers)


def _size(case: Case, chosen: set[str]) -> int | None:
    """None where no such layer is called."""
    if not chosen:
        return None
    told = getattr(case.loader, "batch_size", None)
    calls = (call for call in case.trial().calls if call.site.name in chosen and len(call.shape) > 1)
    first = next(calls, None)
    if first is None:
        _ = case.training  # says why, if the model does not run
        return None
    return told if isinstance(told, int) else first.shape[0]


def _noise(case: Case, size: int) -> float | None:
    """Median over the layers of the standard error that the mean of so many examples has, in standard deviations."""
    found = [
        float((call.spread / size / call.var.clamp(min=1e-30)).mean().sqrt())
        for call in case.training.calls
        if call.site.kind == "batch" and call.shape[0] > 1 and call.spread is not None and call.var is not None
    ]
    return statistics.median(found) if found else None
