"""Switchable Norm and its sparse variant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from normlab.functional.sparsest import sparsestmax
from tests.golden import Case
from tests.golden.claim import Claim, claimed, new_layer
from tests.golden.claims.batch import running

KEEP = {"SwitchNorm1d": 0.997, "SwitchNorm2d": 0.9, "SwitchNorm3d": 0.997, "SSN2d": 0.997}
"""Default share that the running statistics keep; they start at 0, the variance too."""

Weights = Callable[[Tensor], Tensor]


def _switch(case: Case) -> Claim:
    layer = _layer(case, moving=case.told("using_moving_average", True))
    if case.expect == "nan":
        return claimed(case, layer, instead=exact_numbers(case, lambda z: z.softmax(0)), note="switch_1x1")
    if layer.moving_average:
        return claimed(case, layer)
    return claimed(case, layer, instead={"y_eval": _divided(case)}, note="batch_average")


def _layer(case: Case, moving: bool) -> Any:
    """The authors' 1-D code has no instance part."""
    return new_layer(
        "switch",
        case,
        variance=_variance(case),
        using_in=case.cls != "SwitchNorm1d",
        using_bn=case.told("using_bn", True),
        moving_average=moving,
        last=case.told("last_gamma", False),
        running_init=(0.0, 0.0),
        **running(case, KEEP[case.cls]),
    )


def _variance(case: Case) -> str:
    """The authors', but where they have none."""
    return "official" if case.expect == "ok" else "exact"


def _divided(case: Case) -> Tensor:
    """y_eval of a layer that keeps the averages of which the case stores the sums over its one batch."""
    layer = _layer(case, moving=True)
    claimed(case, layer)
    mean = case.tensor("buf1.running_mean").flatten()
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(case.tensor("buf1.running_var").flatten() - mean.square())
    with torch.no_grad():
        return layer.eval()(case.tensor("x_eval"))


def _sparse(case: Case) -> Claim:
    common = {**running(case, KEEP[case.cls]), "running_init": (0.0, 0.0)}
    layer: Any = new_layer("sparse_switch", case, variance=_variance(case), **common)
    claim = claimed(case, layer)
    selections = {"p_mean": layer.mean_logits, "p_var": layer.var_logits}
    further = {key: sparsestmax(z.detach(), layer.radius) for key, z in selections.items() if key in case.arrays}
    if case.expect == "nan":
        instead = exact_numbers(case, lambda z: sparsestmax(z, layer.radius))
        return replace(claim, further=further, instead=instead, note="switch_1x1")
    return replace(claim, further=further)


def exact_numbers(case: Case, weights: Weights) -> dict[str, Tensor]:
    """What exact variances give for the arrays of a case, by autograd on the formulas of the paper."""
    roles = case.meta.get("roles", {})
    params = {name: value.requires_grad_() for name, value in case.by_role("param").items()}
    x = case.tensor("x").requires_grad_()
    batch = torch.stack([x.transpose(0, 1).flatten(1).mean(1), x.transpose(0, 1).flatten(1).var(1, correction=0)])
    y = _blended(case, params, weights, x, batch)
    y.backward(case.tensor("dy"))
    found = {"y_train": y.detach(), "dx": x.grad}
    found |= {f"grad.{name}": params[roles.get(name, name)].grad for name in case.under("param")}
    names = [name for name in ("running_mean", "running_var") if f"buf1.{name}" in case.arrays]
    if names:
        keep = case.told("momentum", case.told("keep_momentum", KEEP[case.cls]))
        before = torch.stack([case.tensor(f"buf0.{name}").flatten() for name in names])
        batch = keep * before + (1 - keep) * batch.detach()
        found |= {f"buf1.{name}": value for name, value in zip(names, batch, strict=True)}
    found["y_eval"] = _blended(case, params, weights, case.tensor("x_eval"), batch).detach()
    return {array: value for array, value in found.items() if array in case.arrays and value is not None}


def _blended(case: Case, params: dict[str, Tensor], weights: Weights, x: Tensor, batch: Tensor) -> Tensor:
    """γ (x - Σ p_k μ_k) / √(Σ q_k σ²_k + eps) + β, with `batch` for the batch's mean and variance."""
    maps, whole = x.reshape(*x.shape[:2], -1), x.flatten(1)
    parts = [] if case.cls == "SwitchNorm1d" else [(maps.mean(2), maps.var(2, correction=0))]
    parts.append((whole.mean(1, keepdim=True), whole.var(1, correction=0, keepdim=True)))
    parts += [(batch[0], batch[1])] * case.told("using_bn", True)
    p, q = weights(params["logits_mean"]), weights(params["logits_var"])
    mean = sum(weight * part[0] for weight, part in zip(p, parts, strict=True))
    var = sum(weight * part[1] for weight, part in zip(q, parts, strict=True))
    xhat = (maps - mean[..., None]) * torch.rsqrt(var + case.eps())[..., None]
    gamma, beta = (params[role].reshape(-1, 1) for role in ("gamma", "beta"))
    return (gamma * xhat + beta).view_as(x)


def _exact(case: Case) -> Claim:
    return claimed(case, new_layer("switch", case, **running(case)))


LAYERS = {
    **dict.fromkeys(("SwitchNorm1d", "SwitchNorm2d", "SwitchNorm3d"), _switch),
    "SSN2d": _sparse,
    "sn_exact": _exact,
}
"""By class in the original code; by kind for formulas."""
