"""SAM whose second pass moves running statistics once more."""

from __future__ import annotations

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names
from normlab.optim import SAM


@rule(
    "NL014",
    "sam-updates-twice",
    kind="static",
    level="warning",
    why="the second pass of SAM runs with perturbed weights, in training mode, and its statistics go into the running "
    "ones, with more weight than those of the true weights",
    fix="normlab.optim.SAM(torch.optim.SGD(...), model, rho=0.05), whose statistics move once a step",
    thread="davda54/sam#17",
    needs=("optimizer",),
)
def sam_twice(case: Case) -> Evidence | None:
    """An optimizer of two steps that does nothing about statistics, by its class."""
    optimizer = case.optimizer
    two_steps = all(callable(getattr(optimizer, name, None)) for name in ("first_step", "second_step"))
    if not case.moving or not two_steps or (isinstance(optimizer, SAM) and optimizer.update_stats == "once"):
        return None
    step = max(case.step(site) for site, _ in case.moving)
    share = 1 / (2 - step)
    kind = type(optimizer).__name__
    text = f"{kind} moves the running statistics of {count(len(case.moving), 'norm')} twice a step, unless your loop "
    text += f"prevents it: {100 * share:.0f} % of a step is from perturbed weights, at momentum {step:g}"
    found = names(site for site, _ in case.moving)
    return Evidence(text, found, {"updates": 2, "share": share})
