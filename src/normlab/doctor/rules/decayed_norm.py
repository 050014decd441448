"""Weight decay on the weights and biases of norms."""

from __future__ import annotations

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names, trained_affine
from normlab.doctor.remade import remade
from normlab.recipes.verify import groups_of


@rule(
    "NL009",
    "decayed-norm",
    kind="static",
    level="warning",
    why="decay pulls γ to 0, which changes the gradients of all that comes before, not the capacity that decay is to "
    "bound, and β has nothing to be bounded; most training recipes leave both out",
    fix='make the optimizer of normlab.recipe("baseline").param_groups(model, lr=..., weight_decay=...)',
    thread="pytorch/pytorch#1402",
    needs=("optimizer",),
)
def decayed_norm(case: Case) -> Evidence | None:
    """Parameters of norms in groups with a decay."""
    decays = {id(p): float(g.get("weight_decay") or 0) for g in groups_of(case.optimizer) for p in g["params"]}
    hit = {site.name: [p for p in trained_affine(site) if decays.get(id(p), 0.0) > 0] for site in case.sites}
    found = [site for site in case.sites if hit[site.name]]
    if not found:
        return None
    tensors = sum(map(len, hit.values()))
    decay = max(decays[id(p)] for params in hit.values() for p in params)
    text = f"weight decay of {decay:g} on {count(tensors, 'tensor')} of {count(len(found), 'norm')}"
    return Evidence(text, names(found), {"tensors": tensors, "weight_decay": decay}, remade(case.optimizer))
