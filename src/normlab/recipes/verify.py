"""Finds what undoes a recipe's learning rates: schedulers, trainers, optimizers made before surgery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from normlab.errors import SpecError, came
from normlab.recipes.attach import follows_rules
from normlab.recipes.groups import cover_faults
from normlab.recipes.simulate import simulate
from normlab.recipes.wrapped import bare

FLOORS = ("eta_min", "lr_min")  # torch's cosine schedulers, timm's
MATERIAL = 0.1  # of a group's largest rate; half a cosine with the official code's eta_min=1e-8 stays far below

Groups = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Finding:
    """Something that undoes the recipe.

    Args:
        rule: what it is about: "groups", "parameters", "rates", "eta_min", "scheduler" or "gradients".
        message: what is wrong, with numbers.
        instead: what to pass or call instead.
    """

    rule: str
    message: str
    instead: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}. Instead: {self.instead}"


def groups_of(optimizer_or_groups: object) -> list[dict[str, Any]]:
    """The groups of an optimizer, of what wraps one, or as they are.

    Raises:
        SpecError: something else.
    """
    groups = getattr(optimizer_or_groups, "param_groups", optimizer_or_groups)
    listed: list[Any] = list(groups) if isinstance(groups, Iterable) else [groups]
    if not all(isinstance(group, dict) for group in listed):
        raise SpecError(
            f"an optimizer, or groups made by recipe.param_groups, are wanted; got {came(optimizer_or_groups)}"
        )
    return listed


def divisors(groups: Groups) -> list[float]:
    """By what the learning rate of each group is divided.

    Raises:
        SpecError: groups that no recipe made.
    """
    missing = sum("lr_divisor" not in group for group in groups)
    if missing or not groups:
        raise SpecError(
            f"{missing} of {len(groups)} groups do not say their lr_divisor: recipe.param_groups makes groups that do"
        )
    return [float(group["lr_divisor"]) for group in groups]


def find(
    optimizer: object, scheduler: object | None, model: nn.Module | None, *, lr_divisor: float, factor: float
) -> tuple[Finding, ...]:
    """All findings. Groups that are not the recipe's end the search: there is nothing to compare rates with."""
    groups = groups_of(optimizer)
    found = [] if model is None else _check_parameters(groups, bare(model))
    if foreign := _check_groups(groups, lr_divisor, factor):
        return (*found, foreign)
    undone = [] if scheduler is None else _check_scheduler(groups, scheduler)
    found += undone or _check_rates(groups)  # what a scheduler does explains the rates of now
    if any(group.get("max_norm") is not None for group in groups) and not follows_rules(optimizer):
        instead = "normlab.recipes.attach_rules(optimizer, model), once"
        found.append(Finding("gradients", "some layers want their gradients clipped, and nothing does it", instead))
    return tuple(found)


def _check_parameters(groups: Groups, model: nn.Module) -> list[Finding]:
    wrong = cover_faults(model, groups)
    if not wrong:
        return []
    shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
    return [
        Finding(
            "parameters",
            f"the optimizer does not train this model as it is now: {shown}. It may have been made before surgery, "
            "prepare, or a change of requires_grad",
            "convert and prepare first, then make the optimizer; or convert(..., optimizer=optimizer)",
        )
    ]


def _check_groups(groups: Groups, lr_divisor: float, factor: float) -> Finding | None:
    wanted = {"norm_scale": lr_divisor, "norm_shift": 1 / factor}
    own = "optimizer(recipe.param_groups(model, lr=..., weight_decay=...)); "
    own += "HF Trainer builds groups of its own unless it is given optimizers=(optimizer, scheduler)"
    if not all("lr_divisor" in group for group in groups):
        message = f"none or not all of the {len(groups)} groups were made by recipe.param_groups"
        return Finding("groups", f"{message}, so that scales learn and decay like everything else", own)
    for group in groups:
        name = group.get("name", "")
        if name in wanted and group["lr_divisor"] != wanted[name]:
            message = f"{name} learns at lr / {group['lr_divisor']:g}, and this recipe wants lr / {wanted[name]:g}"
            return Finding("groups", f"{message}: the groups are another recipe's", own)
        if group.get("weight_decay") and name in ("norm_scale", "norm_shift", "no_decay"):
            return Finding("groups", f"{name} decays, by {group['weight_decay']:g}", own)
    return None


