"""A case and the layer that should replay it: under which names our layers keep what the case stores."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from normlab.layers.base import NORMS
from tests.golden import Case

ROLES = {
    "gamma": "weight",
    "beta": "bias",
    "alpha": "inner_weight",
    "calib_center": "center_weight",
    "calib_w": "gate_weight",
    "calib_b": "gate_bias",
    "logits_mean": "mean_logits",
    "logits_var": "var_logits",
    "gammas": "weights",
    "betas": "biases",
    "tau": "threshold",
    "eps": "learned_eps",
    "enc": "encoder.weight",
    "dec_gamma": "decode_weight.weight",
    "dec_beta": "decode_bias.weight",
    "r_kernel": "weight",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
    "W": "whitening",
}
"""Role of a parameter, or its name where the case tells no role, → our name."""


@dataclass(frozen=True)
class Claim:
    """A case and the layer that should replay it.

    Args:
        layer: built, with the parameters and buffers of the case, in training mode.
        names: original name of each parameter and buffer → ours, in shapes that `shaped` takes; None: we have none.
        further: arrays of the case that are not of the common format → what we compute for them.
        apart: arrays of the case that are not compared, since they went into the layer or are what nobody wants.
        instead: arrays of the case that normlab does not follow → what it decided to give.
        note: what was decided, one of `DECISIONS`.
    """

    layer: nn.Module
    names: Mapping[str, str | None] = field(default_factory=dict)
    further: Mapping[str, Tensor] = field(default_factory=dict)
    apart: tuple[str, ...] = ()
    instead: Mapping[str, Tensor] = field(default_factory=dict)
    note: str = ""


def our_names(case: Case) -> dict[str, str | None]:
    """Names by role; of parts, such as `bn.running_mean`, the last word; constants that are 0 are none of ours."""
    roles, params = case.meta.get("roles", {}), case.under("param")
    names: dict[str, str | None] = {}
    for name in (*params, *case.under("buf0")):
        last = name.rpartition(".")[2]
        names[name] = ROLES.get(roles.get(name, last), last)
    fixed = (name for name in case.meta.get("frozen_params", ()) if not params[name].any())
    return names | dict.fromkeys(fixed)


def new_layer(norm: str, case: Case, names: Mapping[str, str | None] | None = None, **options: Any) -> nn.Module:
    """A layer of ours by its registered name; with a weight and a bias where the case has them."""
    ours = set((our_names(case) if names is None else names).values())
    importlib.import_module(f"normlab.layers.{norm}")
    given = {"affine": bool({"weight", "bias"} & ours), "bias": "bias" in ours, "dtype": case.dtype}
    return NORMS[norm](case.channels, **{**given, **options})


def claimed(case: Case, layer: nn.Module, names: Mapping[str, str | None] | None = None, **rest: Any) -> Claim:
    """The claim, after the parameters and buffers of the case were put into the layer.

    Each must have its place, and each parameter of ours a value; buffers of ours may be more, such as counters.
    """
    names = our_names(case) if names is None else names
    parameters = dict(layer.named_parameters())
    ours = {**parameters, **dict(layer.named_buffers())}
    stored = {kept: value for name, value in _state(case).items() if (kept := names[name]) is not None}
    assert stored.keys() <= ours.keys(), f"{type(layer).__name__} has no {sorted(stored.keys() - ours.keys())}"
    given = case.expect == "raises" or parameters.keys() <= stored.keys()
    assert given, f"the case has no {sorted(parameters.keys() - stored.keys())}"
    with torch.no_grad():
        for name, value in stored.items():
            ours[name].copy_(shaped(value, ours[name].shape))
    for name in case.meta.get("frozen_params", ()):
        if (kept := names[name]) is not None:
            layer.get_parameter(kept).requires_grad_(False)
    return Claim(layer.train(), names, **rest)


def shaped(value: Tensor, shape: torch.Size) -> Tensor:
    """The value in this shape; [1, C, 1, 1] and [G, C/G] are as good as [C], but [C/G, G] is not as [G, C/G]."""
    a, b = (set(accumulate(lengths, operator.mul)) - {1} for lengths in (value.shape, shape))
    assert value.numel() == shape.numel(), f"{list(value.shape)} instead of {list(shape)}"
    assert a <= b or b <= a, f"{list(value.shape)} instead of {list(shape)}"
    return value.reshape(shape)


def _state(case: Case) -> dict[str, Tensor]:
    return {**case.under("param"), **case.under("buf0")}
