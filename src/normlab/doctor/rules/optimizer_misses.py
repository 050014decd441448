"""An optimizer that does not train the norms that the model has now."""

from __future__ import annotations

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names, trained_affine
from normlab.recipes.verify import groups_of
from normlab.surgery import Site


@rule(
    "NL209",
    "optimizer-misses-norms",
    kind="static",
    level="error",
    why="an optimizer made before norms were replaced goes on training the old ones, which are in no model any more, "
    "and a list of parameters by type or name leaves norms of another library out: the new ones never learn",
    fix="make the optimizer after surgery, or normlab.convert(model, ..., optimizer=optimizer)",
    thread="Eric-mingjie/network-slimming#18",
    needs=("optimizer",),
)
def optimizer_misses(case: Case) -> Evidence | None:
    """Norms whose neighbours are trained and which are not."""
    held = {id(p) for group in groups_of(case.optimizer) for p in group["params"]}
    own = {id(p) for p in case.model.parameters()}
    strangers = len(held - own)
    missing = [site for site in case.sites if any(id(p) not in held for p in trained_affine(site))]
    found = [site for site in missing if strangers or _missed(case, site, held)]
    if not found:
        return None
    text = f"the optimizer lacks parameters of {len(found)} of {count(len(case.sites), 'norm')}"
    text += f", and holds {count(strangers, 'tensor')} that the model has not" if strangers else ""
    return Evidence(text, names(found), {"norms": len(found), "strangers": strangers})


def _missed(case: Case, site: Site, held: set[int]) -> bool:
    """Is what stands next to it trained? An optimizer of the head alone does not miss the norms of the rest."""
    if not site.name:
        return False
    parent, _, own = site.name.rpartition(".")
    children = list(case.model.get_submodule(parent).named_children())
    place = [name for name, _ in children].index(own)
    norms = {id(p) for other in case.sites for p in trained_affine(other)}
    for _, child in (*reversed(children[:place]), *children[place + 1 :]):  # a norm mostly follows what it belongs to
        beside = {id(p) for p in child.parameters()} - norms
        if beside:
            return beside <= held
    return False