def _check_rates(groups: Groups) -> list[Finding]:
    starts = [float(group.get("initial_lr", group["lr"])) for group in groups]
    rates = [float(group["lr"]) for group in groups]
    for key, values in (("initial_lr", starts), ("lr", rates)):
        if fault := _fault(groups, values, starts):
            message = f"{fault} ({key} of the optimizer)"
            instead = (
                "make optimizer and scheduler anew; what sets one rate for all groups (OneCycleLR does so when it "
            )
            return [Finding("rates", message, f"{instead}is made, some trainers too) should get {_max_lr(groups)}")]
    return []


def _check_scheduler(groups: Groups, scheduler: Any) -> list[Finding]:
    theirs = getattr(getattr(scheduler, "optimizer", None), "param_groups", None)
    if theirs is not None and list(map(id, theirs)) != list(map(id, groups)):
        instead = "make the scheduler with this optimizer, after it"
        return [Finding("scheduler", f"{type(scheduler).__name__} drives another optimizer", instead)]
    if floor := _check_floor(groups, scheduler):
        return [floor]
    history = simulate(scheduler)
    if isinstance(history, str):
        instead = "compare the groups' rates yourself, as training goes on"
        return [Finding("scheduler", f"{type(scheduler).__name__} cannot be tried on a copy: {history}", instead)]
    peaks = [max(rates) for rates in zip(*history, strict=True)]
    for step, rates in enumerate(history):
        if fault := _fault(groups, rates, peaks):
            instead = f"a scheduler that multiplies each group's own rate, or {_listed(groups, scheduler)}"
            return [Finding("scheduler", f"{type(scheduler).__name__} at step {step}: {fault}", instead)]
    return []


def _check_floor(groups: Groups, scheduler: Any) -> Finding | None:
    smallest = min(groups, key=lambda group: float(group.get("initial_lr", group["lr"])))
    rate = float(smallest.get("initial_lr", smallest["lr"]))
    if len(set(divisors(groups))) == 1:
        return None
    for part in (scheduler, *getattr(scheduler, "_schedulers", ())):
        for key in FLOORS:
            floor = getattr(part, key, None)
            if isinstance(floor, (int, float)) and floor > MATERIAL * rate:
                name = smallest.get("name", "a group")
                return Finding(
                    "eta_min",
                    f"{type(part).__name__}({key}={floor:g}) is a floor for all groups, and {name} starts at {rate:g}: "
                    f"it {'hardly decays' if floor <= rate else 'grows instead of decaying'}",
                    f"{key}=0, or at most {MATERIAL * rate:g}",
                )
    return None


def _fault(groups: Groups, rates: Sequence[float], peaks: Sequence[float]) -> str | None:
    """The first group whose rate is not that of the reference group over its divisor, in words."""
    shares = divisors(groups)
    reference = _reference(shares)
    for group, rate, share, peak in zip(groups, rates, shares, peaks, strict=True):
        wanted = rates[reference] * shares[reference] / share
        if abs(rate - wanted) > MATERIAL * max(min(peak, peaks[reference] * shares[reference] / share), 1e-30):
            name, other = group.get("name", "a group"), groups[reference].get("name", "the first group")
            return f"{name} learns at {rate:g} where {other} does at {rates[reference]:g}, and should at {wanted:g}"
    return None


def _max_lr(groups: Groups) -> str:
    shares = divisors(groups)
    reference = _reference(shares)
    group = groups[reference]
    peak = float(group.get("max_lr", group.get("initial_lr", group["lr"]))) * shares[reference]
    listed = ", ".join(f"{peak / share:g}" for share in shares)
    return f"max_lr=recipe.max_lr(optimizer, {peak:g}), which is [{listed}]"


def _listed(groups: Groups, scheduler: Any) -> str:
    if type(scheduler).__name__ in ("OneCycleLR", "CyclicLR"):
        return _max_lr(groups)
    return f"a list with a value for each group, in the ratio {[1 / share for share in divisors(groups)]}"


def _reference(shares: Sequence[float]) -> int:
    """The group that the others are compared with: the first at the full rate."""
    return next((i for i, share in enumerate(shares) if share == 1), 0)
