"""Norms that learn nothing, while their running statistics move."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from math import isfinite

from torch import nn

from normlab.doctor.base import Evidence, NotChecked, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, names, shift
from normlab.surgery.conversion.carry import named_tensors


@rule(
    "NL008",
    "half-frozen",
    kind="static",
    level="error",
    why="requires_grad=False does not stop running statistics: in training mode the frozen part normalizes by the "
    "batch, and gives other features in every batch and after every epoch",
    fix="normlab.freeze(model), which lasts through model.train()",
    thread="pytorch/pytorch#86590",
)
def half_frozen(case: Case) -> Evidence | None:
    """Layers with parameters of which none is trained; how far one batch takes their means."""
    learns = any(p.requires_grad for p in case.model.parameters())
    found = [(site, keeps) for site, keeps in case.moving if _still(site.module)]
    if not found or not (learns or case.given.training):
        return None
    if not case.given.training:
        raise NotChecked("the model is in eval mode, where nothing moves: call model.train() first, if training does")
    layers = names(site for site, _ in found)
    text = f"neither weight nor bias is trained in {count(len(found))}, but running statistics move in training"
    numbers: dict[str, float | int | str] = {"layers": len(found)}
    moved = _moved(case, set(layers))
    if moved is not None and isfinite(moved):
        text += f": this batch moves means by up to {moved:.2g} standard deviations"
        numbers["moved"] = moved
    return Evidence(text, layers, numbers, _fix(case, layers))


def _fix(case: Case, layers: Sequence[str]) -> str | None:
    """Freeze the part that holds these layers and no other, or one after the other; None for all."""
    others = {site.name for site, _ in case.keepers} - set(layers)
    if not others:
        return None
    parts = zip(*(name.split(".") for name in layers), strict=False)
    part = ".".join(column[0] for column in takewhile(lambda column: len(set(column)) == 1, parts))
    if part and not any(name.startswith(f"{part}.") for name in others):
        return f'normlab.freeze(model.get_submodule("{part}")), which lasts through model.train()'
    return "normlab.freeze(model.get_submodule(name)) for each of these layers, which lasts through model.train()"


def _still(module: nn.Module) -> bool:
    parameters = [value for value in named_tensors(module).values() if isinstance(value, nn.Parameter)]
    return bool(parameters) and not any(value.requires_grad for value in parameters)


def _moved(case: Case, chosen: set[str]) -> float | None:
    """The largest step of a running mean."""
    try:
        calls = case.training.calls
    except NotChecked:
        return None
    by_name = {site.name: keeps for site, keeps in case.moving}
    steps = [
        case.step(call.site) * distance
        for call in calls
        if call.site.name in chosen and (distance := shift(call, by_name[call.site.name])) is not None
    ]
    return max(steps, default=None)
