"""Which layer of ours a stored case of a convolution is about: `claim(case)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from normlab.layers.conv_norm import ConvNorm
from normlab.layers.scaled_relu import ScaledReLU
from normlab.layers.scaled_weight_standardized import CONSTANTS, ScaledWeightStandardizedConv2d
from normlab.layers.weight_centered import WeightCenteredConv2d
from normlab.layers.weight_norm import WeightNormConv2d
from normlab.layers.weight_standardized import WeightStandardizedConv2d
from tests.golden import Case
from tests.golden.claim import Claim, claimed

SHAPE = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
ROLES = {
    "weight": "weight",
    "bias": "bias",
    "gain": "gain",
    "r_kernel": "affine_conv.weight",
    "r_bias": "affine_conv.bias",
    "gamma": "batch_norm.weight",
    "beta": "batch_norm.bias",
}
"""Role of a parameter of ConvNorm → our name."""

NAMES = {
    "gamma": "gain",
    "parametrizations.weight.original0": "gain",
    "parametrizations.weight.original1": "weight",
}
"""Name in other codes → our name, of the convolutions that come without roles."""


def claim(case: Case) -> Claim | None:
    """The layer that the case is about, or None where it is about something else."""
    builder = BUILDERS.get(case.meta.get("origin", {}).get("cls", ""))
    if builder is None or case.meta.get("expect", "ok") != "ok":
        return None
    roles = case.meta.get("roles", {})
    layer = builder(case).to(case.dtype)
    stored = (*case.under("param"), *case.under("buf0"))
    names = {name: ROLES[roles[name]] if name in roles else NAMES.get(name, name) for name in stored}
    return claimed(case, layer, names)


def _shape(case: Case) -> dict[str, Any]:
    """The arguments that nn.Conv2d has too; a bias where there is one among the parameters."""
    told = {key: case.meta["ctor"][key] for key in SHAPE if key in case.meta["ctor"]}
    told = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    return {**told, "bias": "param.bias" in case.arrays}


def _eps(case: Case, default: float) -> float:
    told = case.meta["ctor"].get("eps")
    return default if told is None else told


def _scaled(case: Case) -> nn.Module:
    """timm's layer has a `gain` and takes c as gamma, its own number for relu where that is not told; Beyond
    BatchNorm's has a `gamma` and takes c / c_relu as scale_activ."""
    told = case.meta["ctor"]
    if "param.gain" in case.arrays:
        options = {"eps": _eps(case, 1e-6), "constant": float(told.get("gamma", CONSTANTS["relu_timm"]))}
    else:
        constant = CONSTANTS["relu"] * told.get("scale_activ", 1.0)
        options = {"eps": _eps(case, 1e-5), "eps_mode": "std", "constant": constant}
    return ScaledWeightStandardizedConv2d(**_shape(case), **options)


def _conv_norm(case: Case) -> nn.Module:
    told = {key: value for key, value in case.meta["ctor"].items() if key in ("affine", "bn", "momentum")}
    return ConvNorm(**_shape(case), **told, running_V=True)


BUILDERS: dict[str, Callable[[Case], nn.Module]] = {
    "Preconditioned_Conv2d": _conv_norm,
    "ScaledStdConv2d": _scaled,
    "StdConv2d": lambda case: WeightStandardizedConv2d(**_shape(case), eps=_eps(case, 1e-6)),
    "WCConv2d": lambda case: WeightCenteredConv2d(**_shape(case)),
    "WN_self": lambda case: WeightNormConv2d(**_shape(case), eps=_eps(case, 1e-5), eps_mode="norm", initial_gain=1.0),
    "WN_scaledReLU": lambda case: ScaledReLU(),
    "nn.utils.parametrizations.weight_norm": lambda case: WeightNormConv2d(**_shape(case)),
}
"""By class in the original code."""
