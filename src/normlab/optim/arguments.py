"""Refuses what SAM cannot be made of."""

from __future__ import annotations

import inspect
import math
from typing import Literal, get_args

from torch import nn
from torch.optim import Optimizer

from normlab.errors import SpecError, UnknownName
from normlab.optim.perturbation import Adaptive, P
from normlab.optim.scope import Scope
from normlab.optim.wrapper import Wrapper

UpdateStats = Literal["once", "twice"]


def check_wrapped(optimizer: object, model: object) -> None:
    """Refuse what is no optimizer, one that calls a closure itself, and what is no model."""
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, Wrapper):
        got = optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__
        raise SpecError(
            f"SAM takes a plain optimizer, not {got}: SAM(torch.optim.SGD(model.parameters(), lr=0.1), model)"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise SpecError(
            f"{type(optimizer).__name__} evaluates the model itself in each step; SAM takes one that does not"
        )
    if not isinstance(model, nn.Module):
        raise SpecError(f"SAM takes the model whose parameters the optimizer holds, not {type(model).__name__}")
    if any(cls.__name__ == "FullyShardedDataParallel" for module in model.modules() for cls in type(module).__mro__):
        raise SpecError(
            "FullyShardedDataParallel flattens parameters, so that norms and joint lengths are lost: shard with "
            "torch.distributed.fsdp.fully_shard, which keeps them"
        )


def check_names(*, scope: object, adaptive: object, p: object, update_stats: object) -> None:
    """Refuse names that are not among those known."""
    for kind, value, known in (
        ("scope", scope, get_args(Scope)),
        ("adaptive", adaptive, (*get_args(Adaptive), None)),
        ("p", p, get_args(P)),
        ("update_stats", update_stats, get_args(UpdateStats)),
    ):
        if value not in known:
            raise UnknownName(f"{kind} of SAM", value, map(str, known))


def check_numbers(*, rho: object, eta: object) -> None:
    """Refuse what is no number, negative, infinite or NaN."""
    for name, value in (("rho", rho), ("eta", eta)):
        if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise SpecError(f"{name}={value!r} should be a number, 0 or more")


def check_adaptive(*, adaptive: object, p: object, eta: object, normalize_bias: bool) -> None:
    """Refuse options of ASAM where SAM was asked for."""
    given = [f"eta={eta}"] * (eta is not None) + ["normalize_bias=True"] * normalize_bias + ["p='inf'"] * (p == "inf")
    if adaptive is None and given:
        why = ", with which the authors' code goes downhill for negative weights" if p == "inf" else ""
        raise SpecError(f"{given[-1]} needs adaptive='elementwise' or 'layerwise'; got adaptive=None{why}")
