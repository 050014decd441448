"""SAM, ASAM and SAM-ON: steps on a small network or a quadratic, by the codes of their authors and davda54's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normlab.errors import SpecError
from normlab.optim import SAM
from tests.golden import Case
from tests.golden.comparison import Comparison


class Quadratic(nn.Module):
    """½ wᵀ A w + bᵀ w + ½ k |bias|² + cᵀ bias."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        data = {key: torch.tensor(value, dtype=case.dtype) for key, value in case.meta["data"].items()}
        self.a, self.b, self.c = data["A"], data["b"], data["c"]
        self.k = float(re.search(r"1/2\*([\d.]+)\*\|bias\|\^2", case.meta["model"])[1])
        self.weight = nn.Parameter(torch.zeros_like(self.b))
        self.bias = nn.Parameter(torch.zeros_like(self.c))

    def forward(self) -> Tensor:
        w, bias = self.weight, self.bias
        return w @ self.a @ w / 2 + self.b @ w + self.k * bias.square().sum() / 2 + self.c @ bias


def _network(case: Case) -> nn.Sequential:
    """In the order of the stored parameters: matrices are linear layers; vectors batch normalization, then ReLU."""
    shapes = {name.removesuffix(".weight"): p.shape for name, p in case.under("param0").items() if "weight" in name}
    network = nn.Sequential()
    for name, shape in shapes.items():
        network.add_module(name, nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.BatchNorm1d(shape[0]))
        if len(shape) == 1:
            network.add_module(f"{name}_relu", nn.ReLU())
    return network.to(case.dtype)


def _problem(case: Case) -> tuple[nn.Module, Callable[[], Tensor]]:
    """The model with its first values, and the loss."""
    data = case.meta["data"]
    model = Quadratic(case) if "A" in data else _network(case)
    model.load_state_dict({**case.under("param0"), **case.under("buf0")})
    if "A" in data:
        return model, model
    x, t = torch.tensor(data["x"], dtype=case.dtype), torch.tensor(data["t"])
    return model, lambda: nn.functional.cross_entropy(model(x), t)


def _options(case: Case) -> dict[str, Any]:
    """Our arguments for theirs, with the defaults of their constructors."""
    told = case.told
    scope = "norm" if told("only_norm") else "not_norm" if told("no_norm") else "all"
    options = {"rho": told("rho"), "scope": scope, "update_stats": "once" if _frozen(case) else "twice"}
    if case.cls == "SAM" and told("adaptive"):  # davda54's: |w| for every parameter
        return options | {"adaptive": "elementwise", "eta": 0.0, "normalize_bias": True}
    if not case.cls.startswith("ASAM"):
        return options
    options |= {"eta": told("eta", 0.01), "normalize_bias": told("normalize_bias", False)}
    options["p"] = "inf" if told("p", "2") == "infinity" else 2
    if told("elementwise", True):
        return options | {"adaptive": "elementwise"}
    if told("layerwise", False):
        return options | {"adaptive": "layerwise"}
    # T = w, whose square is that of |w|
    return options | ({"adaptive": "elementwise", "eta": 0.0} if options["p"] == 2 else {"adaptive": None})


def _frozen(case: Case) -> bool:
    """Did they keep the running statistics from moving in the second pass?"""
    return "disable_running_stats" in case.meta["origin"]["cls"]


@dataclass(frozen=True)
class Pass:
    """What one call of the closure saw."""

    loss: Tensor
    parameters: dict[str, Tensor]
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def steps(compare: Comparison) -> None:
    """Every step: both losses and gradients, the perturbation, the parameters and buffers after it."""
    case = compare.case
    model, loss_of = _problem(case)
    base = dict(case.meta["base"])
    optimizer = getattr(torch.optim, base.pop("kind"))(model.parameters(), **base)
    options = _options(case)
    compare.used(*(key for key in case.arrays if key.startswith(("param0.", "buf0."))))
    if options.get("p") == "inf" and options["adaptive"] is None:
        compare.note("downhill")
        compare.used(*case.arrays)
        with pytest.raises(SpecError, match="needs adaptive"):
            SAM(optimizer, model, **options)
        return
    sam = SAM(optimizer, model, **options)
    for k in range(len({key.partition(".")[0] for key in case.arrays if re.match(r"s\d+\.", key)})):
        _step(compare, sam, loss_of, k)


def _step(compare: Comparison, sam: SAM, loss_of: Callable[[], Tensor], k: int) -> None:
    passes: list[Pass] = []

    def closure() -> Tensor:
        sam.zero_grad()
        loss = loss_of()
        loss.backward()
        parameters = dict(sam.model.named_parameters())
        gradients = {name: p.grad for name, p in parameters.items()}
        found = ({n: v.detach().clone() for n, v in vs.items()} for vs in (parameters, gradients, _buffers(sam.model)))
        kind = ("grad", "grad_adv")[len(passes)]
        passes.append(Pass(loss.detach(), *found))
        for name, gradient in gradients.items():
            # compared below; rounding alone makes the sign of a gradient that is 0, such as a bias's before a norm
            gradient.copy_(compare.case.tensor(f"s{k}.{kind}.{name}"))
        return loss

    sam.step(closure)
    first, second = passes
    compare.close(f"s{k}.loss", first.loss)
    compare.close(f"s{k}.loss_adv", second.loss)
    epsilon = {name: second.parameters[name] - value for name, value in first.parameters.items()}
    values = {"grad": first.gradients, "eps": epsilon, "grad_adv": second.gradients}
    values |= {"param_after": dict(sam.model.named_parameters())}
    values |= {"buf_after_first": first.buffers, "buf_after": _buffers(sam.model)}
    for kind, ours in values.items():
        for name, value in ours.items():
            if name.endswith("num_batches_tracked") and _frozen(compare.case):
                compare.note("once")
                compare.used(f"s{k}.{kind}.{name}")
                compare.against(f"s{k}.{kind}.{name}", value, k + 1)
            else:
                compare.close(f"s{k}.{kind}.{name}", value)


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_buffers())


CHECKS = dict.fromkeys(("SAM", "ASAM", "SAM_ON", "ASAM_ON"), steps)
"""By class in the original code."""
