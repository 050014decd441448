"""Checks all rules on a model."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from normlab.doctor import rules as _rules  # noqa: F401  # pyright: ignore[reportUnusedImport] - fills RULES
from normlab.doctor.base import RULES, NotChecked, Rule
from normlab.doctor.case import Case
from normlab.doctor.findings import Finding, Findings, Unchecked, crash, finding
from normlab.doctor.processes import processes
from normlab.errors import SpecError, came, nearest, require
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
        loader: what gives the batches: its length and batch size are looked at. No iterator, unless there is a batch:
            to look at one is to use it up.
        device: where a copy is run; None is where the model is. The batch is moved there.
        forward: runs the model on a batch, where the above does not fit: lambda model, batch: model(...).
        select: ids or names of rules; None is all. ignore: rules to leave out. Texts may list several, with commas.

    Returns:
        The findings: print them; `exit_code` is 0 without, 1 with findings, 2 where the model could not be run.

    Raises:
        SpecError: not a module, or a scripted one, a batch that is none, no optimizer, scheduler or loader, a
            device that is not there, a rule that is none, or none that is left.
    """
    require(model, nn.Module, "doctor takes a torch module")
    _require_what_trains(batch, optimizer, scheduler, loader)
    chosen = choose(select, ignore)
    where = usable_device(device)
    bare = Case(model)
    if isinstance(bare.model, torch.jit.ScriptModule):
        raise SpecError("the layers of a ScriptModule cannot be seen: give the Python model that it was made from")
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
        source_of(type(case.model)),
    )


def _require_what_trains(batch: Any, optimizer: Any, scheduler: Any, loader: Any) -> None:
    if optimizer is not None:
        groups_of(optimizer)
    if scheduler is not None and not callable(getattr(scheduler, "step", None)):
        raise SpecError(f"a scheduler has a method step; got {came(scheduler)}")
    if loader is not None:
        require(loader, Iterable, "a loader of batches, or a list of them, is wanted")
    if batch is None and isinstance(loader, Iterator):
        raise SpecError("the loader is an iterator, which looking at would use up: give a batch, or what made it")


def choose(select: Selection | None = None, ignore: Selection = ()) -> list[Rule]:
    """The rules that are asked for, in order.

    Raises:
        SpecError: an id or name that no rule has, or no rule is left.
    """
    wanted = set(RULES) if select is None else _ids(select)
    left_out = _ids(ignore)
    chosen = [rule for id, rule in sorted(RULES.items()) if id in wanted - left_out]
    if not chosen:
        raise SpecError(f"no rule is left to check with select={came(select)} and ignore={came(ignore)}")
    return chosen


def _ids(selection: Selection) -> set[str]:
    require(selection, Iterable, "rules are chosen by ids or names: 'NL003,NL101' or a list of them")
    given = selection.split(",") if isinstance(selection, str) else selection
    by_name = {rule.name: id for id, rule in RULES.items()} | {id: id for id in RULES}
    found: set[str] = set()
    for word in given:
        require(word, str, "rules are chosen by ids or names: 'NL003,NL101' or a list of them")
        text = word.strip()
        key = text.upper() if text.upper().startswith("NL") else text
        if text and key not in by_name:
            close = nearest(key, [known for known in by_name if (known in RULES) == key.startswith("NL")])
            hint = f"; did you mean {close!r}?" if close else "."
            raise SpecError(f"unknown rule {text!r}{hint} normlab.doctor.RULES has all {len(RULES)}, by id")
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
        if case.lazy is not None:
            return Unchecked(rule.id, rule.name, case.lazy)
        return crash(rule, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    return None if evidence is None else finding(rule, evidence)


def _merged(chosen: list[Rule], every: list[tuple[list[Outcome], str | None]]) -> tuple[Any, str | None]:
    """The outcomes of all processes as one: a finding counts wherever it was made."""
    merged: list[tuple[Rule, Outcome]] = []
    for rule, outcomes in zip(chosen, zip(*(own for own, _ in every), strict=True), strict=True):
        having = [rank for rank, outcome in enumerate(outcomes) if isinstance(outcome, Finding)]
        if not having:
            merged.append((rule, _unchecked(outcomes)))
            continue
        found = outcomes[having[0]]
        assert isinstance(found, Finding)
        some = tuple(having) if len(having) < len(outcomes) else ()
        merged.append((rule, replace(found, processes=some)))
    failures = [failed for _, failed in every]
    return merged, _told(failures)


def _unchecked(outcomes: Sequence[Outcome]) -> Unchecked | None:
    """None if all have checked it."""
    reason = _told([outcome.reason if isinstance(outcome, Unchecked) else None for outcome in outcomes])
    first = next((outcome for outcome in outcomes if isinstance(outcome, Unchecked)), None)
    return None if first is None or reason is None else replace(first, reason=reason)


def _told(texts: Sequence[str | None]) -> str | None:
    """What the processes say, or the first that says something, with its rank where the others say otherwise."""
    if len(set(texts)) == 1:
        return texts[0]
    rank = next(rank for rank, text in enumerate(texts) if text is not None)
    return f"process {rank}: {texts[rank]}"


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
    scripted = [name for name, module in case.model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        notes.append(f"{scripted[0]} is a ScriptModule: the layers in it are not seen")
    if case.tried and case.whole.loss:
        notes.append(f"loss: {case.whole.loss}")
    return tuple(notes)


def source_of(thing: Any) -> tuple[str, int] | None:
    """File and line of a class or function; None for those of installed packages, where nobody looks for a finding."""
    try:
        file = inspect.getsourcefile(thing)
        if file is None or {"site-packages", "dist-packages"} & {*Path(file).parts}:
            return None
        return file, inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):
        return None
