"""One forward and backward pass, and what every layer's tensors are in it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import nn

from normlab.errors import SpecError
from normlab.inputs import Inputs, alone, failure_text, loss_of, sandbox, values_of
from normlab.inspect.calls import Calls, watched
from normlab.inspect.layers import Affine, Initial, affine
from normlab.probes import PROBES, Probing, Target, key_of, probe
from normlab.surgery import norm_sites
from normlab.surgery.wrapped import is_compiled

QUANTITIES = (
    "sigma",
    "gradient_factor",
    "large_values",
    "activation_variance",
    "mean_cosine",
    "stable_rank",
    "gradient_norm",
)
_UNDEFINED = {"mean_cosine": "it takes two examples", "activation_variance": "it takes two values per channel"}
_SAID = (  # by each row; by a note on layers that are called more than once
    ".* was measured at no layer",
    "the probes measured nothing",
    "no optimizer of the model has stepped",
)
_CLOSED = ("gradient_factor", "activation_variance", "mean_cosine", "stable_rank")


@dataclass(frozen=True)
class Row:
    """A layer. What cannot be measured is None, and `missing` says why.

    Args:
        name: in `model.named_modules()`, its first one. type: of its class.
        shape: of its input, () where it was not called. calls: in one pass.
        weight, bias: γ and β.
        sigma: σ that it divides by. gradient_factor: |γ|/σ. large_values: share of |x̂| > 6.
        activation_variance, mean_cosine, stable_rank: of its output, behind the activation that takes it directly.
        gradient_norm: |∂L/∂x| of its input, of its output where it does not normalize; size: of how many values.
        lag: of its running mean behind the batch's, in running standard deviations.
        came, went: what came in, or went out, was finite throughout.
        marks: by name of what leaves its healthy range, "low", "high" or "nan".
    """

    name: str
    type: str
    shape: tuple[int, ...] = ()
    calls: int = 0
    weight: Affine | None = None
    bias: Affine | None = None
    sigma: float | None = None
    gradient_factor: float | None = None
    large_values: float | None = None
    activation_variance: float | None = None
    mean_cosine: float | None = None
    stable_rank: float | None = None
    gradient_norm: float | None = None
    size: int = 0
    lag: float | None = None
    came: bool = True
    went: bool = True
    missing: Mapping[str, str] = field(default_factory=dict[str, str])
    marks: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def closed(self) -> bool:
        """γ and β are 0 throughout, as at the end of a residual branch that starts as nothing: what leaves it is 0."""
        pair = [value for value in (self.weight, self.bias) if value is not None]
        return self.weight is not None and all(value.mean == 0 and value.spread == 0 for value in pair)

    def by_depth(self, quantity: str) -> float | None:
        """A quantity as profiles show it: without what is 0 because the layer is closed."""
        value: float | None = getattr(self, quantity)
        return None if value == 0 and self.closed and quantity in _CLOSED else value


@dataclass(frozen=True)
class Ran:
    """What the pass gave.

    Args:
        loss: what was differentiated, in words; "" where there is nothing. vary: the outputs differ between examples.
    """

    loss: str
    vary: bool


def measure(
    model: nn.Module, targets: Sequence[Target], inputs: Inputs, device: torch.device, initial: Initial | None
) -> tuple[list[Row], Ran]:
    """The layers in the order in which they are called, those that are not at the end; and what the pass gave.

    Raises:
        SpecError: the model does not run on the batch.
    """
    sites, compiled = norm_sites(model), is_compiled(model)
    lags = not inputs.made_up
    with sandbox(model, device), alone(sites), watched(targets, lags=lags) as calls, warnings.catch_warnings():
        for text in _SAID:
            warnings.filterwarnings("ignore", message=text, category=UserWarning)
        wanted = {at.name for at in targets}
        probing = probe(model, _measurable(targets), where=lambda name, _: name in wanted, eager=compiled)
        with probing:
            ran = _run(model, inputs, device, calls)
    order = {name: place for place, name in enumerate(calls.seen)}
    last = probing.last
    rows = [_row(at, calls, probing, last, initial) for at in targets]
    return sorted(rows, key=lambda row: order.get(row.name, len(order))), ran


def _measurable(targets: Sequence[Target]) -> list[str]:
    return [name for name in QUANTITIES if any(PROBES.create(name).refuses(at) is None for at in targets)]


def _run(model: nn.Module, inputs: Inputs, device: torch.device, calls: Calls) -> Ran:
    vary: list[bool] = []  # of the model, where `forward` gives the loss alone
    hook = model.register_forward_hook(lambda _, __, outputs: vary.append(_vary(outputs, inputs.size)))
    try:
        with torch.enable_grad():
            outputs = inputs.call(model.train(), device)
            loss, said = loss_of(outputs)
            if loss is not None:
                loss.backward()
        return Ran(said if loss is not None else "", any(vary) or _vary(outputs, inputs.size))
    except Exception as error:
        what = failure_text(error, inputs.size, calls.where)
        hint = "; it may take data of another kind than random numbers" * (inputs.made_up and "scalar type" in what)
        raise SpecError(f"the model does not run on {inputs}: {what}{hint}") from error
    finally:
        hook.remove()


def _vary(outputs: Any, size: int) -> bool:
    """Some output differs between the examples by more than rounding."""
    found = [value.detach() for value in values_of(outputs) if value.dim() and value.numel() and len(value) == size]
    dense = [value.float() for value in found if value.layout == torch.strided]
    return any(bool(((x - x[:1]).abs() > 1e-5 * x.abs().max()).any()) for x in dense)


def _row(
    target: Target,
    calls: Calls,
    probing: Probing,
    last: Mapping[str, float],
    initial: Initial | None,
) -> Row:
    row = Row(target.name, type(target.module).__name__)
    row = replace(row, weight=affine(target, "weight", initial), bias=affine(target, "bias", initial))
    if target.name not in calls.seen:
        return replace(row, missing=dict.fromkeys(QUANTITIES, "the layer was not called"))
    seen = calls.seen[target.name]
    values = {name: last.get(key_of(target.name, name)) for name in QUANTITIES}
    missing = {name: _why(target, name, probing) for name, value in values.items() if value is None}
    for name, value in values.items():
        if name in _UNDEFINED and value is not None and math.isnan(value) and seen.came and seen.went:
            values[name], missing[name] = None, _UNDEFINED[name]
    found: dict[str, Any] = {**vars(seen), **values, "missing": missing}
    return replace(row, **found)


def _why(target: Target, name: str, probing: Probing) -> str:
    said = probing.missing.get(key_of(target.name, name)) or PROBES.create(name).refuses(target)
    return said or "no layer can show it"


def home(model: nn.Module) -> torch.device:
    """Where the model is."""
    return next(chain(model.parameters(), model.buffers()), torch.empty(0)).device
