"""Keeps an optimizer's parameters those of the model while layers are exchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from torch import nn

from normlab.errors import SpecError, came


class Optimizer(Protocol):
    """What torch's optimizers have, and wrappers of them."""

    param_groups: list[dict[str, Any]]
    state: Any


def update(
    optimizer: Optimizer,
    gone: Sequence[nn.Parameter],
    joining: Iterable[tuple[str, nn.Module, list[nn.Parameter]]],
    undo: ExitStack,
) -> None:
    """Take removed parameters out, with their state, and put new ones into the group of their layer.

    Args:
        joining: name of a layer, the layer that was there before, and the parameters that are new there.

    Raises:
        SpecError: no optimizer; or it cannot be told which group new parameters belong to.
    """
    groups = _groups(optimizer)
    homes = [(_home(groups, name, old), new) for name, old, new in joining]
    left = {id(parameter) for parameter in gone}
    before, states = [list(group["params"]) for group in groups], dict(optimizer.state)
    after = [
        [p for p in group["params"] if id(p) not in left] + [p for home, new in homes if home is group for p in new]
        for group in groups
    ]
    undo.callback(_restore, optimizer, groups, before, after, states)
    for group, parameters in zip(groups, after, strict=True):
        group["params"][:] = parameters
    for parameter in gone:
        optimizer.state.pop(parameter, None)


def check_owner(optimizer: Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer of another model.

    Raises:
        SpecError: it holds none of the model's parameters.
    """
    held = {id(parameter) for group in _groups(optimizer) for parameter in group["params"]}
    own = {id(parameter) for parameter in model.parameters()}
    if own and not held & own:
        raise SpecError(
            f"none of the optimizer's {len(held)} parameters is one of this {type(model).__name__}'s: was it made for "
            "another model, or before this one was copied?"
        )


def _restore(
    optimizer: Optimizer,
    groups: list[dict[str, Any]],
    before: list[list[nn.Parameter]],
    after: list[list[nn.Parameter]],
    states: dict[nn.Parameter, Any],
) -> None:
    joined = {id(p) for params in after for p in params} - {id(p) for params in before for p in params}
    for group, was, then in zip(groups, before, after, strict=True):
        known = {id(p) for p in (*was, *then)}
        later = [p for p in group["params"] if id(p) not in known]
        group["params"][:] = [*was, *later]
    now = {p: value for p, value in optimizer.state.items() if id(p) not in joined}
    optimizer.state.clear()  # and filled in the order of before
    optimizer.state.update({p: now.get(p, value) for p, value in states.items()} | now)


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    groups = getattr(optimizer, "param_groups", None)
    if groups is None or not hasattr(optimizer, "state"):
        raise SpecError(f"optimizer should have param_groups and state, as torch's have; got {came(optimizer)}")
    return groups


def _home(groups: list[dict[str, Any]], name: str, old: nn.Module) -> dict[str, Any] | None:
    """The group of the layer's first parameter that is in one; None for a layer that the optimizer does not train."""
    parameters = list(old.parameters(recurse=False))
    for parameter in parameters:
        for group in groups:
            if any(parameter is held for held in group["params"]):
                return group
    if parameters:
        return None
    if len(groups) == 1:
        return groups[0]
    raise SpecError(
        f"{name or 'the model'} had no parameter, so that nothing tells which of the {len(groups)} groups its new ones "
        "belong to. Convert without optimizer=, then call optimizer.add_param_group with the `added` of the record"
    )


def check(optimizer: Optimizer, gone: Mapping[str, nn.Parameter], new: Mapping[str, nn.Parameter]) -> None:
    """Compare an optimizer with a converted model.

    Raises:
        SpecError: it holds parameters that the model has no more, or lacks new ones.
    """
    held = {id(parameter) for group in _groups(optimizer) for parameter in group["params"]}
    stale = [name for name, parameter in gone.items() if id(parameter) in held]
    missing = [name for name, parameter in new.items() if parameter.requires_grad and id(parameter) not in held]
    said = [f"holds {_some(stale)}, which the model has no more"] if stale else []
    said += [f"lacks {_some(missing)}, new in the model"] if missing else []
    if said:
        raise SpecError(f"the optimizer {' and '.join(said)}: build it anew, or pass optimizer= to convert")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
