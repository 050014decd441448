"""A scheduler with a floor that a slow group stands on."""

from __future__ import annotations

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.recipes.verify import FLOORS, MATERIAL, groups_of


@rule(
    "NL031",
    "rate-floor",
    kind="static",
    level="warning",
    why="eta_min is one number for all groups: next to the rate of a slow one, such as the scales of norms, it is no "
    "floor but the rate itself, so that this group never decays, or grows",
    fix="eta_min=0, or a tenth of the smallest rate; recipe.verify(optimizer, scheduler) finds it as well",
    thread="open-mmlab/mmengine#725",
    needs=("optimizer", "scheduler"),
)
def rate_floor(case: Case) -> Evidence | None:
    """The floor next to the smallest rate, where groups have different ones."""
    starts = [float(group.get("initial_lr", group["lr"])) for group in groups_of(case.optimizer)]
    smallest = min(starts, default=0.0)
    if not 0 < smallest < max(starts, default=0.0):
        return None
    parts = (case.scheduler, *getattr(case.scheduler, "_schedulers", ()))
    floors = {type(part).__name__: value for part in parts for key in FLOORS if (value := _number(part, key))}
    for name, floor in floors.items():
        if floor > MATERIAL * smallest:
            text = f"{name} goes down to {floor:g} for all groups, whose rates start at {smallest:g} to {max(starts):g}"
            return Evidence(text, (), {"floor": floor, "rate": smallest})
    return None


def _number(part: object, key: str) -> float:
    value = getattr(part, key, None)
    return float(value) if isinstance(value, (int, float)) else 0.0
