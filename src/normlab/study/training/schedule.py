"""Learning rates by epoch, in closed form, so that a resumed run needs no state of a scheduler."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from normlab.errors import SpecError
from normlab.study.job import TrainSpec

_DEFAULTS = {name: field.default for name, field in TrainSpec.model_fields.items()}
_BELONGS = {"milestones": "steps", "step_factor": "steps", "eta_min": "cosine"}


def check_schedule(train: TrainSpec) -> None:
    """Refuse milestones that cannot be reached, and options of another schedule, which would have no effect.

    Raises:
        SpecError: says which.
    """
    for key, schedule in _BELONGS.items():
        if train.schedule != schedule and getattr(train, key) != _DEFAULTS[key]:
            raise SpecError(
                f"train.{key} = {getattr(train, key)} has no effect with schedule = {train.schedule!r}: leave it out, "
                f"or write schedule = {schedule!r}"
            )
    if train.schedule != "steps":
        return
    if not train.milestones:
        raise SpecError("train.schedule = 'steps' needs milestones, the epochs after which the rate falls: [60, 120]")
    if train.milestones != sorted(set(train.milestones)):
        raise SpecError(f"train.milestones = {train.milestones} should rise")
    if train.milestones[-1] >= train.epochs:
        raise SpecError(f"train.milestones = {train.milestones} should be below train.epochs = {train.epochs}")


def check_floor(optimizer: Optimizer, train: TrainSpec) -> None:
    """Refuse a floor above what a group starts at: its rate would grow.

    Raises:
        SpecError: says which group.
    """
    for group in optimizer.param_groups:
        if train.schedule == "cosine" and 0 < group["lr"] < train.eta_min:
            raise SpecError(
                f"train.eta_min = {train.eta_min:g} is a floor for all groups, and {group.get('name', 'one')} starts "
                f"at {group['lr']:g}: its rate would grow; eta_min = 0, or at most {group['lr'] / 10:g}"
            )


def set_lr(optimizer: Optimizer, train: TrainSpec, epoch: int) -> None:
    """Each group's learning rate for a whole epoch (0-based), from its own `initial_lr`.

        cosine    eta_min + (lr - eta_min) (1 + cos(π epoch / epochs)) / 2
        steps     lr · step_factor ^ (milestones reached)

    Source: Davis and Frank, official code: CosineAnnealingLR(T_max=epochs, eta_min=1e-8); torch's MultiStepLR.
    """
    for group in optimizer.param_groups:
        start = group.setdefault("initial_lr", group["lr"])
        if train.schedule == "cosine":
            half = (1 + math.cos(math.pi * epoch / train.epochs)) / 2
            group["lr"] = train.eta_min + (start - train.eta_min) * half
        elif train.schedule == "steps":
            reached = sum(milestone <= epoch for milestone in train.milestones)
            group["lr"] = start * train.step_factor**reached


def lr_share(optimizer: Optimizer) -> float:
    """The learning rate now, as a share of the first one."""
    group = optimizer.param_groups[0]
    return group["lr"] / group["initial_lr"]
