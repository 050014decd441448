"""A scheduler that gives all groups one learning rate."""

from __future__ import annotations

from typing import Any

from normlab.doctor.base import Evidence, NotChecked, rule
from normlab.doctor.case import Case
from normlab.recipes.verify import find, groups_of


@rule(
    "NL030",
    "scheduler-overrules-rates",
    kind="static",
    level="error",
    why="OneCycleLR and CyclicLR with one max_lr, and some trainers, set that rate for every group: scales that were "
    "to learn slowly learn a hundred times as fast",
    fix="OneCycleLR(optimizer, max_lr=recipe.max_lr(optimizer, 0.1), ...); then recipe.verify(optimizer, scheduler)",
    thread="katsura-jp/pytorch-cosine-annealing-with-warmup#14",
    needs=("optimizer",),
)
def scheduler_rates(case: Case) -> Evidence | None:
    """What `recipe.verify` says of the groups that a recipe made."""
    groups = groups_of(case.optimizer)
    if not all("lr_divisor" in group for group in groups):
        raise NotChecked("no recipe made the optimizer's groups, so that nothing says what their rates should be")
    named: dict[str, Any] = {group.get("name", ""): group["lr_divisor"] for group in groups}
    found = find(
        case.optimizer,
        case.scheduler,
        None,
        lr_divisor=named.get("norm_scale", 1.0),
        factor=1 / named.get("norm_shift", 1.0),
    )
    wrong = next((fault for fault in found if fault.rule in ("rates", "scheduler", "groups")), None)
    return None if wrong is None else Evidence(wrong.message, fix=wrong.instead)
