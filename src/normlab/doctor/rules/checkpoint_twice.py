"""Activation checkpointing that counts every batch twice."""

from __future__ import annotations

from normlab.doctor.base import Evidence, NotChecked, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names


@rule(
    "NL010",
    "checkpoint-twice",
    kind="one-batch",
    level="warning",
    why="the checkpointed part runs again in the backward pass, and its running statistics move again: momentum m acts "
    "like 1 - (1 - m)², in this part of the model alone",
    fix='normlab.convert(model, "batch"), whose layers know that they are called a second time',
    thread="pytorch/pytorch#96136",
    needs=("batch",),
)
def checkpoint_twice(case: Case) -> Evidence | None:
    """Calls inside the backward pass that moved statistics."""
    if not case.moving:
        return None
    found = case.training
    if not found.loss and any(p.requires_grad for p in case.model.parameters()):
        raise NotChecked("the model gives nothing that could be differentiated")
    again = [call.site for call in found.calls if call.again and call.moved]
    if not again:
        return None
    step = case.step(again[0])
    text = f"the backward pass updates running statistics once more in {count(len(names(again)))}: momentum {step:g} "
    text += f"acts like {1 - (1 - step) ** 2:.3g}"
    return Evidence(text, names(again), {"updates": 2, "momentum": step, "acts_like": 1 - (1 - step) ** 2})
