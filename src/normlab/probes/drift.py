"""How far the values of a parameter have moved from where they were."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from normlab.errors import SpecError
from normlab.probes.base import Probe, Reference, Target, wide

Role = Literal["weight", "bias"]


def drift(value: Tensor, initial: Tensor | float) -> dict[str, Tensor]:
    """What has become of γ - γ₀, or β - β₀, over the channels.

    Returns:
        mean: of the differences; std: theirs, biased; max: the largest |difference|; ratio: the mean of γ/γ₀ over the
            channels that did not start at 0, if there are any. [] each, in units of the parameter, the ratio in none.

    Source: Davis and Frank, arXiv:2110.13989, sec. 3.
    """
    now = wide(value)
    start = torch.as_tensor(initial, dtype=now.dtype, device=now.device).expand_as(now)
    off = now - start
    std, mean = torch.std_mean(off, correction=0)
    found = {"mean": mean, "std": std, "max": off.abs().amax()}
    started = start != 0
    return found | {"ratio": (now[started] / start[started]).mean()} if bool(started.any()) else found


def drift_probe(role: Role, initial: float | None) -> Probe:
    """`drift` of every layer's weight or bias, from `initial` or from its values at the start of the context."""
    if initial is not None and not math.isfinite(initial):
        raise SpecError(f"initial={initial} should be a number, or None for the values at the start")

    def parameter(target: Target) -> Tensor | None:
        return getattr(target.affine(), role)

    def refuses(target: Target) -> str | None:
        try:
            return None if parameter(target) is not None else f"it has no {role} that is trained"
        except SpecError as error:
            return str(error)

    def reference(target: Target) -> Reference:
        value = parameter(target)
        assert value is not None
        return value, value.detach().clone() if initial is None else torch.full_like(value.detach(), initial)

    return Probe(f"{role}_drift", "parameters", lambda _, pair: drift(*pair), refuses, reference)
