"""Norms in eval mode that the next `model.train()` puts back into training mode."""

from __future__ import annotations

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import names


@rule(
    "NL108",
    "thawed-by-train",
    kind="static",
    level="warning",
    why="layer.eval() lasts until the next model.train(), which training loops call once an epoch, after each "
    "validation: from then on the frozen statistics move",
    fix="normlab.freeze(model, affine=False), which lasts through model.train()",
    thread="pytorch/pytorch#66073",
)
def thawed_by_train(case: Case) -> Evidence | None:
    """A model in training mode with norms that are not, and would be."""
    if not case.model.training:
        return None
    found = [site for site, _ in case.keepers if not site.module.training and case.trains[site.name]]
    if not found:
        return None
    total = len(case.keepers)
    text = f"model.train() will put {len(found)} of {total} norms with running statistics back into training mode"
    return Evidence(text, names(found), {"layers": len(found), "of": total})
