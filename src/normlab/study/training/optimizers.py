"""Optimizers by name: `"sgd"`, `"adamw"`, and SAM around one of them."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from normlab.optim import SAM
from normlab.registry import Call, Registry
from normlab.study.objects import guarded

Groups = list[dict[str, Any]]

OPTIMIZERS: Registry[Optimizer] = Registry("optimizer")
_GIVEN = ("groups", "model", "momentum")
_FIRST = "sgd"  # as it is written in the hashes of the first runs, without what came later


@OPTIMIZERS.register("sgd")
def sgd(groups: Groups, model: nn.Module, momentum: float, nesterov: bool = False) -> Optimizer:
    """Stochastic gradient descent with `train.momentum`."""
    del model
    return torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov, fused=True)


@OPTIMIZERS.register("adamw")
def adamw(groups: Groups, model: nn.Module, momentum: float, beta2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    """AdamW: `train.momentum` is its β₁; weight decay is decoupled from the gradient."""
    del model
    return torch.optim.AdamW(groups, betas=(momentum, beta2), eps=eps, fused=True)


@OPTIMIZERS.register("sam")
def sam(
    groups: Groups,
    model: nn.Module,
    momentum: float,
    *,
    rho: float = 0.05,
    scope: Literal["all", "norm", "not_norm"] = "all",
    adaptive: Literal["elementwise", "layerwise"] | None = None,
    p: Literal[2, "inf"] = 2,
    eta: float | None = None,
    normalize_bias: bool = False,
    update_stats: Literal["once", "twice"] = "once",
    base: str = "sgd",
) -> Optimizer:
    """SAM, SAM-ON (scope="norm"), ASAM (adaptive="elementwise") around `base`; see `normlab.optim.SAM`."""
    inner = make_optimizer(base, groups, model, momentum=momentum)
    options: dict[str, Any] = {"adaptive": adaptive, "p": p, "eta": eta}
    return SAM(inner, model, rho, scope=scope, normalize_bias=normalize_bias, update_stats=update_stats, **options)


def make_optimizer(spec: str, groups: Groups, model: nn.Module, *, momentum: float) -> Optimizer:
    """An optimizer for a recipe's groups.

    Args:
        spec: "sgd", "sgd(nesterov=True)", "adamw(beta2=0.95)", "sam(rho=0.5, scope='norm')".
        groups: of `Recipe.param_groups`, each with its rate and decay.
        model: that they are of.

    Raises:
        UnknownName: no such optimizer, or it takes no such argument.
        SpecError: a value that it cannot take; why.
    """
    return guarded(
        lambda: OPTIMIZERS.create(spec, groups=groups, model=model, momentum=momentum), f"optimizer {spec!r}"
    )


@functools.cache
def canonical_optimizer(spec: str, momentum: float) -> str:
    """The spec with its defaults written out, so that equal ones read the same; it has been tried on a small network.

    Raises:
        as `make_optimizer`.
    """
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    groups = [{"params": list(model.parameters()), "lr": 0.1, "weight_decay": 0.0}]
    make_optimizer(spec, groups, model, momentum=momentum)
    call = OPTIMIZERS.parse(spec, given=_GIVEN)
    if call.name == _FIRST:
        return str(Call(_FIRST, {key: value for key, value in call.arguments.items() if value}))
    if "base" in call.arguments:
        inner = canonical_optimizer(call.arguments["base"], momentum)
        return str(Call(call.name, {**call.arguments, "base": inner}))
    return str(call)
