"""Processes that see other data than process 0, whose statistics are kept."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normlab.doctor.base import Evidence, NotChecked, rule
from normlab.doctor.case import Case
from normlab.doctor.layers import count, synced, uses_batch

NOTABLE, SURE = 0.25, 3.0


class Moments(NamedTuple):
    """Of one process's batch, [C] each: mean, biased variance, variance of the mean; values per channel."""

    mean: Tensor
    var: Tensor
    error: Tensor
    values: int


def told(case: Case) -> tuple[float, dict[str, Moments]]:
    """The sum of all weights, to tell whether they are the same, and by name the moments of what reaches a norm."""
    if case.inputs is None or case.inputs.made_up:
        raise NotChecked("it takes data of each process: give a batch or a loader")
    if not case.inputs.finite:
        raise NotChecked("there are NaN or infinite values in the batch")
    found: dict[str, Moments] = {}
    for call in case.training.calls:
        if uses_batch(call.site) and call.mean is not None and call.var is not None and call.spread is not None:
            error = call.spread / call.shape[0]
            found.setdefault(call.site.name, Moments(call.mean.cpu(), call.var.cpu(), error.cpu(), call.values))
    return float(sum(p.detach().double().abs().sum() for p in case.model.parameters())), found


@rule(
    "NL113",
    "ranks-see-other-data",
    kind="distributed",
    level="warning",
    why="without synchronized norms the statistics that DDP keeps are those of process 0 alone: if its part of the "
    "data is not like the others', eval mode normalizes by the wrong population",
    fix='normlab.convert(model, "batch(sync=True)"), or normlab.sync_stats(model) before evaluating and saving',
    thread="pytorch/pytorch#22095",
    needs=("processes", "data"),
    collect=told,
)
def ranks_data(case: Case) -> Evidence | None:
    """How far the means of process 0 are from those of all, against what chance would do."""
    weights: list[float] = [one[0] for one in case.told["NL113"]]
    every: list[dict[str, Moments]] = [one[1] for one in case.told["NL113"]]
    if len(set(weights)) > 1:
        raise NotChecked("the processes have different weights, so that their activations differ anyway")
    free = [s.name for s in case.sites if uses_batch(s) and case.trains[s.name] and not synced(s)]
    shifts = {n: _shift([one[n] for one in every]) for n in free if all(n in one for one in every)}
    found = {name: shift for name, (shift, chance) in shifts.items() if shift > max(NOTABLE, SURE * chance)}
    if not found:
        return None
    worst = max(found, key=lambda name: found[name])
    text = f"the means of process 0 are not those of all in {count(len(found))}: off by {found[worst]:.2g} standard "
    text += f"deviations in {worst or 'the model'}"
    return Evidence(text, tuple(found), {"shift": found[worst]})


def _shift(parts: list[Moments]) -> tuple[float, float]:
    """rms over the channels of the distance, and of its standard error, in standard deviations of all values."""
    weights = torch.tensor([float(part.values) for part in parts])
    weights = weights / weights.sum()
    means, variances = torch.stack([p.mean for p in parts]), torch.stack([p.var for p in parts])
    mean = torch.einsum("p,pc->c", weights, means)
    var = torch.einsum("p,pc->c", weights, variances + (means - mean).square()).clamp(min=1e-30)
    error = torch.einsum("p,pc->c", weights.square(), torch.stack([p.error for p in parts]))
    return tuple(float((x / var).mean().sqrt()) for x in ((means[0] - mean).square(), parts[0].error + error))  # pyright: ignore
