"""Tries a learning rate scheduler on a copy."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

MOST_STEPS = 10_000
SHORTEST = 100
_LENGTHS = ("total_steps", "T_max", "T_0", "total_iters", "t_initial", "step_size", "total_size")


def simulate(scheduler: Any) -> list[list[float]] | str:
    """The learning rates of all groups at each step from now on; nothing of the scheduler's own is touched.

    The copy drives an optimizer of one-element parameters with the same groups. It runs to the end of the schedule as
    far as that can be told, but not beyond 10,000 steps; on a plateau the metric gets worse and worse.

    Returns:
        [steps][groups], or why it could not be done.
    """
    try:
        original = scheduler.optimizer
        stand_in = _stand_in(original)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = copy.deepcopy(scheduler, {id(original): stand_in})
            return _run(trial, stand_in)
    except Exception as error:  # whatever somebody else's scheduler does when copied or stepped is an answer here
        return f"{type(error).__name__}: {error}"


def _stand_in(original: Any) -> torch.optim.Optimizer:
    groups = [
        {**{key: copy.deepcopy(value) for key, value in group.items() if key != "params"}, "params": [torch.zeros(1)]}
        for group in original.param_groups
    ]
    stand_in = torch.optim.SGD(groups, lr=0.0)
    stand_in.defaults.update(original.defaults)
    return stand_in


def _run(trial: Any, stand_in: torch.optim.Optimizer) -> list[list[float]]:
    history = [_rates(stand_in)]
    steps = _length(trial)
    for step in range(1, steps):
        if isinstance(trial, ReduceLROnPlateau):
            trial.step(step if trial.mode == "min" else -step)
        elif isinstance(trial, LRScheduler):
            trial.step()
        else:
            trial.step(step)  # timm's take the number of the epoch
        history.append(_rates(stand_in))
    return history


def _rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def _length(trial: Any) -> int:
    """Steps until the schedule repeats or ends: of the parts together, where it has parts."""
    parts = getattr(trial, "_schedulers", ())
    known = [getattr(trial, name, None) for name in _LENGTHS]
    known += [value + 1 for value in getattr(trial, "milestones", ())]
    found = max((int(value) for value in known if isinstance(value, (int, float)) and math.isfinite(value)), default=0)
    left = int(trial.total_steps) - trial.last_epoch if hasattr(trial, "total_steps") else MOST_STEPS
    if isinstance(trial, ReduceLROnPlateau):
        found = 50 * (trial.patience + trial.cooldown + 1)
    whole = max(found, sum(_length(part) for part in parts), 0 if found and not parts else SHORTEST)
    return max(1, min(whole, left, MOST_STEPS))
