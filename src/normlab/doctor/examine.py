"""Checks all rules on a model."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from normlab.doctor import rules as _rules  # noqa: F401  # pyright: ignore[reportUnusedImport] - fills RULES
from normlab.doctor.base import RULES, NotChecked, Rule
from normlab.doctor.case import Case
from normlab.doctor.findings import Finding, Findings, Unchecked, crash, finding
from normlab.doctor.processes import processes
from normlab.errors import UnknownName, require
from normlab.inputs import Forward, read_batch, usable_device
from normlab.recipes.verify import groups_of

Selection = str | Iterable[str]
Outcome = Finding | Unchecked | None


def doctor(
    model: nn.Module,
    batch: Any = None,
    *,
    optimizer: Any = None,
    scheduler: Any = None,
    loader: Any = None,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    select: Selection | None = None,
    ignore: Selection = (),
) -> Findings:
    """Look for the failures of normalization layers that people report, and say what repairs each.

    Static rules look at the model and what trains it, one-batch rules at a batch that runs through it, in training
    mode, backward and in eval mode; distributed ones compare the processes of torch.distributed, which all have to
    call this. What is missing for a rule, and why, is in the result. The model is left as it was: weights, buffers,
    gradients, training flags and generators of random numbers, whatever happens. It needs the memory of one training
    step and of a copy of the model.

    Args:
        model: also in DDP, compiled, or torch's AveragedModel; a frozen one.
        batch: as in training. A tensor; a tuple, of which as many values are taken as the model's `forward` must have,
            what follows being labels, which are not needed; a dict of keyword arguments; or "8x3x32x32", random
            numbers of that shape, from which rules about data conclude nothing. None takes the loader's first one.
        optimizer: what trains it, SAM too. scheduler: of learning rates.
        loader: what gives the batches: its length and batch size are looked at.
        device: where a copy is run; None is where the model is. The batch is moved there.
        forward: runs the model on a batch, where the above does not fit: lambda model, batch: model(...).
        select: ids or names of rules; None is all. ignore: rules to leave out. Texts may list several, with commas.

    Returns:
        The findings: print them; `exit_code` is 0 without, 1 with findings, 2 where the model could not be run.

    Raises:
        UnknownName: a rule that is none.
        SpecError: not a module, a batch that is none, no optimizer, a device that is not there.
    """
    require(model, nn.Module, "doctor takes a torch module")
    if optimizer is not None:
        groups_of(optimizer)
    chosen = choose(select, ignore)
    where = usable_device(device)
    bare = Case(model)
    inputs = read_batch(bare.model, batch, loader, forward)
    case = Case(
        model,
        inputs,
        optimizer=optimizer,
        scheduler=scheduler,
        loader=loader,
        device=where,
        processes=processes(),
    )
    _exchange(case, chosen)
    outcomes = [(rule, _check(rule, case)) for rule in chosen]
    notes, failed = _notes(case), case.failure
    if case.processes is not None:
        outcomes, failed = _merged(chosen, case.processes.tell(([outcome for _, outcome in outcomes], failed)))
    return Findings(
        _subject(case),
        tuple(found for _, found in outcomes if isinstance(found, Finding)),
        tuple(rule.id for rule, found in outcomes if found is None),
        tuple(found for _, found in outcomes if isinstance(found, Unchecked)),
        notes,
        failed,
        _source(case.model),
    )


def choose(select: Selection | None = None, ignore: Selection = ()) -> list[Rule]:
    """The rules that are asked for, in order.

    Raises:
        UnknownName: an id or name that no rule has.
    """
    wanted = set(RULES) if select is None else _ids(select)
    left_out = _ids(ignore)
    return [rule for id, rule in sorted(RULES.items()) if id in wanted - left_out]


def _ids(selection: Selection) -> set[str]:
    given = selection.split(",") if isinstance(selection, str) else selection
    by_name = {rule.name: id for id, rule in RULES.items()} | {id: id for id in RULES}
    found: set[str] = set()
    for text in (word.strip() for word in given):
        key = text.upper() if text.upper().startswith("NL") else text
        if text and key not in by_name:
            like_id = key.startswith("NL")
            raise UnknownName("rule", text, [known for known in by_name if (known in RULES) == like_id])
        found |= {by_name[key]} if text else set()
    return found


def _exchange(case: Case, chosen: list[Rule]) -> None:
    """What the processes tell each other, all of it at once: a rule that raises in one of them keeps none waiting."""
    if case.processes is None:
        return
    said: dict[str, Any] = {}
    for rule in chosen:
        if rule.collect is not None:
            try:
                said[rule.id] = rule.collect(case)
            except NotChecked as reason:
                said[rule.id] = reason
            except Exception as error:
                said[rule.id] = NotChecked(f"process {case.processes.rank}: {type(error).__name__}: {error}")
    every = case.processes.tell(said)
    for rule in chosen:
        if rule.collect is not None:
            case.told[rule.id] = [told.get(rule.id, NotChecked("not all processes check it")) for told in every]


def _check(rule: Rule, case: Case) -> Outcome:
    reason = case.missing(rule.needs)
    if reason is not None:
        return Unchecked(rule.id, rule.name, reason)
    try:
        for told in case.told.get(rule.id, ()):
            if isinstance(told, NotChecked):
                raise told
        evidence = rule.check(case)
    except NotChecked as said:
        return Unchecked(rule.id, rule.name, str(said))
    except Exception as error:  # of a rule, or of the model in it: the others are checked all the same
        return crash(rule, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    return None if evidence is None else finding(rule, evidence)


def _merged(chosen: list[Rule], every: list[tuple[list[Outcome], str | None]]) -> tuple[Any, str | None]:
    """The outcomes of all processes as one: a finding counts wherever it was made."""
    merged: list[tuple[Rule, Outcome]] = []
    for rule, outcomes in zip(chosen, zip(*(own for own, _ in every), strict=True), strict=True):
        having = [rank for rank, outcome in enumerate(outcomes) if isinstance(outcome, Finding)]
        if not having:
            merged.append((rule, outcomes[0]))
            continue
        found = outcomes[having[0]]
        assert isinstance(found, Finding)
        some = tuple(having) if len(having) < len(outcomes) else ()
        merged.append((rule, replace(found, processes=some)))
    return merged, next((failed for _, failed in every if failed is not None), None)


def _subject(case: Case) -> str:
    kinds = Counter(type(site.module).__name__ for site in case.sites)
    norms = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "no normalization layer"
    parts = [f"{type(case.model).__name__}: {norms}", f"on {case.device}"]
    parts += [str(case.inputs)] if case.inputs is not None else []
    parts += [f"{case.processes.size} processes"] if case.processes is not None else []
    return "; ".join(parts)


def _notes(case: Case) -> tuple[str, ...]:
    notes: list[str] = []
    if not case.sites:
        leaves = (module for module in case.model.modules() if not any(module.children()))
        unknown = sorted({type(leaf).__name__ for leaf in leaves if "norm" in type(leaf).__name__.lower()})
        hint = f"; normlab.register_norm_type makes {unknown[0]} known" if unknown else ""
        notes.append(f"no layer of this model is known to normalize{hint}")
    if case.tried and case.whole.loss:
        notes.append(f"loss: {case.whole.loss}")
    return tuple(notes)


def _source(model: nn.Module) -> tuple[str, int] | None:
    try:
        file = inspect.getsourcefile(type(model))
        return None if file is None else (file, inspect.getsourcelines(type(model))[1])
    except (OSError, TypeError):
        return None
