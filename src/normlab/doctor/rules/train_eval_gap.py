"""Eval mode computes something else than training did."""

from __future__ import annotations

from normlab.doctor.base import Evidence, NotChecked, rule
from normlab.doctor.case import Case
from normlab.doctor.gap import gap


@rule(
    "NL001",
    "train-eval-gap",
    kind="one-batch",
    level="error",
    why="the running statistics are not those of this data (they lag, are from elsewhere, or the data was prepared "
    "otherwise), so that accuracy falls in eval mode, or jumps from epoch to epoch",
    fix="normlab.recalibrate(model, loader); or prepare the data as it was in training",
    thread="pytorch/pytorch#5406",
    needs=("data",),
)
def train_eval_gap(case: Case) -> Evidence | None:
    """Outputs by running statistics against outputs by those of the batch."""
    if case.averaged is not None:
        raise NotChecked(f"NL015 looks at it, as the model is in a {case.averaged.by}")
    if not case.keepers:
        return None
    found = gap(case)
    return found.evidence("outputs in eval mode") if found.notable else None
