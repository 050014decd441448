"""Weights that a rule about names or shapes has taken for parameters of norms."""

from __future__ import annotations

from torch import nn

from normlab.doctor.base import Evidence, rule
from normlab.doctor.case import Case
from normlab.doctor.remade import remade
from normlab.recipes.groups import roles_by_type
from normlab.recipes.verify import groups_of


@rule(
    "NL109",
    "undecayed-weight",
    kind="static",
    level="warning",
    why="groups made by shape or name (`p.squeeze().ndim == 1`, `'norm' in name`) also catch weights of convolutions "
    "and linear layers, which then do not decay, or learn at the rate of a scale",
    fix='make the optimizer of normlab.recipe("baseline").param_groups(model, lr=..., weight_decay=...)',
    thread="huggingface/transformers#35927",
    needs=("optimizer",),
)
def undecayed_weight(case: Case) -> Evidence | None:
    """Weights by the type of their module, in groups without decay, where others decay; embeddings may go without."""
    groups = groups_of(case.optimizer)
    decays = {id(p): float(g.get("weight_decay") or 0) for g in groups for p in g["params"]}
    roles = roles_by_type(case.model, case.sites)
    tables = {id(m.weight) for m in case.model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    named = [(n, p) for n, p in case.model.named_parameters() if id(p) in decays and id(p) not in tables]
    weights = [(n, p) for n, p in named if roles[n] == "weight"]
    out = [(name, p) for name, p in weights if decays[id(p)] == 0]
    if not out or len(out) == len(weights):
        return None
    values = sum(p.numel() for _, p in out)
    text = f"no decay for {len(out)} of {len(weights)} weights of convolutions and linear layers, {values:,} values"
    numbers = {"weights": len(out), "of": len(weights), "values": values}
    return Evidence(text, tuple(name for name, _ in out), numbers, remade(case.optimizer))
