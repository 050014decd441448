"""The line that makes an optimizer anew, for fixes."""

from __future__ import annotations

import inspect
from typing import Any

from normlab.recipes.verify import groups_of

_WRAPPED = ("base", "base_optimizer", "optimizer")  # in normlab's SAM, in that of others, in accelerate's wrapper


def remade(optimizer: Any) -> str:
    """Of its class, with its rate, decay and other values, over the groups of a recipe that decays weights alone."""
    groups = groups_of(optimizer)
    rates = [float(group.get("initial_lr", group["lr"])) for group in groups if "lr" in group]
    decay = max((float(group.get("weight_decay") or 0) for group in groups), default=0.0)
    rate = f"{max(rates):g}" if rates else "..."
    made = f'normlab.recipe("baseline").param_groups(model, lr={rate}, weight_decay={decay:g})'
    inner = next((getattr(optimizer, name) for name in _WRAPPED if hasattr(optimizer, name)), optimizer)
    if not hasattr(inner, "param_groups"):
        return f"groups = {made}"
    start = "optimizer = " if inner is optimizer else f"inside {type(optimizer).__name__}: "
    return f"{start}{type(inner).__name__}({', '.join([made, *_others(inner)])})"


def _others(optimizer: Any) -> list[str]:
    """Arguments other than rate and decay that are not the default."""
    given: dict[str, Any] = getattr(optimizer, "defaults", {})
    wanted = inspect.signature(type(optimizer)).parameters.items()
    return [
        f"{name}={given[name]!r}"
        for name, parameter in wanted
        if name in given and name not in ("lr", "weight_decay") and given[name] != parameter.default
    ]
