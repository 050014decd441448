"""Averages of weights (EMA, SWA) with running statistics that do not belong to them."""

from __future__ import annotations

from normlab.doctor.base import Evidence, NotChecked, rule
from normlab.doctor.case import Case
from normlab.doctor.gap import gap


@rule(
    "NL015",
    "averaged-statistics",
    kind="one-batch",
    level="error",
    why="averaged weights give other activations than those that the running statistics were taken from, and no "
    "average of statistics is that of the averaged model",
    fix="normlab.recalibrate(averaged_model, loader), before it is evaluated or saved",
    thread="huggingface/pytorch-image-models#102",
    needs=("data",),
)
def averaged_statistics(case: Case) -> Evidence | None:
    """The gap of an averaged model, which cannot be told otherwise: it may have been recalibrated."""
    if case.averaged is None or not case.keepers:
        return None
    try:
        found = gap(case)
    except NotChecked as reason:
        raise NotChecked(f"the running statistics in {case.averaged.by} {case.averaged.statistics}; {reason}") from None
    if not found.notable:
        return None
    return found.evidence(f"the running statistics in {case.averaged.by} {case.averaged.statistics}: outputs")
